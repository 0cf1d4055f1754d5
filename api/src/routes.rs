//! All routes together, and what every request and every answer passes through: a content type where the request has
//! none, a time limit, security headers, and a problem for each answer that is not a success.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, OnceLock},
    time::{Duration, Instant},
};

use poem::{
    Endpoint, EndpointExt, IntoEndpoint, Request, Response,
    error::MethodNotAllowedError,
    http::{HeaderName, HeaderValue, Method, Uri, header},
    middleware::CatchPanic,
};
use poem_openapi::OpenApiService;
use postrider_core::trust::provider::Provider;
use traces::Traces;

use crate::{
    access::{auth::Authenticator, ingest_limits::LimitStates},
    api_keys::ApiKeysApi,
    app::App,
    audit_log::AuditLogApi,
    config::Dashboard,
    counts,
    dead_letters::DeadLettersApi,
    deliveries::DeliveriesApi,
    demo::DemoApi,
    emitters::EmittersApi,
    events::{EventsApi, ingest::IngestApi},
    health::HealthApi,
    jobs::JobsApi,
    live::LiveApi,
    portal_links::PortalLinksApi,
    processes::ProcessesApi,
    replays::ReplaysApi,
    serve::{
        body::PayloadBytesMax,
        body_room::{BodyProgress, BodyRoom},
        document, idempotency, pages,
        problem::ApiError,
        request_trace::RequestTrace,
    },
    stats::StatsApi,
    subscriptions::{SubscriptionsApi, sample::SamplesApi, secrets::SecretsApi},
    tenants::TenantsApi,
    ui,
};

/// A request is answered within this time, in which its body has to arrive too.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Routes that read only the path of a request, so nothing else of it can be wrong.
const WITHOUT_INPUT: [&str; 3] = ["/health/live", "/health/ready", "/metrics"];

/// The headers that handlers read, of which each may stand in a request once, as text.
static READ_ONCE: LazyLock<Vec<(&str, HeaderName)>> = LazyLock::new(|| {
    let ours = [idempotency::HEADER, "X-Event-Type", "X-Ordering-Key", "Content-Type", "Content-Encoding"];
    let of_providers = Provider::ALL.map(Provider::header);
    // `Authorization` is compared as a whole, so whatever else it may be, it is a wrong key.
    let all = ours.into_iter().chain(of_providers.into_iter().filter(|name| *name != "Authorization"));
    all.map(|name| (name, name.parse().expect("these are names of headers"))).collect()
});

type Apis = (
    IngestApi,
    SubscriptionsApi,
    SecretsApi,
    SamplesApi,
    EventsApi,
    DeliveriesApi,
    DeadLettersApi,
    // The library takes 16 groups of routes at most, so some of them are two.
    (JobsApi, ReplaysApi),
    EmittersApi,
    DemoApi,
    (StatsApi, TenantsApi),
    (ApiKeysApi, PortalLinksApi),
    AuditLogApi,
    LiveApi,
    ProcessesApi,
    HealthApi,
);

/// All routes of the api, with the texts that introduce its `OpenAPI` document.
#[must_use]
pub fn service(app: &App) -> OpenApiService<Apis, ()> {
    let apis = (
        IngestApi(app.clone()),
        SubscriptionsApi(app.clone()),
        SecretsApi(app.clone()),
        SamplesApi(app.clone()),
        EventsApi(app.clone()),
        DeliveriesApi(app.clone()),
        DeadLettersApi(app.clone()),
        (JobsApi(app.clone()), ReplaysApi(app.clone())),
        EmittersApi(app.clone()),
        DemoApi(app.clone()),
        (StatsApi(app.clone()), TenantsApi(app.clone())),
        (ApiKeysApi(app.clone()), PortalLinksApi(app.clone())),
        AuditLogApi(app.clone()),
        LiveApi(app.clone()),
        ProcessesApi(app.clone()),
        HealthApi(app.clone()),
    );
    OpenApiService::new(apis, "Postrider", env!("CARGO_PKG_VERSION"))
        .description(
            "Reliable webhook delivery with Postgres as its only moving part. Create a subscription, publish an event \
             once: Postrider stores it, finds who wants it, and gets it to every subscriber with retries, signatures \
             and a full log.\n\nEvery answer that is not a success is a problem (RFC 9457) with a stable `code`. Lists \
             come in pages, the newest first: send a page's `next_cursor` as `cursor` to get the next one.",
        )
        .license(poem_openapi::LicenseObject::new("MIT"))
}

