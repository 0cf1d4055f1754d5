//! Every answer that is not a success is a problem (RFC 9457), and `ApiError` has one variant for each status. An error
//! of ours is logged here, once, and its details are never shown.

use poem::{IntoResponse, Response, http::StatusCode};
use poem_openapi::{
    ApiResponse, Object,
    payload::Payload,
    registry::{MetaSchemaRef, Registry},
    types::{ToJSON, Type},
};
use postrider_core::{Error, access::api_key::Scope, validation::Problems};

/// Seconds after which a caller should try again when the server is full or the database is away.
const RETRY_AFTER_SECONDS: u32 = 1;

/// What went wrong, as RFC 9457 puts it.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
pub struct Problem {
    /// Always `about:blank`: the status and the code say it all.
    #[oai(rename = "type")]
    kind: String,
    /// The HTTP status in words, such as `Not Found`.
    title: String,
    /// The HTTP status, such as 404.
    status: u16,
    /// What happened, for a person.
    detail: String,
    /// What happened, for a program, such as `not_found`. A code keeps its meaning from version to version.
    #[oai(validator(pattern = "^[a-z_]+$"))]
    code: String,
    /// The fields that break a rule, where that is what happened; at most 100.
    errors: Option<Vec<FieldError>>,
}

/// One field that breaks a rule.
#[derive(Debug, Object)]
pub struct FieldError {
    /// The field's path in the request, such as `event_types[1]`, or the name of a header.
    pub field: String,
    /// What is wrong with the field, such as `must be from 1000 to 60000`.
    pub message: String,
}

/// A problem as a body, with the content type `application/problem+json`.
#[derive(Debug)]
pub struct ProblemJson(Problem);

impl Payload for ProblemJson {
    const CONTENT_TYPE: &'static str = "application/problem+json";

    fn schema_ref() -> MetaSchemaRef {
        Problem::schema_ref()
    }

    fn register(registry: &mut Registry) {
        Problem::register(registry);
    }
}

impl IntoResponse for ProblemJson {
    fn into_response(self) -> Response {
        Response::builder().content_type(Self::CONTENT_TYPE).body(self.0.to_json_string())
    }
}

/// An answer that is not a success.
#[derive(Debug, ApiResponse)]
pub enum ApiError {
    /// The request cannot be understood: its body is not JSON, or a parameter is not what it should be.
    #[oai(status = 400)]
    BadRequest(ProblemJson),
    /// No valid API key, or no valid signature, came with the request.
    #[oai(status = 401)]
    Unauthorized(
        ProblemJson,
        /// How to authenticate: `Bearer realm="postrider"`.
        #[oai(header = "WWW-Authenticate")]
        String,
    ),
    /// The API key lacks the scope that this route asks for, or is bound to a tenant where it must not be.
    #[oai(status = 403)]
    Forbidden(ProblemJson),
    /// There is no such thing, or it belongs to a tenant that the API key does not reach.
    #[oai(status = 404)]
    NotFound(ProblemJson),
    /// The path is known, the method is not; `Allow` names those that are.
    #[oai(status = 405)]
    MethodNotAllowed(
        ProblemJson,
        /// The methods of this path.
        #[oai(header = "Allow")]
        String,
    ),
    /// The body did not arrive within 30 seconds.
    #[oai(status = 408)]
    RequestTimeout(ProblemJson),
    /// The state of the thing does not allow this, or the `Idempotency-Key` was used for another request before.
    #[oai(status = 409)]
    Conflict(ProblemJson),
    /// The body is longer than the limit, or the event would cause more than 25000 deliveries.
    #[oai(status = 413)]
    PayloadTooLarge(ProblemJson),
    /// The JSON of the request is packed. It has to come without a `Content-Encoding`.
    #[oai(status = 415)]
    UnsupportedMediaType(
        ProblemJson,
        /// The only content coding that is read: `identity`, which is none.
        #[oai(header = "Accept-Encoding")]
        String,
    ),
    /// A field, a parameter or a header breaks a rule; `errors` names each.
    #[oai(status = 422)]
    Unprocessable(ProblemJson),
    /// The API key or the subscription has used up its requests of this second, and `RateLimit` says what is left; or
    /// the key has as many streams or exports as it may have.
    #[oai(status = 429)]
    TooManyRequests(
        ProblemJson,
        /// Seconds after which to try again, such as 1.
        #[oai(header = "Retry-After")]
        u32,
    ),
    /// An error of ours. It has been logged.
    #[oai(status = 500)]
    Internal(ProblemJson),
    /// The server is full, or the database is away or slow. The same request may succeed in a moment. Where the
    /// connection to the database broke at the very commit, what was posted may be stored all the same.
    #[oai(status = 503)]
    Unavailable(
        ProblemJson,
        /// Seconds after which to try again, such as 1.
        #[oai(header = "Retry-After")]
        u32,
    ),
}

