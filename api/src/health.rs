//! `/health` and `/metrics`: whether the api is alive, whether it is ready, and what it has counted.

use poem_openapi::{ApiResponse, OpenApi, payload::PlainText};
use postrider_core::database::ping;

use crate::{
    app::{App, Tag},
    config::Dashboard,
    serve::problem::ApiError,
};

/// The routes by which an operator watches the process. They need no key, and show nothing of any tenant.
pub struct HealthApi(pub App);

/// The answer with the metrics.
#[derive(Debug, ApiResponse)]
pub enum MetricsResponse {
    /// The metrics, one line each.
    #[oai(status = 200, content_type = "text/plain; version=0.0.4")]
    Metrics(PlainText<String>),
}

/// Where to begin.
#[derive(Debug, ApiResponse)]
pub enum HomeResponse {
    /// There.
    #[oai(status = 302)]
    Found(
        /// The path. It is relative, so that it leads right below any path of a proxy.
        #[oai(header = "Location")]
        String,
    ),
}

#[OpenApi(tag = "Tag::Health")]
impl HealthApi {
    /// The way to the dashboard, or else to the documentation.
    #[oai(path = "/", method = "get", hidden = true)]
    async fn home(&self) -> HomeResponse {
        let path = match self.0.dashboard {
            Dashboard::On => "ui/",
            Dashboard::Off => "swagger",
        };
        HomeResponse::Found(path.to_owned())
    }

    /// Say whether the process is alive
    ///
    /// Answers as long as the process runs, whatever the database does. It wants no key.
    #[oai(path = "/health/live", method = "get", operation_id = "live")]
    async fn live(&self) -> PlainText<&'static str> {
        PlainText("live\n")
    }

    /// Say whether the process can do its work
    ///
    /// 200 while the database answers, 503 while it does not. It wants no key.
    #[oai(path = "/health/ready", method = "get", operation_id = "ready")]
    async fn ready(&self) -> Result<PlainText<&'static str>, ApiError> {
        ping(&self.0.pool).await?;
        Ok(PlainText("ready\n"))
    }

    /// Show the metrics
    ///
    /// In the Prometheus text format. It wants no key.
    #[oai(path = "/metrics", method = "get", operation_id = "metrics")]
    async fn metrics(&self) -> MetricsResponse {
        let text = self.0.metrics.as_ref().map(metrics_exporter_prometheus::PrometheusHandle::render);
        MetricsResponse::Metrics(PlainText(text.unwrap_or_default()))
    }
}
