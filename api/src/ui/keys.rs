//! The API keys: who has one, what each may do, a form for a new one, and revoking.

use chrono::{DateTime, Utc};
use maud::{Markup, html};
use poem::http::StatusCode;
use postrider_core::{
    access::{
        api_key::{self, ApiKey, KeyKind, NewApiKey, Scope},
        ingest_limit::RateLimit,
    },
    announce::changes::Change,
    event::idempotency::Creation,
    id::KeyId,
    name::Name,
    validation::{Problems, moment},
};

use crate::{
    serve::problem::ApiError,
    ui::{
        deliveries,
        fields::Fields,
        page::{Next, Page, Section, Visit},
        parts::{self, Button, Tone, Weight, nothing, panel},
        rows::{Rows, window},
    },
};

/// What each scope allows, in the order of the form.
const SCOPES: [(Scope, &str); 4] = [
    (Scope::Read, "read everything but secrets"),
    (Scope::Manage, "read and change"),
    (Scope::Ingest, "post events and inline deliveries"),
    (Scope::Admin, "everything, keys and the audit log too"),
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
    let body = html! {
        (parts::head(&parts::text("API keys"), &html! { "Who may do what, for which tenant." }, &nothing()))
        (note)
        section.panel #list { (list) }
        (panel("New key", &nothing(), &new(visit, form)))
    };
    Page::new(Section::Keys, "API keys", body)
}

async fn list(visit: &Visit) -> Result<Rows<ApiKey>, ApiError> {
    let tenant = visit.lists()?;
    let found = api_key::list(visit.pool(), tenant.as_deref(), window(visit, |id: KeyId| id.0)?).await?;
    Ok(Rows::whole(found, |key| key.id.0))
}

fn show(visit: &Visit, rows: &Rows<ApiKey>) -> Markup {
    if rows.is_empty() {
        return parts::empty(
            visit,
            "key-round",
            "No keys yet",
            &html! {
                p {
                "Only the admin key of the environment opens this installation. Make a key for each program and each "
                "person."
            }
            },
        );
    }
    html! {
        table.cards {
            caption.unseen { "API keys" }
            thead {
                tr {
                    th scope="col" { "State" }
                    th scope="col" { "Key" }
                    th scope="col" { "Scopes" }
                    th scope="col" { "Tenant" }
                    th scope="col" { "Last used" }
                    th scope="col" { "Expires" }
                    th scope="col" { span.unseen { "What can be done" } }
                }
            }
            tbody { @for key in &rows.items { (row(visit, key)) } }
        }
        (rows.foot(visit, KeyId::PREFIX, "keys"))
    }
}

fn row(visit: &Visit, key: &ApiKey) -> Markup {
    let has_expired = key.expires_at.is_some_and(|at| at <= visit.now);
    let revoke = Button { action: format!("keys/{}/revoke", key.id), icon: "x", word: "Revoke", weight: Weight::Usual };
    html! {
        tr {
            td {
                @if key.revoked_at.is_some() { (parts::badge(visit, Tone::Plain, "ban", "Revoked")) }
                @else if has_expired { (parts::badge(visit, Tone::Plain, "clock", "Expired")) }
                @else { (parts::badge(visit, Tone::Ok, "circle-check", "Valid")) }
            }
            th scope="row" { (key.name.as_str()) span.sub.mono { (key.hint) "…" } }
            td data-label="Scopes" { @for scope in &key.scopes { code.tag { (scope) } " " } }
            td data-label="Tenant" { (key.tenant_id.as_deref().unwrap_or("every one")) }
            td data-label="Last used" { (parts::maybe_time(visit, key.last_used_at)) }
            td data-label="Expires" { (parts::maybe_time(visit, key.expires_at)) }
            td.do {
                @if key.revoked_at.is_none() {
                    (revoke.behind(visit, "It opens nothing any more, at once and everywhere. This cannot be undone."))
                }
            }
        }
    }
}

