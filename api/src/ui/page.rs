//! What a page is, and what it knows of the request that asks for it.

use std::fmt;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use maud::{Markup, html};
use poem::http::StatusCode;
use postrider_core::{
    access::{api_key::Scope, tenancy::Owned},
    id::DeliveryId,
    subscription::store::Subscriptions,
};
use sqlx::PgPool;
use uuid::Uuid;

use crate::{
    access::Access,
    app::App,
    serve::problem::ApiError,
    ui::{
        assets::Assets,
        deliveries::columns::COLUMNS,
        fields::{CURSOR, Fields, NEWEST, OPEN, TENANT, query},
    },
};

/// A request for a page by somebody who has signed in.
pub(crate) struct Visit {
    pub(crate) app: App,
    /// What the visitor's key reaches.
    pub(crate) access: Access,
    /// Who the visitor is.
    pub(crate) who: Who,
    /// The path below `/ui/`.
    pub(crate) path: String,
    /// The fields behind `?`.
    pub(crate) query: Fields,
    /// The way from this page to `/ui/`: nothing, `../` or `../../`. All links are relative, so that pages work below
    /// any path of a proxy.
    pub(crate) root: String,
    /// The address of this server as the browser sees it.
    pub(crate) address: String,
    /// The last message of the feed that the browser has seen before its connection broke.
    pub(crate) last_event_id: Option<String>,
    pub(crate) theme: Theme,
    /// What the form did that led to this page.
    pub(crate) note: Option<Note>,
    /// The time of the request.
    pub(crate) now: DateTime<Utc>,
}

impl Visit {
    /// Connections for reading what pages show. A statement on them may take two seconds.
    #[expect(clippy::misnamed_getters, reason = "pages read over connections of their own")]
    pub(crate) fn pool(&self) -> &PgPool {
        &self.app.pages
    }

    /// Subscriptions, read over the connections of pages.
    #[expect(clippy::misnamed_getters, reason = "pages read over connections of their own")]
    pub(crate) fn subscriptions(&self) -> &Subscriptions {
        &self.app.page_subscriptions
    }

    /// Reads an id of the path or the query as the API does.
    pub(crate) async fn find<I: Owned + std::str::FromStr>(&self, text: &str) -> Result<I, ApiError> {
        self.access.find(self.pool(), text).await
    }

    /// Like [`Self::find`], for a field of the query that may be absent.
    pub(crate) async fn find_named<I: Owned + std::str::FromStr<Err: fmt::Display>>(
        &self,
        field: &str,
    ) -> Result<Option<I>, ApiError> {
        self.access.find_named(self.pool(), field, self.query.get(field)).await
    }

    /// Whether the visitor is a customer who came by a portal link. Pages about the installation are not for customers.
    pub(crate) fn is_customer(&self) -> bool {
        match self.who {
            Who::Customer { .. } => true,
            Who::KeyHolder { .. } => false,
        }
    }

    /// Whether the visitor may change things; where not, no button is shown.
    pub(crate) fn may_manage(&self) -> bool {
        self.access.may(Scope::Manage)
    }

    /// Whether the visitor may see keys and the audit log.
    pub(crate) fn may_administer(&self) -> bool {
        self.access.may(Scope::Admin)
    }

    /// An error where the visitor's key lacks this scope.
    pub(crate) fn require(&self, scope: Scope) -> Result<(), ApiError> {
        if self.access.may(scope) { Ok(()) } else { Err(ApiError::forbidden(scope)) }
    }

    /// The tenant that the visitor has chosen to look at; `None` where nobody chose one, or the key has no choice. It
    /// stands in the address, and links carry it on.
    pub(crate) fn tenant(&self) -> Option<&str> {
        if self.access.tenant().is_some() { None } else { self.query.get(TENANT) }
    }

    /// The tenant whose things are listed: the chosen one, or else the key's own; `None` for all tenants.
    pub(crate) fn lists(&self) -> Result<Option<String>, ApiError> {
        self.access.lists(self.query.get(TENANT))
    }

