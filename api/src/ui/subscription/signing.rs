//! What signs a subscription's deliveries: looking at the secrets, which the audit log notes, and replacing them.

use chrono::{DateTime, Utc};
use maud::{Markup, html};
use postrider_core::{
    event::idempotency::Creation,
    id::SubscriptionId,
    subscription::{Subscription, previous_secret::Overlap},
    trust::{
        signature::SignatureScheme,
        signing_secret::{SigningSecret, SigningSecrets},
    },
    validation::Problems,
};

use crate::{
    serve::problem::ApiError,
    ui::{
        fields::Fields,
        page::{Next, Note, Page, Visit},
        parts::{self, Button, Weight, facts, nothing, panel},
        subscription::{framed, read, verification},
    },
};

/// The overlaps that the form offers, in seconds, and their words.
const OVERLAPS: [(&str, &str); 5] = [
    ("86400", "a day"),
    ("3600", "an hour"),
    ("604800", "seven days"),
    ("300", "five minutes"),
    ("0", "not at all: the old one ends at once"),
];

/// The page.
pub(crate) async fn page(visit: &Visit, id: &str) -> Result<Page, ApiError> {
    let subscription = read(visit, id).await?;
    let hidden = html! {
        p { "The secret is kept sealed. Every look at it is written to the audit log." }
        @if visit.may_manage() {
            (Button {
                action: format!("subscriptions/{}/reveal", subscription.id),
                icon: "eye", word: "Show the secret", weight: Weight::Usual,
            }.form(visit))
        } @else { p.hint { "Your key may only read, so it cannot show the secret." } }
    };
    Ok(with(visit, &subscription, &hidden))
}

/// The page, with the secrets on it.
pub(crate) async fn reveal(visit: &Visit, id: &str) -> Result<Next, ApiError> {
    let id: SubscriptionId = visit.find(id).await?;
    let secrets = visit.app.subscriptions.show_secrets(visit.access.actor(), id).await?;
    let subscription = visit.app.subscriptions.get(id).await?;
    Ok(Next::Show(with(visit, &subscription, &shown(visit, &secrets))))
}

/// The page of a subscription that was just created, with its secret.
pub(crate) fn created(visit: &Visit, subscription: &Subscription) -> Page {
    let own = format!("subscriptions/{}", subscription.id);
    let body = html! {
        (panel("The subscription exists", &nothing(), &html! {
            p { "It receives events from now on. This is what signs its deliveries; its receiver needs it." }
            (shown(visit, &subscription.secrets))
            div.actions {
                a.button.main href=(visit.to(&own)) { "To the subscription" (visit.icon("arrow-right")) }
            }
        }))
    };
    framed(visit, subscription, "", &body)
}

fn with(visit: &Visit, subscription: &Subscription, secret: &Markup) -> Page {
    let content = html! {
        (panel("The secret", &nothing(), secret))
        (panel("How deliveries are signed", &nothing(), &explained(visit, subscription)))
        (verification::show(visit, subscription))
        @if visit.may_manage() { (panel("Replace the secret", &nothing(), &rotation(visit, subscription))) }
    };
    framed(visit, subscription, "/signing", &content)
}

fn shown(visit: &Visit, secrets: &SigningSecrets) -> Markup {
    let secret = |label: &str, secret: &SigningSecret| parts::code_box(visit, label, &secret.reveal());
    html! {
        (secret("The secret", &secrets.current))
        @if let Some(public) = secrets.current.public_key_text() {
            (parts::code_box(visit, "The public key", &public))
        }
        @for previous in secrets.overlapping(visit.now) {
            p.hint { "This one was replaced, and signs until " (parts::time(visit, previous.expires_at)) ":" }
            (secret("An earlier secret", &previous.secret))
        }
    }
}

fn explained(visit: &Visit, subscription: &Subscription) -> Markup {
    let scheme = subscription.settings.signature_scheme;
    let how = match scheme {
        SignatureScheme::Standard => "webhook-signature: v1 and HMAC-SHA256 over id.timestamp.body, in base64",
        SignatureScheme::StandardV1a => "webhook-signature: v1a and Ed25519 over id.timestamp.body, in base64",
        SignatureScheme::Github => "x-hub-signature-256: HMAC-SHA256 over the body, in hexadecimal",
        SignatureScheme::Timestamped => "x-webhook-signature: HMAC-SHA256 over timestamp.body, in hexadecimal",
    };
    let overlapping: Vec<DateTime<Utc>> =
        subscription.secrets.overlapping(visit.now).map(|previous| previous.expires_at).collect();
    let mut pairs = vec![("Scheme", html! { code { (scheme.as_str()) } }), ("Header", parts::text(how))];
    pairs.push((
        "Earlier secrets",
        if overlapping.is_empty() {
            parts::text("none signs any more")
        } else {
            html! { @for ends in &overlapping { "one signs until " (parts::time(visit, *ends)) " " } }
        },
    ));
    facts(&pairs)
}

fn rotation(visit: &Visit, subscription: &Subscription) -> Markup {
    html! {
        p { "A new secret signs from the next attempt on. For a while the old one signs beside it, so the receiver can "
            "change over without missing anything." }
        form.inline method="post" action=(visit.to(format!("subscriptions/{}/rotate", subscription.id))) {
            div.field {
                label for="overlap_seconds" { "The old one goes on signing for" }
                select #overlap_seconds name="overlap_seconds" {
                    @for (seconds, words) in OVERLAPS { option value=(seconds) { (words) } }
                }
            }
            div.field {
                label for="secret" { "The new secret" }
                input.mono #secret name="secret" type="text" placeholder="made for you where this is empty"
                    autocomplete="off" spellcheck="false";
            }
            button.button.main type="submit" { (visit.icon("rotate-cw")) "Replace the secret" }
        }
    }
}

/// Replaces the secret, and shows the new one.
pub(crate) async fn rotate(visit: &Visit, id: &str, form: &Fields) -> Result<Next, ApiError> {
    let id: SubscriptionId = visit.find(id).await?;
    let mut problems = Problems::default();
    let secret = form.get("secret").map(SigningSecret::parse);
    let secret = secret.and_then(|parsed| problems.take("secret", parsed));
    let seconds = form.get("overlap_seconds").map(|text| text.parse().map_err(|_| "must be seconds".to_owned()));
    let overlap = seconds.map_or_else(|| Ok(Overlap::default()), |seconds| seconds.and_then(Overlap::parse));
    let overlap = problems.take("overlap_seconds", overlap);
    if let Err(problems) = problems.into_result() {
        let back = format!("subscriptions/{id}/signing");
        return Ok(Next::Go(back, Note::Refused(format!("The secret stays as it is: {problems}."))));
    }
    let overlap = overlap.expect("it is there, or noted as a problem");
    let (store, actor) = (&visit.app.subscriptions, visit.access.actor());
    let made = store.rotate_secret(actor, id, secret, overlap, None, |_| Vec::new()).await?;
    let rotated = match made {
        Creation::Now(rotated) => rotated,
        // Only a request with an idempotency key gets an earlier answer, and a form has none.
        Creation::Before(_) => store.get(id).await?,
    };
    visit.app.forget(&rotated).await;
    let new = html! {
        div.note.ok role="status" {
            (visit.icon("circle-check")) p { "The secret is replaced. The receiver needs the new one." }
        }
        (shown(visit, &rotated.secrets))
    };
    Ok(Next::Show(with(visit, &rotated, &new)))
}
