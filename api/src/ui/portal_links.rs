//! The portal links that still work, a form for a new one, and revoking. What a customer meets who opens one is in
//! `portal`.

use maud::{Markup, html};
use poem::http::StatusCode;
use postrider_core::{
    access::{
        api_key::{self, ApiKey, KeyKind, NewApiKey, Scope},
        portal_link::{self, EXPIRES_IN_SECONDS_DEFAULT, PortalAccess, PortalLinkId, PortalLinkInput},
    },
    announce::changes::Change,
    event::idempotency::Creation,
    id::KeyId,
    validation::Problems,
};

use crate::{
    serve::{problem::ApiError, public_url::PublicUrl},
    ui::{
        fields::{Fields, TENANT},
        page::{Next, Page, Section, Visit},
        parts::{self, Button, Weight, nothing, panel},
        portal,
        rows::{Rows, window},
    },
};

/// What each kind of access allows, in the order of the form.
const ACCESS: [(PortalAccess, &str); 2] = [
    (PortalAccess::View, "see everything but secrets"),
    (PortalAccess::Manage, "see everything, retry, pause, and change subscriptions"),
];
/// How long a link may work, in seconds and in words.
const LASTS: [(u32, &str); 5] = [
    (300, "5 minutes"),
    (900, "15 minutes"),
    (EXPIRES_IN_SECONDS_DEFAULT, "1 hour"),
    (28_800, "8 hours"),
    (86_400, "24 hours"),
];

/// The page.
pub(crate) async fn page(visit: &Visit) -> Result<Page, ApiError> {
    visit.require(Scope::Admin)?;
    Ok(with(visit, &Fields::default(), &nothing()).await)
}

async fn with(visit: &Visit, form: &Fields, note: &Markup) -> Page {
    let list = match list(visit).await {
        Ok(rows) => show(visit, &rows),
        Err(error) => parts::trouble(visit, &error),
    };
    let sentence = html! {
        "A link opens the dashboard of one tenant, without an account, until it expires. Give it to your customer."
    };
    let body = html! {
        (parts::head(&parts::text("Portal links"), &sentence, &nothing()))
        (note)
        section.panel #list { (list) }
        (panel("New portal link", &nothing(), &new(visit, form)))
    };
    Page::new(Section::PortalLinks, "Portal links", body)
}

async fn list(visit: &Visit) -> Result<Rows<ApiKey>, ApiError> {
    let tenant = visit.lists()?;
    let window = window(visit, |PortalLinkId(id)| id.0)?;
    let found = portal_link::list(visit.pool(), tenant.as_deref(), window).await?;
    Ok(Rows::whole(found, |link| link.id.0))
}

fn show(visit: &Visit, rows: &Rows<ApiKey>) -> Markup {
    if rows.is_empty() {
        let none = html! {
            p { "Links that have expired or were revoked are not listed; the audit log knows who made them." }
        };
        return parts::empty(visit, "external-link", "No link works", &none);
    }
    html! {
        table.cards {
            caption.unseen { "Portal links that still work, the newest first" }
            thead {
                tr {
                    th scope="col" { "Link" }
                    th scope="col" { "Tenant" }
                    th scope="col" { "Access" }
                    th scope="col" { "Made" }
                    th scope="col" { "Last used" }
                    th scope="col" { "Expires" }
                    th scope="col" { span.unseen { "What can be done" } }
                }
            }
            tbody { @for link in &rows.items { (row(visit, link)) } }
        }
        (rows.foot(visit, KeyId::PREFIX, "links"))
    }
}

fn row(visit: &Visit, link: &ApiKey) -> Markup {
    let action = format!("portal-links/{}/revoke", link.id);
    let revoke = Button { action, icon: "x", word: "Revoke", weight: Weight::Usual };
    html! {
        tr {
            th scope="row" { (link.name.as_str()) span.sub.mono { (link.hint) "…" } }
            td data-label="Tenant" { (link.tenant_id.as_deref().unwrap_or_default()) }
            td data-label="Access" { code.tag { (PortalAccess::of(link)) } }
            td data-label="Made" { (parts::time(visit, link.created_at)) }
            td data-label="Last used" { (parts::maybe_time(visit, link.last_used_at)) }
            td data-label="Expires" { (parts::maybe_time(visit, link.expires_at)) }
            td.do { (revoke.behind(visit, "It opens nothing any more, and whoever came by it is signed out at once.")) }
        }
    }
}

