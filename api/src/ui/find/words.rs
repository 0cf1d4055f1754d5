//! What completes a search while it is typed: its words with their values, types of events, and subscriptions. Each
//! answer is small, and made of bounded looks.

use chrono::{Days, NaiveTime};
use maud::{Markup, html};
use poem::Response;
use postrider_core::{
    delivery::{Status, cause::Cause},
    event::find::types_from,
    id::SubscriptionId,
    subscription::find::like,
};

use crate::{
    serve::problem::ApiError,
    ui::{find::WORDS, page::Visit},
};

/// Types of events, and subscriptions, that one answer offers, at most.
const OFFERED_MAX: usize = 8;
/// Types of events are those of so many days before today.
const DAYS: u64 = 7;
/// Spans of time that are offered.
const SPANS: [&str; 5] = ["15m", "1h", "24h", "7d", "30d"];

/// What can stand in the place of the last word, with what it means where its text does not say so.
type Offer = (String, Option<String>);

/// The answer: options for the list of the search box. Each is the whole text, with its last word completed.
pub(crate) async fn answer(visit: &Visit) -> Result<Response, ApiError> {
    let text = visit.query.text("q");
    let at = text.rfind(char::is_whitespace).map_or(0, |at| at + text[at..].chars().next().map_or(1, char::len_utf8));
    let (before, word) = text.split_at(at);
    let offers = offers(visit, before, word).await?;
    let options: Markup = html! {
        @for (offer, meaning) in &offers {
            option value=(format!("{before}{offer}")) label=[meaning.as_deref()] {}
        }
    };
    Ok(Response::builder().content_type("text/html; charset=utf-8").body(options.into_string()))
}

async fn offers(visit: &Visit, before: &str, word: &str) -> Result<Vec<Offer>, ApiError> {
    if let Some((name, value)) = word.split_once(':') {
        let plain = |values: Vec<String>| {
            let fitting = values.into_iter().filter(|one| one.contains(value));
            fitting.map(|one| (format!("{name}:{one}"), None)).collect()
        };
        return Ok(match name {
            "status" => plain(Status::ALL.map(|status| status.to_string()).to_vec()),
            "cause" => plain(Cause::all().map(|cause| cause.to_string()).collect()),
            "since" | "until" => plain(SPANS.map(str::to_owned).to_vec()),
            "inline" | "replays" => plain(vec!["true".to_owned()]),
            "type" => plain(types(visit, value).await?),
            "sub" => subscriptions(visit, value, "sub:").await?,
            _ => Vec::new(),
        });
    }
    let names = WORDS.iter().map(|(name, _)| *name).chain(["id", "meta."]).filter(|name| name.starts_with(word));
    let ends = |name: &str| if name.ends_with('.') { name.to_owned() } else { format!("{name}:") };
    let mut offers: Vec<Offer> = names.map(|name| (ends(name), None)).collect();
    if !word.is_empty() {
        // A type or a subscription by itself leads to a page, and stands behind its word among others.
        let (of_type, of_subscription) = if before.is_empty() { ("", "") } else { ("type:", "sub:") };
        offers.extend(types(visit, word).await?.into_iter().map(|one| (format!("{of_type}{one}"), None)));
        offers.extend(subscriptions(visit, word, of_subscription).await?);
    }
    Ok(offers)
}

/// Types of events of the last days that begin so.
async fn types(visit: &Visit, beginning: &str) -> Result<Vec<String>, ApiError> {
    // Whole days are whole partitions, so no event is read that is too old.
    let first = visit.now.date_naive().checked_sub_days(Days::new(DAYS)).unwrap_or_default();
    let since = first.and_time(NaiveTime::MIN).and_utc();
    let tenant = visit.lists()?;
    let types = types_from(visit.pool(), tenant.as_deref(), beginning, since).await?;
    Ok(types.into_iter().filter(|one| one.starts_with(beginning)).take(OFFERED_MAX).collect())
}

/// Subscriptions that have this text in their names or URLs, by their ids.
async fn subscriptions(visit: &Visit, text: &str, before: &str) -> Result<Vec<Offer>, ApiError> {
    let tenant = visit.lists()?;
    let limit = i64::try_from(OFFERED_MAX).unwrap_or(i64::MAX);
    let found = like(visit.pool(), tenant.as_deref(), text, limit).await?;
    let offer = |id, name: Option<String>, url: String| {
        let name = name.map_or_else(|| url.clone(), |name| format!("{name} · {url}"));
        (format!("{before}{}", SubscriptionId(id)), Some(name))
    };
    Ok(found.into_iter().map(|one| offer(one.id, one.name, one.target_url)).collect())
}