impl Problem {
    /// The HTTP status.
    pub(crate) fn status(&self) -> u16 {
        self.status
    }

    /// The HTTP status in words.
    pub(crate) fn title(&self) -> &str {
        &self.title
    }

    /// What happened, for a person.
    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    /// What happened, for a program.
    pub(crate) fn code(&self) -> &str {
        &self.code
    }

    /// The fields that break a rule.
    pub(crate) fn errors(&self) -> &[FieldError] {
        self.errors.as_deref().unwrap_or_default()
    }
}

impl ApiError {
    /// What this error says.
    pub(crate) fn problem(&self) -> &Problem {
        let (Self::BadRequest(body)
        | Self::Unauthorized(body, _)
        | Self::Forbidden(body)
        | Self::NotFound(body)
        | Self::MethodNotAllowed(body, _)
        | Self::RequestTimeout(body)
        | Self::Conflict(body)
        | Self::PayloadTooLarge(body)
        | Self::UnsupportedMediaType(body, _)
        | Self::Unprocessable(body)
        | Self::TooManyRequests(body, _)
        | Self::Internal(body)
        | Self::Unavailable(body, _)) = self;
        &body.0
    }

    /// 400: the request cannot be understood.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::BadRequest(problem(StatusCode::BAD_REQUEST, "bad_request", detail))
    }

    /// 401: the request has no valid key and no valid signature.
    pub fn unauthorized(detail: impl Into<String>) -> Self {
        let problem = problem(StatusCode::UNAUTHORIZED, "unauthorized", detail);
        Self::Unauthorized(problem, "Bearer realm=\"postrider\"".to_owned())
    }

    /// 403: the key lacks this scope.
    #[must_use]
    pub fn forbidden(scope: Scope) -> Self {
        let detail = format!("this key lacks the scope `{scope}`");
        Self::Forbidden(problem(StatusCode::FORBIDDEN, "forbidden", detail))
    }

    /// 403: what is asked for belongs to no tenant, and the key is bound to one.
    #[must_use]
    pub fn bound_to_a_tenant() -> Self {
        let detail = "this key is bound to a tenant, and this belongs to none";
        Self::Forbidden(problem(StatusCode::FORBIDDEN, "forbidden", detail))
    }

    /// 404: the thing does not exist, or belongs to another tenant. `what` is its noun, such as `subscription`.
    #[must_use]
    pub fn not_found(what: &str) -> Self {
        Self::NotFound(problem(StatusCode::NOT_FOUND, "not_found", format!("no such {what}")))
    }

    /// 404: the operator has not switched the demo on.
    #[must_use]
    pub fn no_demo() -> Self {
        let detail = "the demo is switched off; POSTRIDER_DEMO=on switches it on, for api and worker";
        Self::NotFound(problem(StatusCode::NOT_FOUND, "not_found", detail))
    }

    /// 403: the demo belongs to this tenant, and the key to another.
    #[must_use]
    pub fn demo_of_another_tenant(tenant: &str) -> Self {
        let detail = format!("the demo belongs to the tenant `{tenant}`, which this key does not reach");
        Self::Forbidden(problem(StatusCode::FORBIDDEN, "forbidden", detail))
    }

    /// 405: the path knows only these methods, such as `GET, POST`.
    #[must_use]
    pub fn method_not_allowed(allowed: &str) -> Self {
        let detail = format!("this path knows {allowed}");
        Self::MethodNotAllowed(
            problem(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail),
            allowed.to_owned(),
        )
    }

    /// 408: the body did not arrive in time.
    #[must_use]
    pub fn request_timeout() -> Self {
        let detail = "the request did not arrive in time";
        Self::RequestTimeout(problem(StatusCode::REQUEST_TIMEOUT, "request_timeout", detail))
    }

    /// 413: the body has more than this many bytes.
    #[must_use]
    pub fn payload_too_large(bytes_max: usize) -> Self {
        let detail = format!("the body may be at most {bytes_max} bytes long");
        Self::PayloadTooLarge(problem(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", detail))
    }

    /// 415: the request's JSON is packed.
    #[must_use]
    pub fn packed() -> Self {
        let detail = "a body with a Content-Encoding is not read here: send the JSON as it is";
        let problem = problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail);
        Self::UnsupportedMediaType(problem, "identity".to_owned())
    }

    /// 429: a limit of so many requests a second is used up. `whose` is `key` or `subscription`; `retry_after` is in
    /// seconds.
    #[must_use]
    pub fn too_many_requests(whose: &str, per_second: u32, retry_after: u32) -> Self {
        let detail = format!("{per_second} requests a second may post events with this {whose}");
        Self::TooManyRequests(problem(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", detail), retry_after)
    }

    /// 429: the key has this many streams already.
    #[must_use]
    pub fn too_many_streams(streams_max: usize) -> Self {
        let detail = format!("a key may have {streams_max} streams at a time");
        let problem = problem(StatusCode::TOO_MANY_REQUESTS, "too_many_streams", detail);
        Self::TooManyRequests(problem, RETRY_AFTER_SECONDS)
    }

    /// 429: an export of the key is under way.
    #[must_use]
    pub fn too_many_exports() -> Self {
        let detail = "an export with this key is under way, and a key has one at a time";
        let problem = problem(StatusCode::TOO_MANY_REQUESTS, "too_many_exports", detail);
        Self::TooManyRequests(problem, RETRY_AFTER_SECONDS)
    }

    /// 422: one field breaks a rule.
    pub fn invalid(field: &str, message: impl Into<String>) -> Self {
        Error::Invalid(Problems::one(field, message)).into()
    }

    /// Turns an error of the libraries into one of ours. A client error for which there is no variant becomes a 400.
    #[must_use]
    pub fn from_status(status: StatusCode, detail: String) -> Self {
        match status {
            StatusCode::NOT_FOUND => Self::NotFound(problem(status, "not_found", "no such path")),
            StatusCode::UNAUTHORIZED => Self::unauthorized(detail),
            status if status.is_client_error() => Self::bad_request(detail),
            _ => Error::internal(detail).into(),
        }
    }
}

/// A whole HTTP/1.1 answer, written to a connection from which no request is read because too many are open.
#[must_use]
pub fn too_many_connections() -> Vec<u8> {
    let status = StatusCode::SERVICE_UNAVAILABLE;
    let body = problem(status, "unavailable", "there are too many connections; try again in a moment");
    let body = body.0.to_json_string();
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {}\r\ncontent-length: {}\r\nretry-after: {RETRY_AFTER_SECONDS}\r\n\
         x-content-type-options: nosniff\r\ncache-control: no-store\r\nconnection: close\r\n\r\n{body}",
        ProblemJson::CONTENT_TYPE,
        body.len()
    );
    answer.into_bytes()
}

fn problem(status: StatusCode, code: &str, detail: impl Into<String>) -> ProblemJson {
    ProblemJson(Problem {
        kind: "about:blank".to_owned(),
        title: status.canonical_reason().unwrap_or("Error").to_owned(),
        status: status.as_u16(),
        detail: detail.into(),
        code: code.to_owned(),
        errors: None,
    })
}

impl From<Problems> for ApiError {
    fn from(problems: Problems) -> Self {
        Error::Invalid(problems).into()
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        match error {
            Error::NotFound(what) => Self::not_found(what),
            Error::Conflict(detail) => Self::Conflict(problem(StatusCode::CONFLICT, "conflict", detail)),
            reused @ Error::KeyReused => {
                Self::Conflict(problem(StatusCode::CONFLICT, "idempotency_key_reused", reused.to_string()))
            }
            Error::TooLarge(detail) => {
                Self::PayloadTooLarge(problem(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", detail))
            }
            Error::Invalid(problems) => {
                let mut answer = problem(StatusCode::UNPROCESSABLE_ENTITY, "invalid", problems.to_string());
                let field = |problem: postrider_core::validation::Problem| FieldError {
                    field: problem.field,
                    message: problem.message,
                };
                answer.0.errors = Some(problems.0.into_iter().map(field).collect());
                Self::Unprocessable(answer)
            }
            Error::Unavailable(detail) => {
                let problem = problem(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail);
                Self::Unavailable(problem, RETRY_AFTER_SECONDS)
            }
            Error::Internal(cause) => {
                tracing::error!(%cause, "a request failed for our own fault");
                let detail = "an error of ours; it has been logged";
                Self::Internal(problem(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail))
            }
        }
    }
}