fn new(visit: &Visit, form: &Fields) -> Markup {
    let chosen: Vec<_> = form.all("scopes").collect();
    html! {
        form.inline method="post" action=(visit.to("keys")) {
            div.field {
                label for="name" { "Name" }
                input #name name="name" type="text" required value=(form.text("name")) placeholder="Order service"
                    autocomplete="off";
            }
            @if visit.access.tenant().is_none() {
                div.field {
                    label for="tenant_id" { "Only for the tenant" }
                    input #tenant_id name="tenant_id" type="text" value=(form.text("tenant_id")) placeholder="every one"
                        autocomplete="off";
                }
            }
            div.field {
                label for="expires_at" { "Expires (UTC)" }
                input #expires_at name="expires_at" type="datetime-local" value=(form.text("expires_at"));
            }
            div.field {
                label for="rate_limit_per_second" { "Posts a second" }
                input #rate_limit_per_second name="rate_limit_per_second" type="number" min="1"
                    value=(form.text("rate_limit_per_second")) placeholder="no limit";
            }
            fieldset.ticks {
                legend { "It may" }
                @for (scope, words) in SCOPES {
                    label.tick {
                        input type="checkbox" name="scopes" value=(scope) checked[chosen.contains(&scope.as_str())];
                        span { code { (scope) } " " (words) }
                    }
                }
            }
            button.button.main type="submit" { (visit.icon("plus")) "Make the key" }
        }
    }
}

/// Makes a key, and shows it this once.
pub(crate) async fn create(visit: &Visit, form: &Fields) -> Result<Next, ApiError> {
    visit.require(Scope::Admin)?;
    let tenant = visit.access.lists(form.get("tenant_id"))?;
    let expires_at = deliveries::filters::moment("expires_at", form.get("expires_at"), visit.now)?;
    let new = match parse(form, tenant, expires_at, visit.now) {
        Ok(new) => new,
        Err(problems) => {
            let note = html! {
                div.note.bad role="alert" { (visit.icon("circle-alert")) p { "No key was made: " (problems) "." } }
            };
            let page = with(visit, form, &note).await;
            return Ok(Next::Show(Page { status: StatusCode::UNPROCESSABLE_ENTITY, ..page }));
        }
    };
    let app = &visit.app;
    let made = api_key::create(&app.pool, &app.keyring, visit.access.actor(), &new, None, |_, _| Vec::new()).await?;
    let Creation::Now((key, text)) = made else {
        // Only a request with an idempotency key gets an earlier answer, and a form has none.
        return Ok(Next::done("keys", "The key was made before."));
    };
    // Somebody may have tried this key before it was stored; then the cache remembers that it does not exist.
    app.keys.invalidate(&Change::ApiKey(api_key::digest(&text))).await;
    let note = html! {
        div.note.ok role="status" {
            (visit.icon("circle-check"))
            div {
                p { "The key " strong { (key.name.as_str()) } " is made. It is shown this once, and stored nowhere." }
                (parts::code_box(visit, "The new key", &text))
            }
        }
    };
    Ok(Next::Show(with(visit, &Fields::default(), &note).await))
}

fn parse(
    form: &Fields,
    tenant_id: Option<String>,
    expires_at: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Result<NewApiKey, Problems> {
    let mut problems = Problems::default();
    let name = problems.take("name", Name::parse(form.get("name").unwrap_or_default().to_owned()));
    let mut scopes = Vec::new();
    for word in form.all("scopes") {
        scopes.extend(problems.take("scopes", word.parse::<Scope>()));
    }
    problems.require(!scopes.is_empty(), "scopes", "must name at least one");
    problems.require(expires_at.is_none_or(|at| at > now), "expires_at", "must be in the future");
    problems.take("expires_at", expires_at.map_or(Ok(()), moment));
    let number = form.get("rate_limit_per_second").map(|text| text.parse().map_err(|_| "must be a number".to_owned()));
    let rate_limit =
        number.and_then(|number| problems.take("rate_limit_per_second", number.and_then(RateLimit::parse)));
    let key = name.map(|name| NewApiKey { kind: KeyKind::Key, tenant_id, name, scopes, rate_limit, expires_at });
    problems.into_result()?;
    Ok(key.expect("its name is there, or noted as a problem"))
}

/// Revokes a key.
pub(crate) async fn revoke(visit: &Visit, id: &str) -> Result<Next, ApiError> {
    visit.require(Scope::Admin)?;
    let id: KeyId = visit.find(id).await?;
    let (revoked, digest) = api_key::revoke(&visit.app.pool, visit.access.actor(), KeyKind::Key, id).await?;
    visit.app.keys.invalidate(&Change::ApiKey(digest)).await;
    Ok(Next::done("keys", format!("The key {} opens nothing any more.", revoked.name.as_str())))
}
