//! What a customer meets who opens a portal link: a page that takes the token out of the address and signs in with it,
//! one that asks whoever has signed in already, and one that says that the link has ended.

use chrono::{DateTime, Utc};
use maud::{Markup, html};
use poem::{Request, Response, http::StatusCode};

use crate::ui::{
    assets, layout,
    page::{Visit, icon},
    parts, root, session, sign_in,
};

/// The path of the page below `/ui/`.
pub(crate) const PATH: &str = "portal";
/// The field of the form that tells it from the form for API keys.
pub(crate) const FIELD: &str = "portal";
/// The field of the form that says that the session with a key may end.
pub(crate) const INSTEAD: &str = "instead";

/// The URL that opens the dashboard with this token. `base` is where the api is, without a slash behind it.
pub(crate) fn url(base: &str, token: &str) -> String {
    format!("{base}/ui/{PATH}#{token}")
}

/// The page to which every link leads. It is the same for all, because browsers do not send what is behind `#`. A
/// script takes that from the address and sends the form.
pub(crate) fn page(request: &Request) -> Response {
    let body = html! {
        div.gate {
            p.brand { (icon("", "mail-check")) span { "Postrider" } }
            h1 { "Open the dashboard" }
            p #opening hidden { "One moment…" }
            form #portal method="post" action="sign-in" autocomplete="off" {
                p.hint { "Paste your link here, or what stands in it behind " code { "#" } "." }
                input type="hidden" name=(FIELD) value="yes";
                label for="key" { "Link" }
                input #key name="key" type="text" required autocomplete="off" autocapitalize="off" spellcheck="false"
                    placeholder="pr_…";
                button.button.main type="submit" { "Open" }
            }
        }
    };
    let page = layout::bare("Open the dashboard", "", session::theme(request), &body, &["portal.js"]);
    assets::html(request, StatusCode::OK, page)
}

/// Says that a link opens nothing any more. `path` is the page that was asked for.
pub(crate) fn ended(request: &Request, path: &str) -> Response {
    let root = root(path);
    let body = html! {
        div.gate {
            p.brand { (icon(&root, "mail-check")) span { "Postrider" } }
            h1 { "This link has expired" }
            p { "It opens nothing any more. Ask whoever gave it to you for a new one." }
            details.other {
                summary { "Sign in with an API key" }
                (sign_in::fields(&root, ""))
            }
        }
    };
    let page = layout::bare("This link has expired", &root, session::theme(request), &body, &[]);
    assets::html(request, StatusCode::UNAUTHORIZED, page)
}

/// Asks somebody who has signed in with a key of this name whether to open a link all the same: a browser has one
/// session, and nobody should lose it by a link that somebody else has sent.
pub(crate) fn ask(request: &Request, token: &str, name: &str) -> Response {
    let body = html! {
        div.gate {
            p.brand { (icon("", "mail-check")) span { "Postrider" } }
            h1 { "Open the link as a customer?" }
            p { "You are signed in with " strong { (name) } ". This browser then shows the customer's pages, until you \
                 sign in again." }
            form method="post" action="sign-in" {
                @for name in [FIELD, INSTEAD] { input type="hidden" name=(name) value="yes"; }
                input type="hidden" name="key" value=(token);
                button.button.main type="submit" { "Open the link" }
                a.button href="./" { "Stay signed in" }
            }
        }
    };
    let page = layout::bare("Open the link?", "", session::theme(request), &body, &[]);
    assets::html(request, StatusCode::OK, page)
}

/// The token in what somebody has pasted: the whole link, or what stands behind `#`.
pub(crate) fn token(text: &str) -> &str {
    text.rsplit('#').next().unwrap_or_default().trim()
}

/// What the bar says to somebody who came by a link.
pub(crate) fn explained(visit: &Visit, until: Option<DateTime<Utc>>) -> Markup {
    html! {
        "You came by a link to the dashboard of " strong { (visit.access.tenant().unwrap_or_default()) } ". You may "
        (if visit.may_manage() { "read and change" } else { "read" })
        ", until the link expires: " (parts::maybe_time(visit, until)) "."
    }
}
