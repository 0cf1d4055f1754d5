//! Who looks at the dashboard. A person signs in with an API key, once; then a sealed cookie names the key, and each
//! request looks the key up as the API does. Forms are taken from our own pages only.

use chrono::{TimeDelta, Utc};
use poem::{Request, http::header};
use postrider_core::access::{
    api_key::{KeyKind, digest},
    session::{Closed, SECONDS_MAX, Session, open_note, seal_note},
};

use crate::{
    access::{Access, auth::AdminKey},
    app::App,
    serve::problem::ApiError,
    ui::page::{Note, Theme, Who},
};

/// The cookie of a session over plain HTTP.
const COOKIE: &str = "postrider_session";
/// The cookie of a session over HTTPS: browsers take it from this host only, and send it over HTTPS only.
const HOST_COOKIE: &str = "__Host-postrider_session";
/// Seconds for which a browser keeps the session of a portal link: a week, which is longer than any link works.
const PORTAL_COOKIE_SECONDS: i64 = 7 * 24 * 3600;
/// The cookie that brings a sentence to the page after a form.
const NOTE_COOKIE: &str = "postrider_note";
/// The cookie that holds the chosen colours.
const THEME_COOKIE: &str = "postrider_theme";
/// Seconds for which a sentence waits for its page.
const NOTE_SECONDS: u32 = 60;
/// Seconds for which the chosen colours are remembered: a year.
const THEME_SECONDS: u32 = 365 * 24 * 3600;

/// Somebody who has signed in.
pub(crate) struct Visitor {
    /// What the key reaches.
    pub(crate) access: Access,
    /// Who it is.
    pub(crate) who: Who,
}

/// Why nobody is shown a page.
#[derive(Debug)]
pub(crate) enum Refused {
    /// Nobody has signed in, or the key is not valid any more.
    NotSignedIn,
    /// The portal link by which somebody came has ended.
    LinkEnded,
    /// It could not be found out.
    Failed(ApiError),
}

/// Who sends this request.
///
/// # Errors
/// Why nobody has signed in.
pub(crate) async fn visitor(app: &App, request: &Request) -> Result<Visitor, Refused> {
    let now = Utc::now();
    let text = cookie(request, HOST_COOKIE).or_else(|| cookie(request, COOKIE)).ok_or(Refused::NotSignedIn)?;
    let session = Session::open(&app.keyring, text, now).map_err(|closed| match closed {
        Closed::NotOurs | Closed::Ended(KeyKind::Key) => Refused::NotSignedIn,
        Closed::Ended(KeyKind::PortalLink) => Refused::LinkEnded,
    })?;
    if app.admin_key.has(&session.key) {
        return Ok(Visitor { access: Access::admin(), who: Who::KeyHolder { name: AdminKey::NAME.to_owned() } });
    }
    let key = app.keys.get_by_digest(session.key, now).await.map_err(|error| Refused::Failed(error.into()))?;
    let key = key.ok_or(match session.kind {
        KeyKind::Key => Refused::NotSignedIn,
        KeyKind::PortalLink => Refused::LinkEnded,
    })?;
    let who = match key.kind {
        KeyKind::Key => Who::KeyHolder { name: key.name.as_str().to_owned() },
        KeyKind::PortalLink => Who::Customer { until: key.expires_at },
    };
    Ok(Visitor { access: Access::of(&key), who })
}

