//! The page where people sign in, and what the form on it does.

use maud::{Markup, html};
use poem::{Body, Request, Response, http::StatusCode};
use postrider_core::access::api_key::Scope;

use crate::{
    access::auth::Authenticator,
    app::App,
    serve::problem::ApiError,
    ui::{
        assets,
        fields::{Fields, is_own_path},
        layout,
        page::{Who, icon},
        portal, redirect, root,
        session::{self, Refused, Visitor, begin},
    },
};

/// The form of the sign-in has at most this many bytes.
const FORM_BYTES_MAX: usize = 8 * 1024;

/// Answers somebody who is shown no page. Whoever has not signed in is asked for a key, in place of the page that was
/// asked for; afterwards that page is shown.
pub(crate) fn answer(request: &Request, path: &str, refused: &Refused) -> Response {
    match refused {
        Refused::NotSignedIn => ask(request, path, None),
        Refused::LinkEnded => portal::ended(request, path),
        Refused::Failed(error) => ask(request, path, Some(error.problem().detail())),
    }
}

fn ask(request: &Request, path: &str, trouble: Option<&str>) -> Response {
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let next = format!("{path}{query}");
    show(request, path, StatusCode::UNAUTHORIZED, &next, trouble)
}

/// Says why a form was not taken, and asks for a key.
pub(crate) fn refuse(request: &Request, path: &str, status: StatusCode, why: &str) -> Response {
    show(request, path, status, "", Some(why))
}

fn show(request: &Request, path: &str, status: StatusCode, next: &str, trouble: Option<&str>) -> Response {
    let root = root(path);
    let body = form(&root, next, trouble);
    assets::html(request, status, layout::bare("Sign in", &root, session::theme(request), &body, &[]))
}

fn form(root: &str, next: &str, trouble: Option<&str>) -> Markup {
    html! {
        div.gate {
            p.brand { (icon(root, "mail-check")) span { "Postrider" } }
            h1 { "Sign in" }
            p.hint { "Paste an API key. What the key may reach decides what you see, and where it may only read, there "
                "are no buttons." }
            @if let Some(trouble) = trouble {
                div.note.bad role="alert" { (icon(root, "circle-alert")) p { (trouble) } }
            }
            (fields(root, next))
            p.hint { "The session lasts 12 hours, and ends at once where the key expires or is revoked." }
        }
    }
}

/// The form that takes a key. Afterwards the page `next` is shown.
pub(crate) fn fields(root: &str, next: &str) -> Markup {
    html! {
        form method="post" action=(format!("{root}sign-in")) {
            input type="hidden" name="next" value=(next);
            label for="key" { "API key" }
            input #key name="key" type="password" required autocomplete="current-password" spellcheck="false"
                placeholder="pr_…" autofocus;
            button.button.main type="submit" { "Sign in" }
        }
    }
}

/// Checks the key of the form, and begins a session.
pub(crate) async fn take(app: &App, request: &Request, body: Body) -> Response {
    let Ok(body) = body.into_bytes_limit(FORM_BYTES_MAX).await else {
        return refuse(request, "sign-in", StatusCode::BAD_REQUEST, "The form did not arrive.");
    };
    let fields = Fields::parse(&body);
    let next = fields.get("next").filter(|next| is_own_path(next)).unwrap_or_default();
    let key = fields.get("key").unwrap_or_default();
    let is_portal = fields.has(portal::FIELD);
    let key = if is_portal { portal::token(key) } else { key };
    let begun = match check(request, key).await {
        Ok(()) => {
            if is_portal
                && !fields.has(portal::INSTEAD)
                && let Ok(Visitor { who: Who::KeyHolder { name }, .. }) = session::visitor(app, request).await
            {
                return portal::ask(request, key, &name);
            }
            begin(app, request, key).await
        }
        Err(error) => Err(error),
    };
    match begun {
        Ok(cookie) => redirect(&format!("./{next}"), [cookie]),
        Err(ApiError::Unauthorized(..)) if is_portal => portal::ended(request, "sign-in"),
        Err(error) => {
            let problem = error.problem();
            let status = StatusCode::from_u16(problem.status()).unwrap_or(StatusCode::UNAUTHORIZED);
            let why = match problem.status() {
                401 => "This key is not known, or not valid any more.",
                403 => "This key may not read, so there is nothing that it could show.",
                _ => problem.detail(),
            };
            show(request, "sign-in", status, next, Some(why))
        }
    }
}

async fn check(request: &Request, key: &str) -> Result<(), ApiError> {
    let authenticator: &Authenticator = request.data().expect("the routes carry the authenticator");
    let access = authenticator.access_of(key).await?;
    let access = access.ok_or_else(|| ApiError::unauthorized("this key is not known"))?;
    if access.may(Scope::Read) { Ok(()) } else { Err(ApiError::forbidden(Scope::Read)) }
}

/// Has the browser ask again for the same page. After a link from another site it left the cookie of the session at
/// home; now it comes from a page of ours, and brings the cookie.
pub(crate) fn come_again(request: &Request) -> Response {
    let page = "<!DOCTYPE html><html lang=\"en\"><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"0\">\
                <title>Postrider</title><p>One moment…</p>";
    assets::html(request, StatusCode::OK, page.to_owned())
}