/// The endpoint that the server calls for every request: the pages, all routes, and what they share.
#[must_use]
pub fn routes(app: &App) -> impl Endpoint<Output = Response> + 'static {
    static SPEC: OnceLock<String> = OnceLock::new();
    static ALLOWED: OnceLock<Arc<Allowed>> = OnceLock::new();
    let service = service(app);
    let spec = SPEC.get_or_init(|| document::complete(&service.spec()));
    let allowed = Arc::clone(ALLOWED.get_or_init(|| Arc::new(Allowed::from_spec(spec))));
    let pages = pages::routes(|| service.swagger_ui_html(), spec);
    let pages = match app.dashboard {
        Dashboard::On => pages.nest("/ui", ui::Dashboard(app.clone())),
        Dashboard::Off => pages,
    };
    let traces = app.traces.clone();
    pages
        .nest("/", service.into_endpoint())
        .data(Authenticator { admin_key: app.admin_key.clone(), keys: app.keys.clone(), limits: app.limits.clone() })
        .data(PayloadBytesMax(app.payload_bytes_max))
        .data(BodyRoom::default())
        .with(CatchPanic::new().with_handler(|_| ApiError::from(postrider_core::Error::internal("a handler panicked"))))
        .around(move |endpoint, request| around(endpoint, request, Arc::clone(&allowed), traces.clone()))
}

async fn around<E: Endpoint<Output = Response>>(
    endpoint: Arc<E>,
    mut request: Request,
    allowed: Arc<Allowed>,
    traces: Traces,
) -> poem::Result<Response> {
    let began = Instant::now();
    if let Some(path) = without_trailing_slash(request.uri().path()).map(str::to_owned) {
        replace_path(&mut request, &path);
    }
    if !request.headers().contains_key(header::CONTENT_TYPE) {
        // A webhook may come without a content type (RFC 9110 §8.3), but the libraries refuse such a request.
        let octets = HeaderValue::from_static("application/octet-stream");
        request.headers_mut().insert(header::CONTENT_TYPE, octets);
    }
    let (path, method) = (request.uri().path().to_owned(), request.method().clone());
    let route = allowed.route(&path);
    let trace = RequestTrace::begin(&traces, &request, route);
    if let Some(trace) = &trace {
        request.set_data(trace.clone());
    }
    let (limit_states, body) = (LimitStates::default(), BodyProgress::default());
    request.set_data(limit_states.clone());
    request.set_data(body.clone());
    let answer = match readable(&request) {
        Ok(()) => {
            let answer = tokio::time::timeout(REQUEST_TIMEOUT, endpoint.call(request)).await;
            answer.unwrap_or_else(|_| Err(too_late(&body).into()))
        }
        Err(why) => Err(why.into()),
    };
    let mut response = answer.unwrap_or_else(|error| response_of(error, &path, &allowed));
    limit_states.tell(response.headers_mut());
    pages::secure(response.headers_mut());
    if let Some(trace) = trace {
        trace.answered(response.status());
    }
    counts::answered(route, &method, response.status(), began);
    Ok(response)
}

/// The path of a subscription's ingest without the slash behind it; `None` for any other path. Some providers and
/// people add a slash when they register a URL. Nobody registers the URL of another route, so no other has two paths.
fn without_trailing_slash(path: &str) -> Option<&str> {
    let path = path.strip_suffix('/')?;
    let id = path.strip_prefix("/webhooks/ingest/")?;
    (!id.is_empty() && !id.contains('/')).then_some(path)
}

fn replace_path(request: &mut Request, path: &str) {
    let uri = request.uri();
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut parts = uri.clone().into_parts();
    // A path that lost its last character is still a path.
    parts.path_and_query = format!("{path}{query}").parse().ok();
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}

