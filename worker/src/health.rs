//! The worker's own small HTTP server, which tells whether the worker is alive and ready, and serves its metrics.

use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusHandle;
use poem::{Endpoint, EndpointExt, Response, Route, get, handler, http::StatusCode, web::Data};
use postrider_core::database::ping;
use sqlx::PgPool;

/// The routes of the health server; `metrics` is served where it is recorded.
#[must_use]
pub fn routes(pool: PgPool, metrics: Option<PrometheusHandle>) -> impl Endpoint {
    Route::new()
        .at("/health/live", get(live))
        .at("/health/ready", get(ready))
        .at("/metrics", get(render))
        .data(pool)
        .data(Arc::new(metrics))
}

#[handler]
fn live() -> &'static str {
    "live\n"
}

/// Ready while the database answers, because without it nothing can be claimed.
#[handler]
async fn ready(pool: Data<&PgPool>) -> Response {
    match ping(pool.0).await {
        Ok(()) => "ready\n".into(),
        Err(_) => Response::builder().status(StatusCode::SERVICE_UNAVAILABLE).body("the database is not reachable\n"),
    }
}

#[handler]
fn render(metrics: Data<&Arc<Option<PrometheusHandle>>>) -> Response {
    let text = metrics.as_ref().as_ref().map(PrometheusHandle::render).unwrap_or_default();
    Response::builder().content_type("text/plain; version=0.0.4").body(text)
}