    /// Whether the page shows what belongs to all tenants together.
    pub(crate) fn sees_all(&self) -> bool {
        self.access.tenant().is_none() && self.tenant().is_none()
    }

    /// Whether the address narrows a list by more than by a tenant.
    pub(crate) fn is_filtered(&self) -> bool {
        let narrowing = [TENANT, NEWEST, COLUMNS]
            .iter()
            .fold(self.query.with(CURSOR, None), |fields, name| fields.with(name, None));
        !narrowing.query().is_empty()
    }

    /// A link from this page to another one, whose path below `/ui/` is given. The chosen tenant goes with it.
    pub(crate) fn to(&self, path: impl fmt::Display) -> String {
        let path = path.to_string();
        match self.tenant() {
            Some(tenant) if !path.contains("tenant_id=") => {
                let field = query([(TENANT, tenant)]);
                self.to_all(if path.contains('?') { path + &field.replacen('?', "&", 1) } else { path + &field })
            }
            Some(_) | None => self.to_all(path),
        }
    }

    /// Like [`Self::to`], without the chosen tenant.
    pub(crate) fn to_all(&self, path: impl fmt::Display) -> String {
        let path = path.to_string();
        if self.root.is_empty() && (path.is_empty() || path.starts_with('?')) {
            format!("./{path}")
        } else {
            format!("{}{path}", self.root)
        }
    }

    /// A link from this page to itself with other fields.
    pub(crate) fn with_query(&self, fields: &Fields) -> String {
        self.to(format!("{}{}", self.path, fields.query()))
    }

    /// The drawing of an icon. It says nothing that words beside it do not say.
    pub(crate) fn icon(&self, name: &str) -> Markup {
        icon(&self.root, name)
    }

    /// The id of the delivery that is shown beside the list, if one is.
    pub(crate) fn open(&self) -> Option<&str> {
        self.query.get(OPEN)
    }

    /// A link from this page to itself, with its query.
    pub(crate) fn here(&self) -> String {
        self.with_query(&self.query)
    }

    /// A link from this page to something outside of the dashboard, such as `swagger`.
    pub(crate) fn outside(&self, path: &str) -> String {
        format!("{}../{path}", self.root)
    }
}

/// Somebody who looks at pages.
#[derive(Clone, Debug)]
pub(crate) enum Who {
    /// Somebody who has signed in with a key of this name.
    KeyHolder { name: String },
    /// Somebody who came by a portal link, which ends at this time.
    Customer { until: Option<DateTime<Utc>> },
}

/// The drawing of an icon on a page with this way to `/ui/`; nothing where the icons were not fetched.
pub(crate) fn icon(root: &str, name: &str) -> Markup {
    html! {
        @if let Some(file) = Assets::get().file("icons.svg") {
            svg.icon aria-hidden="true" { use href=(format!("{root}assets/{file}#{name}")) {} }
        }
    }
}

/// The part of the dashboard to which a page belongs; the navigation marks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    Overview,
    Events,
    Deliveries,
    Subscriptions,
    DeadLetters,
    Jobs,
    Emitters,
    Live,
    Lanes,
    Tenants,
    Keys,
    PortalLinks,
    Audit,
    About,
    /// A page that stands in no part.
    Nowhere,
}

/// A page before it gets its frame.
pub(crate) struct Page {
    pub(crate) status: StatusCode,
    pub(crate) title: String,
    pub(crate) section: Section,
    pub(crate) body: Markup,
}

impl Page {
    pub(crate) fn new(section: Section, title: impl Into<String>, body: Markup) -> Self {
        Self { status: StatusCode::OK, title: title.into(), section, body }
    }
}

/// What follows a form that was sent.
pub(crate) enum Next {
    /// The browser goes to this page below `/ui/`, which shows the sentence.
    Go(String, Note),
    /// A page is shown at once, such as a form with its mistakes, or a secret that is shown only once.
    Show(Page),
}

