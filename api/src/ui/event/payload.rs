//! An event's payload on its page: with indents, as a tree, as it arrived, or in hexadecimal; and as a file.

use maud::{Markup, html};
use poem::{Response, http::header};
use postrider_core::{
    event::{self, Event},
    id::EventId,
};

use crate::{
    serve::problem::ApiError,
    ui::{
        page::Visit,
        parts::{self, panel},
        pretty::{self, readable},
    },
};

/// Bytes of a payload that the page shows at once.
const SHOWN_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a payload that the page shows where somebody asks for all of it.
const WHOLE_BYTES_MAX: usize = 1024 * 1024;
/// Bytes that are shown in hexadecimal, each of which takes four characters.
const HEX_BYTES_MAX: usize = 16 * 1024;
/// The fields of the address: how the payload is shown, and whether all of it.
const FORM: &str = "payload";
const WHOLE: &str = "whole";

/// How a payload is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Pretty,
    Tree,
    Raw,
    Hex,
}

impl Form {
    const ALL: [Self; 4] = [Self::Pretty, Self::Tree, Self::Raw, Self::Hex];

    fn name(self) -> &'static str {
        match self {
            Self::Pretty => "pretty",
            Self::Tree => "tree",
            Self::Raw => "raw",
            Self::Hex => "hex",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Pretty => "Pretty",
            Self::Tree => "Tree",
            Self::Raw => "Raw",
            Self::Hex => "Hex",
        }
    }

    /// The one that the address names; one that it does not know is the usual one.
    fn of(visit: &Visit) -> Self {
        let named = visit.query.get(FORM);
        Self::ALL.into_iter().find(|form| Some(form.name()) == named).unwrap_or(Self::Pretty)
    }

    fn bytes_max(self, visit: &Visit) -> usize {
        match self {
            Self::Hex => HEX_BYTES_MAX,
            Self::Pretty | Self::Tree | Self::Raw if visit.query.has(WHOLE) => WHOLE_BYTES_MAX,
            Self::Pretty | Self::Tree | Self::Raw => SHOWN_BYTES_MAX,
        }
    }
}

/// The panel.
pub(super) async fn show(visit: &Visit, event: &Event) -> Markup {
    let chosen = Form::of(visit);
    let link = |form: Form| {
        let named = Some(form.name()).filter(|_| form != Form::Pretty);
        format!("{}#payload", visit.with_query(&visit.query.with(FORM, named)))
    };
    let forms = html! {
        nav.ranges #payload aria-label="How the payload is shown" {
            @for form in Form::ALL {
                // Only a script makes a tree.
                a.only-script[form == Form::Tree] href=(link(form))
                    aria-current=[(form == chosen).then_some("true")] { (form.word()) }
            }
        }
    };
    let body = match event::payload(visit.pool(), EventId(event.id)).await.map_err(ApiError::from) {
        Ok(payload) => body(visit, event, &payload.bytes, chosen),
        Err(error) => parts::trouble(visit, &error),
    };
    panel("Payload", &forms, &body)
}

fn body(visit: &Visit, event: &Event, bytes: &[u8], form: Form) -> Markup {
    if bytes.is_empty() {
        return html! { p.hint { "It is empty." } };
    }
    let shown = match form {
        Form::Hex => &bytes[..bytes.len().min(HEX_BYTES_MAX)],
        Form::Pretty | Form::Tree | Form::Raw => pretty::beginning(bytes, form.bytes_max(visit)),
    };
    let text = match form {
        Form::Pretty | Form::Tree => readable(shown),
        Form::Raw => String::from_utf8_lossy(shown),
        Form::Hex => pretty::hexadecimal(shown).into(),
    };
    let is_more = shown.len() < bytes.len();
    let may_be_whole = is_more && form != Form::Hex && !visit.query.has(WHOLE);
    html! {
        div.payload data-tree[form == Form::Tree] data-exact[form == Form::Hex] {
            (parts::code_box(visit, "Payload", &text))
        }
        p.hint {
            @if is_more {
                "These are the first " (parts::bytes(i64::try_from(shown.len()).unwrap_or(i64::MAX))) ". "
            }
            @if may_be_whole {
                a href=(format!("{}#payload", visit.with_query(&visit.query.with(WHOLE, Some("true"))))) {
                    "Show all of it"
                }
                ", up to " (parts::bytes(i64::try_from(WHOLE_BYTES_MAX).unwrap_or(i64::MAX))) ". "
            }
            @if let Some(encoding) = &event.content_encoding { "It is packed with " (encoding) ". " }
            a href=(visit.to(format!("events/{}/payload", EventId(event.id)))) {
                (visit.icon("download")) " Download it as it arrived"
            }
        }
    }
}

/// The payload as a file, byte for byte. A browser saves it and does not show it, whatever it is.
pub(crate) async fn file(visit: &Visit, id: &str) -> Result<Response, ApiError> {
    let id: EventId = visit.find(id).await?;
    let payload = event::payload(visit.pool(), id).await?;
    let response = Response::builder()
        .content_type("application/octet-stream")
        .header(header::CONTENT_DISPOSITION, format!("attachment; filename=\"{id}.payload\""))
        .header(header::CONTENT_SECURITY_POLICY, "default-src 'none'; sandbox");
    Ok(response.body(payload.bytes))
}