/// The answer to a request that took too long: 408 where its body has not arrived, which is the caller's fault, or else
/// 503, which is ours.
fn too_late(body: &BodyProgress) -> ApiError {
    if body.is_awaited() {
        ApiError::request_timeout()
    } else {
        postrider_core::Error::Unavailable("this took too long; try again in a moment").into()
    }
}

/// Refuses a NUL in the URI, which Postgres cannot store as text, and headers that the libraries would drop in silence
/// because they are not ASCII or stand there twice.
fn readable(request: &Request) -> Result<(), ApiError> {
    if WITHOUT_INPUT.contains(&request.uri().path()) {
        return Ok(());
    }
    if request.uri().path_and_query().is_some_and(|text| text.as_str().contains("%00")) {
        return Err(ApiError::bad_request("the URI contains a NUL"));
    }
    if ![Method::POST, Method::PUT, Method::PATCH].contains(request.method()) {
        return Ok(());
    }
    for (name, header) in READ_ONCE.iter() {
        // A request whose key were dropped would be carried out twice, and of two values one would be dropped.
        let mut values = request.headers().get_all(header).iter();
        let is_readable = values.next().is_none_or(|value| value.to_str().is_ok());
        if !is_readable || values.next().is_some() {
            return Err(ApiError::invalid(name, "must be printable ASCII, and stand there once"));
        }
    }
    Ok(())
}

/// The response to an error: our own errors carry theirs, and the errors of the libraries are turned into a problem
/// here.
fn response_of(error: poem::Error, path: &str, allowed: &Allowed) -> Response {
    if error.is::<MethodNotAllowedError>()
        && let Some(methods) = allowed.methods(path)
    {
        return poem::Error::from(ApiError::method_not_allowed(&methods)).into_response();
    }
    if error.is_from_response() {
        return error.into_response();
    }
    poem::Error::from(ApiError::from_status(error.status(), error.to_string())).into_response()
}

/// Every path that is served, as the document writes it, with its methods: for the `Allow` header of a 405 (RFC 9110
/// §15.5.6), and for the metrics. They stand by the first segment of the path, because every request is looked up here.
struct Allowed(HashMap<&'static str, Vec<(&'static str, String)>>);

impl Allowed {
    fn from_spec(spec: &str) -> Self {
        let spec: serde_json::Value = serde_json::from_str(spec).expect("the document is JSON");
        let paths = spec["paths"].as_object().expect("the document has paths");
        let mut allowed: Vec<_> = paths
            .iter()
            .map(|(path, operations)| {
                let methods = operations.as_object().into_iter().flatten().map(|(name, _)| name.to_ascii_uppercase());
                // The labels of metrics live as long as the process, and so does this list.
                (&*path.clone().leak(), methods.collect::<Vec<_>>().join(", "))
            })
            .collect();
        allowed.extend(["/", "/swagger", "/swagger/{file}", "/openapi.json"].map(|path| (path, "GET".to_owned())));
        let mut by_first: HashMap<_, Vec<_>> = HashMap::new();
        for (path, methods) in allowed {
            by_first.entry(first_segment(path)).or_default().push((path, methods));
        }
        Self(by_first)
    }

    fn find(&self, path: &str) -> Option<&(&'static str, String)> {
        self.0.get(first_segment(path))?.iter().find(|(known, _)| fits(known, path))
    }

    fn methods(&self, path: &str) -> Option<String> {
        self.find(path).map(|(_, methods)| methods.clone())
    }

    /// The path as the document writes it; `other` where there is no such route, so that callers cannot make up labels.
    fn route(&self, path: &str) -> &'static str {
        self.find(path).map_or("other", |(known, _)| known)
    }
}

/// Whether a path is one of those that the document writes so.
fn fits(known: &str, path: &str) -> bool {
    let (mut known, mut asked) = (segments(known), segments(path));
    loop {
        match (known.next(), asked.next()) {
            (None, None) => return true,
            (Some(known), Some(asked)) if known.starts_with('{') || known == asked => {}
            (_, _) => return false,
        }
    }
}

/// The first segment of a path; of those that the document writes, no first one is a parameter.
fn first_segment(path: &str) -> &str {
    segments(path).next().unwrap_or_default()
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|segment| !segment.is_empty())
}