/// The cookie of a session that begins with this key, which is valid. A session never lasts longer than its key. That
/// of a portal link lasts as long, and its cookie stays longer still, so that whoever comes back is told of the end.
///
/// # Errors
/// When the key has to be loaded and the database is away.
pub(crate) async fn begin(app: &App, request: &Request, key: &str) -> Result<String, ApiError> {
    let now = Utc::now();
    let known = if app.admin_key.has(&digest(key)) { None } else { app.keys.get(key, now).await? };
    let kind = known.as_ref().map_or(KeyKind::Key, |key| key.kind);
    let latest = now + TimeDelta::seconds(SECONDS_MAX);
    let key_ends = known.and_then(|key| key.expires_at);
    let (ends, seconds) = match kind {
        KeyKind::Key => (key_ends.map_or(latest, |ends| ends.min(latest)), SECONDS_MAX),
        KeyKind::PortalLink => (key_ends.unwrap_or(latest), PORTAL_COOKIE_SECONDS),
    };
    let session = Session { key: digest(key), kind }.seal(&app.keyring, ends);
    Ok(if is_secure(request) {
        format!("{HOST_COOKIE}={session}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict; Secure")
    } else {
        format!("{COOKIE}={session}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict")
    })
}

/// The cookies that end the session of this browser.
pub(crate) fn end() -> [String; 2] {
    [
        format!("{COOKIE}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict"),
        format!("{HOST_COOKIE}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict; Secure"),
    ]
}

/// The cookie that brings a sentence to the next page.
pub(crate) fn tell(app: &App, note: &Note) -> String {
    let sealed = seal_note(&app.keyring, &note.to_text());
    format!("{NOTE_COOKIE}={sealed}; Path=/; Max-Age={NOTE_SECONDS}; HttpOnly; SameSite=Strict")
}

/// The sentence that an earlier request has left for this page.
pub(crate) fn told(app: &App, request: &Request) -> Option<Note> {
    Note::from_text(&open_note(&app.keyring, cookie(request, NOTE_COOKIE)?)?)
}

/// The cookie that forgets the sentence once it has been shown.
pub(crate) fn forget_note() -> String {
    format!("{NOTE_COOKIE}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict")
}

/// The colours that this browser's owner has chosen.
pub(crate) fn theme(request: &Request) -> Theme {
    cookie(request, THEME_COOKIE).and_then(|word| word.parse().ok()).unwrap_or(Theme::Auto)
}

/// The cookie that remembers these colours.
pub(crate) fn remember_theme(theme: Theme) -> String {
    format!("{THEME_COOKIE}={theme}; Path=/; Max-Age={THEME_SECONDS}; HttpOnly; SameSite=Lax")
}

/// Whether a form was sent by a page of ours. Browsers say where a request comes from, and no page can change that;
/// whoever says nothing is no browser of today.
pub(crate) fn is_from_own_page(request: &Request) -> bool {
    if let Some(site) = text(request, "sec-fetch-site") {
        return site == "same-origin";
    }
    let origin = text(request, "origin").and_then(|origin| origin.split_once("://"));
    origin.is_some_and(|(_, host)| [text(request, "host"), text(request, "x-forwarded-host")].contains(&Some(host)))
}

/// Whether another site has sent the browser here. Then a cookie of `SameSite=Strict` stays away, also where somebody
/// has signed in.
pub(crate) fn is_from_another_site(request: &Request) -> bool {
    text(request, "sec-fetch-site") == Some("cross-site") && text(request, "sec-fetch-mode") == Some("navigate")
}

/// The address of this server as the browser sees it, such as `https://hooks.example.com`.
pub(crate) fn address(request: &Request) -> String {
    let host = text(request, "x-forwarded-host").or_else(|| text(request, "host")).unwrap_or("localhost");
    // The address becomes part of commands that people copy.
    let is_plain = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte));
    let scheme = if is_secure(request) { "https" } else { "http" };
    format!("{scheme}://{}", if is_plain { host } else { "localhost" })
}

fn is_secure(request: &Request) -> bool {
    text(request, "x-forwarded-proto") == Some("https")
        || text(request, "origin").is_some_and(|origin| origin.starts_with("https://"))
}

fn text<'r>(request: &'r Request, name: &str) -> Option<&'r str> {
    request.headers().get(name)?.to_str().ok()
}

fn cookie<'r>(request: &'r Request, name: &str) -> Option<&'r str> {
    let pairs = request.headers().get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    pairs.flat_map(|list| list.split(';')).find_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix('='))
}
