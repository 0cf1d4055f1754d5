//! The search box: an id of any kind leads to its page, also a producer's own id; a host to the subscriptions there; an
//! event type to its deliveries; and words such as `status:dead_letter since:1h` to the deliveries that they mean.

pub(crate) mod words;

use maud::{Markup, html};
use postrider_core::{
    event::{event_type::EventType, find, idempotency::KEY_CHARACTERS_MAX},
    id::{DeliveryId, EmitterId, EventId, JobId, KeyId, SubscriptionId},
    subscription::find::{FOUND_MAX, Named, at_host},
    validation,
};
use url::Url;

use crate::{
    serve::problem::ApiError,
    ui::{
        fields::query,
        page::{Next, Note, Page, Section, Visit},
        parts,
    },
};

/// Words of a search, and the filters of the list of deliveries that they stand for.
const WORDS: [(&str, &str); 13] = [
    ("status", "status"),
    ("type", "event_type"),
    ("sub", "subscription_id"),
    ("event", "event_id"),
    ("job", "job_id"),
    ("tenant", "tenant_id"),
    ("cause", "cause"),
    ("slower", "slower_than_ms"),
    ("attempts", "min_attempts"),
    ("inline", "inline_only"),
    ("replays", "replays_only"),
    ("since", "since"),
    ("until", "until"),
];
/// The word that leads to events, and the filter of their list that it stands for: the producer's own id.
const OWN_ID: (&str, &str) = ("id", "external_id");
/// What stands before the key of an entry in the metadata.
const METADATA: &str = "meta.";

/// The list, and the filters of it, that a text of words such as `type:order.paid meta.region:eu` asks for; `None`
/// where it is no such text.
fn filters(text: &str) -> Option<(&'static str, Vec<(&str, &str)>)> {
    let filters: Vec<_> = text.split_whitespace().map(filter).collect::<Option<_>>()?;
    let is_of_events = filters.iter().any(|(field, _)| *field == OWN_ID.1);
    Some((if is_of_events { "events" } else { "deliveries" }, filters))
}

fn filter(word: &str) -> Option<(&str, &str)> {
    let (name, value) = word.split_once(':').filter(|(_, value)| !value.is_empty())?;
    if let Some(entry) = word.strip_prefix(METADATA) {
        return Some(("metadata", entry));
    }
    let (_, field) = WORDS.iter().chain([&OWN_ID]).find(|(known, _)| *known == name)?;
    Some((*field, value))
}

/// The page of what has this id.
fn page_of(visit: &Visit, id: &str) -> Option<String> {
    if id.parse::<DeliveryId>().is_ok() {
        return Some(format!("deliveries/{id}"));
    }
    if id.parse::<SubscriptionId>().is_ok() {
        return Some(format!("subscriptions/{id}"));
    }
    if id.parse::<EventId>().is_ok() {
        return Some(format!("events/{id}"));
    }
    if id.parse::<JobId>().is_ok() {
        return Some(format!("jobs/{id}"));
    }
    if id.parse::<EmitterId>().is_ok() {
        return Some("emitters".to_owned());
    }
    let is_key = id.parse::<KeyId>().is_ok() && visit.may_administer();
    is_key.then(|| format!("audit{}", query([("target_id", id)])))
}

/// The host that a text names, as a URL or by itself, with a port or without; `None` where it names none.
fn host(text: &str) -> Option<String> {
    let url = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let is_one = !text.contains(char::is_whitespace) && (text.contains("://") || !text.contains(['/', '?', '#', '@']));
    let url = Url::parse(&url).ok().filter(|_| is_one)?;
    url.host_str().map(str::to_owned)
}

