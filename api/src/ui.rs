//! The dashboard: pages for people, made by this process from the same use cases as the API and with the same rules of
//! access. Pages are whole without scripts: they read by links and act by forms.
//!
//! This file takes a request and answers it. Which page or action it is stands in [`routes`], the frame of pages in
//! `layout`, and whatever looks the same on two pages in `parts`.

mod about;
mod assets;
mod audit;
mod beside;
mod dead_letters;
mod deliveries;
mod delivery;
mod demo;
mod emitters;
pub mod environment;
mod event;
mod events;
mod fields;
mod find;
mod jobs;
mod keys;
mod lanes;
mod layout;
mod live;
mod overview;
mod page;
mod parts;
pub(crate) mod portal;
mod portal_links;
mod pretty;
mod processes;
pub mod routes;
mod rows;
mod session;
mod sign_in;
mod soundness;
#[cfg(debug_assertions)]
mod sprite;
mod statistics;
mod subscription;
mod subscriptions;
mod tenants;
mod top_bar;

use chrono::Utc;
use poem::{
    Body, Endpoint, Request, Response, Result as PoemResult,
    http::{HeaderValue, Method, StatusCode, header},
};

use crate::{
    app::App,
    serve::{
        body_room::{Caller, read},
        problem::ApiError,
    },
    ui::{
        assets::Assets,
        fields::{Fields, is_own_path},
        page::{Next, Note, Page, Section, Theme, Visit},
        session::{Refused, Visitor},
    },
};

/// What a page may load and do: only what this server serves, and forms that it takes itself.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src \
                      'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
/// The body of a form has at most this many bytes.
const FORM_BYTES_MAX: usize = 256 * 1024;

/// The endpoint of everything below `/ui/`.
pub(crate) struct Dashboard(pub(crate) App);

impl Endpoint for Dashboard {
    type Output = Response;

    async fn call(&self, request: Request) -> PoemResult<Response> {
        if !request.original_uri().path().starts_with("/ui/") {
            // Without its last slash, the path of the dashboard would lead relative links astray.
            return Ok(Response::builder().status(StatusCode::FOUND).header(header::LOCATION, "ui/").finish());
        }
        let path = request.uri().path().trim_start_matches('/').to_owned();
        if let Some(file) = path.strip_prefix("assets/") {
            let answer = Assets::get().answer(&request, file);
            return answer.ok_or_else(|| ApiError::not_found("file").into());
        }
        let mut response = match *request.method() {
            Method::GET | Method::HEAD => self.show(&request, path).await,
            Method::POST => self.act(request, path).await,
            _ => return Err(ApiError::method_not_allowed("GET, POST").into()),
        };
        let headers = response.headers_mut();
        headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(POLICY));
        // Without an origin in it, a form could not be told from one of another site.
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
        Ok(response)
    }
}

impl Dashboard {
    /// Answers a request for a page.
    async fn show(&self, request: &Request, path: String) -> Response {
        if path == portal::PATH {
            return portal::page(request);
        }
        let visit = match self.visit(request, path.clone()).await {
            Ok(visit) => visit,
            Err(Refused::NotSignedIn) if session::is_from_another_site(request) => return sign_in::come_again(request),
            Err(refused) => return sign_in::answer(request, &path, &refused),
        };
        if let Some(answer) = routes::file(&visit).await {
            return answer.unwrap_or_else(|error| framed(request, &visit, error_page(&visit, &error)));
        }
        let page = match routes::page(&visit).await {
            Ok(Next::Show(page)) => page,
            Ok(Next::Go(to, _)) => return redirect(&visit.to(to), []),
            Err(error) => error_page(&visit, &error),
        };
        let mut response = framed(request, &visit, page);
        if visit.note.is_some() {
            add_cookie(&mut response, &session::forget_note());
        }
        response
    }

