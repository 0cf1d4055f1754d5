//! The pages for people: Swagger UI with the `OpenAPI` document. Scripts and styles are served as files of their own,
//! so that the content security policy need not allow anything inline.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use poem::{
    Response, Route, get, handler,
    http::{HeaderMap, HeaderName, HeaderValue, header},
    web::Data,
};

/// What a page of ours may load and do: only what this server serves. Swagger UI's icons are `data:` images.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src \
                           'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// What any other answer may load and do if a browser takes it for a page: nothing.
const NOTHING_POLICY: &str = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Headers that every answer carries.
const HEADERS: [(HeaderName, &str); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// A browser may keep scripts and styles for 3600 seconds.
const ASSET_CACHE: &str = "public, max-age=3600";

const PAGE: &str = r#"<!DOCTYPE html>
<html lang="en">
<head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>Postrider API</title>
    <link rel="icon" href="data:,">
    <link rel="stylesheet" href="swagger/swagger-ui.css">
    <script src="swagger/swagger-ui.js" defer></script>
    <script src="swagger/start.js" defer></script>
</head>
<body>
    <div id="ui"></div>
</body>
</html>
"#;

const START: &str = "SwaggerUIBundle({ dom_id: '#ui', url: 'openapi.json', deepLinking: true });\n";

/// The files of Swagger UI, and the `OpenAPI` document that it shows.
struct Swagger {
    style: Bytes,
    script: Bytes,
    document: Bytes,
}

/// The routes of the pages. `bundle` gives the library's Swagger UI: one page with its scripts and styles inside. It is
/// called once in a process, because the page is large and always the same.
#[must_use]
pub fn routes(bundle: impl FnOnce() -> String, document: &'static str) -> Route {
    static SWAGGER: OnceLock<Arc<Swagger>> = OnceLock::new();
    let swagger = SWAGGER.get_or_init(|| Arc::new(Swagger::of(&bundle(), document)));
    let with = |endpoint| poem::EndpointExt::data(endpoint, Arc::clone(swagger));
    Route::new()
        .at("/swagger", get(page))
        .at("/swagger/start.js", get(start))
        .at("/swagger/swagger-ui.css", with(get(style_sheet)))
        .at("/swagger/swagger-ui.js", with(get(script_file)))
        .at("/openapi.json", with(get(document_file)))
}

impl Swagger {
    /// Takes the style and the script out of the library's page.
    fn of(bundle: &str, document: &'static str) -> Self {
        let part = |begins: &str, ends: &str| {
            let part = bundle.split_once(begins).and_then(|(_, rest)| rest.split_once(ends));
            part.map(|(part, _)| Bytes::copy_from_slice(part.as_bytes()))
                .expect("the library's page has its style and its script in its head")
        };
        let style = part("<style charset=\"UTF-8\">", "</style>");
        let script = part("<script charset=\"UTF-8\">", "</script>\n</head>");
        // All answers share these bytes, so that a slow reader does not hold a copy of its own.
        Self { style, script, document: Bytes::from_static(document.as_bytes()) }
    }
}

/// Sets the headers that forbid a browser everything that the answer does not need.
pub fn secure(headers: &mut HeaderMap) {
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::REFERRER_POLICY).or_insert(HeaderValue::from_static("no-referrer"));
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(NOTHING_POLICY));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}

fn asset(content_type: &'static str, text: Bytes) -> Response {
    let response = Response::builder().content_type(content_type).header(header::CACHE_CONTROL, ASSET_CACHE);
    response.body(text)
}

#[handler]
fn page() -> Response {
    let response = Response::builder().content_type("text/html; charset=utf-8");
    response.header(header::CONTENT_SECURITY_POLICY, PAGE_POLICY).body(PAGE)
}

#[handler]
fn start() -> Response {
    asset("text/javascript; charset=utf-8", Bytes::from_static(START.as_bytes()))
}

#[handler]
fn style_sheet(swagger: Data<&Arc<Swagger>>) -> Response {
    asset("text/css; charset=utf-8", swagger.style.clone())
}

#[handler]
fn script_file(swagger: Data<&Arc<Swagger>>) -> Response {
    asset("text/javascript; charset=utf-8", swagger.script.clone())
}

#[handler]
fn document_file(swagger: Data<&Arc<Swagger>>) -> Response {
    Response::builder().content_type("application/json").body(swagger.document.clone())
}