/// Leads to what the text in the box names.
pub(crate) async fn find(visit: &Visit) -> Result<Next, ApiError> {
    let text = visit.query.get("q").unwrap_or_default();
    let place = |path: String| Ok(Next::Go(path, Note::Done(String::new())));
    if text.is_empty() {
        return place(String::new());
    }
    if let Some(page) = page_of(visit, text) {
        return place(page);
    }
    if let Some((list, filters)) = filters(text) {
        return place(format!("{list}{}", query(filters)));
    }
    let tenant = visit.lists()?;
    if let Some(event) = find::by_external_id(visit.pool(), tenant.as_deref(), text).await? {
        return place(format!("events/{event}"));
    }
    if let Some(host) = host(text) {
        let found = at_host(visit.pool(), tenant.as_deref(), &host).await?;
        match &found[..] {
            [] => {}
            [one] => return place(format!("subscriptions/{}", SubscriptionId(one.id))),
            several => return Ok(Next::Show(at(visit, &host, several))),
        }
    }
    let is_type = text.parse::<EventType>().is_ok();
    if is_type && find::is_type_known(visit.pool(), tenant.as_deref(), text).await? {
        return place(format!("deliveries{}", query([("event_type", text)])));
    }
    let may_be_own_id = !text.contains(char::is_whitespace) && validation::text(text, KEY_CHARACTERS_MAX).is_ok();
    if may_be_own_id {
        return place(format!("events{}", query([(OWN_ID.1, text)])));
    }
    Err(ApiError::bad_request(
        "this is neither an id (dlv_…, sub_…, evt_…, job_…, or your own of an event) nor an event type nor the host of \
         a subscription nor words such as status:dead_letter since:1h",
    ))
}

/// The page with several subscriptions of one host.
fn at(visit: &Visit, host: &str, found: &[Named]) -> Page {
    let is_more = i64::try_from(found.len()).is_ok_and(|count| count >= FOUND_MAX);
    let count = if is_more { format!("The newest {FOUND_MAX}") } else { found.len().to_string() };
    let body = html! {
        (parts::head(&html! { "Subscriptions at " (host) }, &html! { (count) " subscriptions deliver there." },
            &parts::nothing()))
        section.panel { (table(visit, host, found)) }
    };
    Page::new(Section::Subscriptions, format!("Subscriptions at {host}"), body)
}

fn table(visit: &Visit, host: &str, found: &[Named]) -> Markup {
    html! {
        table.cards {
            caption.unseen { "Subscriptions at " (host) }
            thead {
                tr {
                    th scope="col" { "Subscription" }
                    th scope="col" { "Target" }
                    @if visit.access.tenant().is_none() { th scope="col" { "Tenant" } }
                }
            }
            tbody {
                @for one in found {
                    @let id = SubscriptionId(one.id);
                    tr {
                        th scope="row" {
                            a.open href=(visit.to(format!("subscriptions/{id}"))) {
                                (one.name.as_deref().unwrap_or(host))
                            }
                            span.sub.mono { (parts::short(id)) }
                        }
                        td data-label="Target" { span.clip.mono { (one.target_url) } }
                        @if visit.access.tenant().is_none() { td data-label="Tenant" { (one.tenant_id) } }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_search() {
        let asked = |text| filters(text).map(|(list, filters)| format!("{list}{}", query(filters)));
        for (text, expected) in [
            (
                "type:order.paid  status:dead_letter since:1h meta.region:eu attempts:3",
                "deliveries?event_type=order.paid&status=dead_letter&since=1h&metadata=region%3Aeu&min_attempts=3",
            ),
            ("cause:http_5xx inline:true", "deliveries?cause=http_5xx&inline_only=true"),
            ("id:order-42 type:order.paid", "events?external_id=order-42&event_type=order.paid"),
        ] {
            assert_eq!(asked(text).as_deref(), Some(expected));
        }
        for other in ["order.paid", "user:created", "status:", "status:pending order.paid", "since 1h"] {
            assert_eq!(asked(other), None, "{other}");
        }
    }

    #[test]
    fn hosts() {
        for (text, expected) in [
            ("example.com", Some("example.com")),
            ("Example.COM:8443", Some("example.com")),
            ("https://example.com/hooks?a=1", Some("example.com")),
            ("127.0.0.1:9000", Some("127.0.0.1")),
            ("[::1]:80", Some("[::1]")),
            ("localhost", Some("localhost")),
            ("order 42", None),
            ("a/b", None),
            ("me@example.com", None),
            ("order:created", None),
        ] {
            assert_eq!(host(text).as_deref(), expected, "{text}");
        }
    }
}