impl Next {
    /// Like [`Self::done`]; the form `undo` does the opposite.
    pub(crate) fn undoable(to: impl Into<String>, sentence: impl Into<String>, undo: Undo) -> Self {
        Self::Go(to.into(), Note::Undoable { sentence: sentence.into(), undo })
    }

    /// The browser goes to this page, which says what was done.
    pub(crate) fn done(to: impl Into<String>, sentence: impl Into<String>) -> Self {
        Self::Go(to.into(), Note::Done(sentence.into()))
    }
}

/// A sentence about what a form did.
#[derive(Clone, Debug)]
pub(crate) enum Note {
    /// It was done.
    Done(String),
    /// It was done, and this form does the opposite.
    Undoable { sentence: String, undo: Undo },
    /// It could not be done, for this reason.
    Refused(String),
}

impl Note {
    /// The note as one text.
    pub(crate) fn to_text(&self) -> String {
        match self {
            Self::Done(text) => format!("+{text}"),
            Self::Undoable { sentence, undo } => format!("~{}\n{}\n{sentence}", undo.path, undo.rows()),
            Self::Refused(text) => format!("-{text}"),
        }
    }

    /// The note that was made into this text.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        match text.split_at_checked(1)? {
            ("+", text) => Some(Self::Done(text.to_owned())),
            ("~", text) => {
                let (path, rest) = text.split_once('\n')?;
                let (rows, sentence) = rest.split_once('\n')?;
                Some(Self::Undoable { sentence: sentence.to_owned(), undo: Undo::parse(path, rows)? })
            }
            ("-", text) => Some(Self::Refused(text.to_owned())),
            _ => None,
        }
    }
}

/// A form that does the opposite of what was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Undo {
    /// The path below `/ui/` to which it is sent.
    pub(crate) path: String,
    /// The deliveries that it names: exactly those with which something was done. It names none where the path says it.
    pub(crate) deliveries: Vec<DeliveryId>,
}

impl Undo {
    /// A form whose path says everything.
    pub(crate) fn by(path: String) -> Self {
        Self { path, deliveries: Vec::new() }
    }

    /// The deliveries as a text that is short enough for a cookie.
    fn rows(&self) -> String {
        let bytes: Vec<u8> = self.deliveries.iter().flat_map(|id| id.0.into_bytes()).collect();
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    fn parse(path: &str, rows: &str) -> Option<Self> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(rows).ok()?;
        let id = |bytes: &[u8]| Uuid::from_slice(bytes).ok().map(DeliveryId);
        Some(Self { path: path.to_owned(), deliveries: bytes.chunks(16).map(id).collect::<Option<_>>()? })
    }
}

/// The colours of the pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Theme {
    /// As the browser's owner has set it for all pages.
    Auto,
    Light,
    Dark,
}

impl Theme {
    pub(crate) const ALL: [Self; 3] = [Self::Auto, Self::Light, Self::Dark];
}

impl fmt::Display for Theme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Light => "light",
            Self::Dark => "dark",
        })
    }
}

impl std::str::FromStr for Theme {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|theme| theme.to_string() == text).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_names_all_rows_of_a_page_within_a_cookie() {
        let deliveries: Vec<_> = (0..100).map(|number| DeliveryId(Uuid::from_u128(number << 77))).collect();
        let undo = Undo { path: "deliveries/selected?action=unresolve".to_owned(), deliveries };
        let note = Note::Undoable { sentence: "Done. ".repeat(60), undo: undo.clone() };
        let text = note.to_text();
        // Sealing adds some 40 bytes, and a third for base64. A cookie may have 4,096.
        assert!((text.len() + 64) * 4 / 3 < 4_000, "{}", text.len());
        let Some(Note::Undoable { sentence, undo: read }) = Note::from_text(&text) else { panic!("{text}") };
        assert_eq!((sentence, read), ("Done. ".repeat(60), undo));
        assert!(Note::from_text("~path\n!\nsentence").is_none());
    }
}