    /// Does what a form asks for.
    async fn act(&self, mut request: Request, path: String) -> Response {
        if !session::is_from_own_page(&request) {
            let why = "A form is taken from a page of this dashboard only. Open the page and try again there.";
            return sign_in::refuse(&request, &path, StatusCode::FORBIDDEN, why);
        }
        let body = request.take_body();
        if path == "sign-in" {
            return sign_in::take(&self.0, &request, body).await;
        }
        let visit = match self.visit(&request, path.clone()).await {
            Ok(visit) => visit,
            Err(refused) => return sign_in::answer(&request, "", &refused),
        };
        let form = match form(&request, body).await {
            Ok(form) => form,
            Err(error) => return framed(&request, &visit, error_page(&visit, &error)),
        };
        let back = back(&visit, &form);
        if path == "sign-out" {
            // Without a link, a customer has nothing to sign in with.
            let to = if visit.is_customer() { portal::PATH } else { "" };
            return redirect(&visit.to(to), session::end());
        }
        if path == "theme" {
            let theme = form.text("theme").parse().unwrap_or(Theme::Auto);
            return redirect(&visit.to(back), [session::remember_theme(theme)]);
        }
        let done = match visit.require(routes::scope(&visit)) {
            Ok(()) => routes::action(&visit, &form).await,
            Err(error) => Err(error),
        };
        match done {
            Ok(Next::Show(page)) => framed(&request, &visit, page),
            Ok(Next::Go(to, note)) => redirect(&visit.to(to), [session::tell(&self.0, &note)]),
            // What does not exist for this key has no page to go back to.
            Err(error @ ApiError::NotFound(_)) => framed(&request, &visit, error_page(&visit, &error)),
            Err(error) => {
                let problem = error.problem();
                let note = Note::Refused(format!("Not done: {}.", problem.detail()));
                redirect(&visit.to(back), [session::tell(&self.0, &note)])
            }
        }
    }

    /// What the page has to know of the request.
    async fn visit(&self, request: &Request, path: String) -> Result<Visit, Refused> {
        let Visitor { access, who } = session::visitor(&self.0, request).await?;
        let query = request.uri().query().unwrap_or_default();
        Ok(Visit {
            app: self.0.clone(),
            access,
            who,
            query: Fields::parse(query.as_bytes()),
            root: root(&path),
            address: session::address(request),
            last_event_id: request.header("Last-Event-ID").map(str::to_owned),
            theme: session::theme(request),
            note: session::told(&self.0, request),
            now: Utc::now(),
            path,
        })
    }
}

/// The way from a page to `/ui/`.
fn root(path: &str) -> String {
    "../".repeat(path.matches('/').count())
}

async fn form(request: &Request, body: Body) -> Result<Fields, ApiError> {
    Ok(Fields::parse(&read(request, body, FORM_BYTES_MAX, Caller::Key).await?))
}

/// The page to which the browser returns: the one that the form names, or else the one that the action's path belongs
/// to.
fn back(visit: &Visit, form: &Fields) -> String {
    let named = form.get("back").filter(|path| is_own_path(path));
    named.map_or_else(|| visit.path.rsplit_once('/').map_or("", |(page, _)| page).to_owned(), str::to_owned)
}

fn error_page(visit: &Visit, error: &ApiError) -> Page {
    let problem = error.problem();
    let status = StatusCode::from_u16(problem.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let title = maud::html! { (problem.title()) };
    let body = maud::html! {
        (parts::head(&title, &parts::nothing(), &parts::nothing()))
        section.panel {
            (parts::empty(visit, "circle-alert", &sentence(problem.detail()), &maud::html! {
                p { "The code of this problem is " code { (problem.code()) } "." }
                p { a.button href=(visit.to("")) { "To the overview" } }
            }))
        }
    };
    Page { status, ..Page::new(Section::Nowhere, problem.title(), body) }
}

/// The detail of a problem with a capital letter, as a heading.
fn sentence(detail: &str) -> String {
    let mut letters = detail.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn framed(request: &Request, visit: &Visit, page: Page) -> Response {
    assets::html(request, page.status, layout::document(visit, &page))
}

/// Sends the browser to another page, with cookies.
fn redirect<const N: usize>(to: &str, cookies: [String; N]) -> Response {
    let mut response = Response::builder().status(StatusCode::SEE_OTHER).header(header::LOCATION, to).finish();
    for cookie in cookies {
        add_cookie(&mut response, &cookie);
    }
    response
}

fn add_cookie(response: &mut Response, cookie: &str) {
    if let Ok(value) = HeaderValue::from_str(cookie) {
        response.headers_mut().append(header::SET_COOKIE, value);
    }
}