fn new(visit: &Visit, form: &Fields) -> Markup {
    let access = form.get("access").unwrap_or(PortalAccess::View.as_str());
    let lasts = form.get("expires_in_seconds").and_then(|text| text.parse().ok()).unwrap_or(EXPIRES_IN_SECONDS_DEFAULT);
    let typed = Some(form.text(TENANT)).filter(|typed| !typed.is_empty());
    let tenant = typed.or(visit.tenant()).unwrap_or_default();
    html! {
        form.inline method="post" action=(visit.to("portal-links")) {
            @if visit.access.tenant().is_none() {
                div.field {
                    label for="tenant_id" { "Tenant" }
                    input #tenant_id name=(TENANT) type="text" required maxlength="64" value=(tenant)
                        placeholder="acme" autocomplete="off";
                }
            }
            div.field {
                label for="expires_in_seconds" { "Works for" }
                select #expires_in_seconds name="expires_in_seconds" {
                    @for (seconds, words) in LASTS {
                        option value=(seconds) selected[seconds == lasts] { (words) }
                    }
                }
            }
            div.field {
                label for="label" { "Label" }
                input #label name="label" type="text" maxlength="200" value=(form.text("label"))
                    placeholder="Only you see it" autocomplete="off";
            }
            fieldset.ticks {
                legend { "Whoever opens it may" }
                @for (one, words) in ACCESS {
                    label.tick {
                        input type="radio" name="access" value=(one) checked[access == one.as_str()];
                        span { code { (one) } " " (words) }
                    }
                }
            }
            button.button.main type="submit" { (visit.icon("plus")) "Make a portal link" }
        }
    }
}

/// Makes a link, and shows it this once.
pub(crate) async fn create(visit: &Visit, form: &Fields) -> Result<Next, ApiError> {
    visit.require(Scope::Admin)?;
    let new = match parse(visit, form) {
        Ok(new) => new,
        Err(problems) => {
            let note = html! {
                div.note.bad role="alert" { (visit.icon("circle-alert")) p { "No link was made: " (problems) "." } }
            };
            let page = with(visit, form, &note).await;
            return Ok(Next::Show(Page { status: StatusCode::UNPROCESSABLE_ENTITY, ..page }));
        }
    };
    let app = &visit.app;
    let made = api_key::create(&app.pool, &app.keyring, visit.access.actor(), &new, None, |_, _| Vec::new()).await?;
    let Creation::Now((link, text)) = made else {
        // Only a request with an idempotency key gets an earlier answer, and a form has none.
        return Ok(Next::done("portal-links", "The link was made before."));
    };
    let base = app.public_url.as_ref().map_or(visit.address.as_str(), PublicUrl::as_str);
    let note = html! {
        div.note.ok role="status" {
            (visit.icon("circle-check"))
            div {
                p {
                    "The link opens the dashboard of " strong { (link.tenant_id.as_deref().unwrap_or_default()) } ". "
                    "It is shown this once, and stored nowhere. Whoever has it can open it until it expires."
                }
                (parts::code_box(visit, "The new portal link", &portal::url(base, &text)))
            }
        }
    };
    Ok(Next::Show(with(visit, &Fields::default(), &note).await))
}

fn parse(visit: &Visit, form: &Fields) -> Result<NewApiKey, Problems> {
    let seconds = form
        .get("expires_in_seconds")
        .map(|text| text.parse().map_err(|_| Problems::one("expires_in_seconds", "must be a whole number")));
    let input = PortalLinkInput {
        tenant_id: Some(visit.access.tenant().unwrap_or(form.text(TENANT)).to_owned()),
        access: form.get("access").map(str::to_owned),
        expires_in_seconds: seconds.transpose()?,
        label: form.get("label").map(str::to_owned),
    };
    input.parse(visit.now)
}

/// Revokes a link.
pub(crate) async fn revoke(visit: &Visit, id: &str) -> Result<Next, ApiError> {
    visit.require(Scope::Admin)?;
    let id: PortalLinkId = visit.find(id).await?;
    let app = &visit.app;
    let (revoked, digest) = api_key::revoke(&app.pool, visit.access.actor(), KeyKind::PortalLink, id.0).await?;
    app.keys.invalidate(&Change::ApiKey(digest)).await;
    Ok(Next::done("portal-links", format!("The link {} opens nothing any more.", revoked.name.as_str())))
}
