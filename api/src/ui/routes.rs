//! All pages and all actions of the dashboard, by their paths.

use poem::Response;
use postrider_core::access::api_key::Scope;

use crate::{
    serve::problem::ApiError,
    ui::{
        about, audit, dead_letters, deliveries, delivery, demo, emitters, event, events,
        fields::Fields,
        find, jobs, keys, lanes, live, overview,
        page::{Next, Page, Visit},
        portal_links, soundness, subscription, subscriptions, tenants,
    },
};

/// What a person can open who has signed in, by method and path. `:id` stands for an id of the noun before it.
pub const ROUTES: [(&str, &str); 71] = [
    ("GET", "/ui/"),
    ("GET", "/ui/find"),
    ("GET", "/ui/find/words"),
    ("GET", "/ui/deliveries"),
    ("GET", "/ui/deliveries/export"),
    ("POST", "/ui/deliveries/selected"),
    ("GET", "/ui/deliveries/:id"),
    ("POST", "/ui/deliveries/:id/retry"),
    ("POST", "/ui/deliveries/:id/cancel"),
    ("POST", "/ui/deliveries/:id/replay"),
    ("POST", "/ui/deliveries/:id/verify"),
    ("GET", "/ui/dead-letters"),
    ("POST", "/ui/dead-letters/:id/retry"),
    ("POST", "/ui/dead-letters/:id/resolve"),
    ("POST", "/ui/dead-letters/:id/unresolve"),
    ("GET", "/ui/subscriptions"),
    ("GET", "/ui/subscriptions/new"),
    ("POST", "/ui/subscriptions/new"),
    ("POST", "/ui/subscriptions/check"),
    ("GET", "/ui/subscriptions/:id"),
    ("GET", "/ui/subscriptions/:id/deliveries"),
    ("GET", "/ui/subscriptions/:id/settings"),
    ("POST", "/ui/subscriptions/:id/settings"),
    ("GET", "/ui/subscriptions/:id/signing"),
    ("POST", "/ui/subscriptions/:id/check"),
    ("GET", "/ui/subscriptions/:id/try"),
    ("GET", "/ui/subscriptions/:id/audit"),
    ("POST", "/ui/subscriptions/:id/judge"),
    ("POST", "/ui/subscriptions/:id/test"),
    ("POST", "/ui/subscriptions/:id/reveal"),
    ("POST", "/ui/subscriptions/:id/rotate"),
    ("POST", "/ui/subscriptions/:id/pause"),
    ("POST", "/ui/subscriptions/:id/resume"),
    ("POST", "/ui/subscriptions/:id/disable"),
    ("POST", "/ui/subscriptions/:id/enable"),
    ("POST", "/ui/subscriptions/:id/delete"),
    ("POST", "/ui/subscriptions/:id/replay"),
    ("POST", "/ui/subscriptions/:id/emit"),
    ("GET", "/ui/emitters"),
    ("POST", "/ui/emitters"),
    ("POST", "/ui/emitters/:id/stop"),
    ("GET", "/ui/demo"),
    ("POST", "/ui/demo"),
    ("POST", "/ui/demo/stop"),
    ("GET", "/ui/events"),
    ("POST", "/ui/events"),
    ("GET", "/ui/events/:id"),
    ("GET", "/ui/events/:id/payload"),
    ("POST", "/ui/events/:id/replay"),
    ("GET", "/ui/jobs"),
    ("GET", "/ui/jobs/new"),
    ("POST", "/ui/jobs"),
    ("GET", "/ui/jobs/:id"),
    ("POST", "/ui/jobs/:id/cancel"),
    ("POST", "/ui/jobs/:id/rate"),
    ("GET", "/ui/live"),
    ("GET", "/ui/lanes"),
    ("POST", "/ui/lanes/examine"),
    ("GET", "/ui/tenants"),
    ("GET", "/ui/keys"),
    ("POST", "/ui/keys"),
    ("POST", "/ui/keys/:id/revoke"),
    ("GET", "/ui/portal-links"),
    ("POST", "/ui/portal-links"),
    ("POST", "/ui/portal-links/:id/revoke"),
    ("GET", "/ui/portal"),
    ("GET", "/ui/audit"),
    ("GET", "/ui/about"),
    ("POST", "/ui/theme"),
    ("POST", "/ui/sign-in"),
    ("POST", "/ui/sign-out"),
];

fn segments(visit: &Visit) -> Vec<&str> {
    visit.path.split('/').collect()
}

fn no_page<T>() -> Result<T, ApiError> {
    Err(ApiError::not_found("page"))
}

/// Answers a request for something that is not a page; `None` where a page is asked for.
pub(crate) async fn file(visit: &Visit) -> Option<Result<Response, ApiError>> {
    match segments(visit)[..] {
        ["events", id, "payload"] => Some(event::payload::file(visit, id).await),
        ["deliveries", "export"] => Some(deliveries::file::answer(visit).await),
        ["find", "words"] => Some(find::words::answer(visit).await),
        ["live", "stream"] => Some(live::feed(visit).await),
        _ => None,
    }
}

/// Makes the page that is asked for.
pub(crate) async fn page(visit: &Visit) -> Result<Next, ApiError> {
    let page: Result<Page, ApiError> = match segments(visit)[..] {
        [""] => overview::page(visit).await,
        ["find"] => return find::find(visit).await,
        ["deliveries"] => deliveries::page(visit).await,
        ["deliveries", id] => delivery::page(visit, id).await,
        ["dead-letters"] => dead_letters::page(visit).await,
        ["subscriptions"] => subscriptions::page(visit).await,
        ["subscriptions", "new"] => subscription::settings::new(visit),
        ["subscriptions", id] => subscription::page(visit, id).await,
        ["subscriptions", id, "deliveries"] => subscription::deliveries(visit, id).await,
        ["subscriptions", id, "settings"] => subscription::settings::page(visit, id).await,
        ["subscriptions", id, "signing"] => subscription::signing::page(visit, id).await,
        ["subscriptions", id, "try"] => subscription::sample::page(visit, id).await,
        ["subscriptions", id, "audit"] => subscription::changes::page(visit, id).await,
        ["emitters"] => emitters::page(visit).await,
        ["demo"] => demo::page(visit).await,
        ["events"] => Ok(events::page(visit).await),
        ["events", id] => event::page(visit, id).await,
        ["jobs"] => jobs::page(visit).await,
        ["jobs", "new"] => jobs::new::page(visit).await,
        ["jobs", id] => jobs::one(visit, id).await,
        ["live"] => live::page(visit).await,
        ["lanes"] => lanes::page(visit).await,
        ["tenants"] => tenants::page(visit).await,
        ["keys"] => keys::page(visit).await,
        ["portal-links"] => portal_links::page(visit).await,
        ["audit"] => audit::page(visit).await,
        ["about"] => Ok(about::page(visit)),
        _ => no_page(),
    };
    page.map(Next::Show)
}

/// The scope that a form needs: events are posted with a key that may do so by the API.
pub(crate) fn scope(visit: &Visit) -> Scope {
    match segments(visit)[..] {
        ["events"] => Scope::Ingest,
        _ => Scope::Manage,
    }
}

/// Does what a form asks for. The visitor's key has the [`scope`] that it needs.
pub(crate) async fn action(visit: &Visit, form: &Fields) -> Result<Next, ApiError> {
    match segments(visit)[..] {
        ["deliveries", "selected"] => deliveries::selected::act(visit, form).await,
        ["deliveries" | "dead-letters", id, "retry"] => delivery::retry(visit, id, form).await,
        ["deliveries", id, "cancel"] => delivery::cancel(visit, id, form).await,
        ["deliveries", id, "replay"] => delivery::replay(visit, id).await,
        ["deliveries", id, "verify"] => delivery::verify::verify(visit, id, form).await,
        ["dead-letters", id, "resolve"] => dead_letters::resolve(visit, id, form).await,
        ["subscriptions", "new"] => subscription::settings::create(visit, form).await,
        ["subscriptions", "check"] => Ok(subscription::settings::check_new(visit, form).await),
        ["subscriptions", id, "check"] => subscription::settings::check_change(visit, id, form).await,
        ["subscriptions", id, "judge"] => subscription::tester::judge(visit, id, form).await,
        ["subscriptions", id, "settings"] => subscription::settings::change(visit, id, form).await,
        ["subscriptions", id, "reveal"] => subscription::signing::reveal(visit, id).await,
        ["subscriptions", id, "rotate"] => subscription::signing::rotate(visit, id, form).await,
        ["subscriptions", id, "test"] => subscription::sample::send(visit, id, form).await,
        ["subscriptions", id, "replay"] => jobs::replay::begin(visit, id, form).await,
        ["subscriptions", id, "emit"] => emitters::begin(visit, id, form).await,
        ["subscriptions", id, "delete"] => subscription::delete(visit, id).await,
        ["subscriptions", id, change] => subscription::set_state(visit, id, change, form).await,
        ["dead-letters", id, "unresolve"] => dead_letters::unresolve(visit, id, form).await,
        ["events"] => events::post::post(visit, form).await,
        ["events", id, "replay"] => event::replay(visit, id, form).await,
        ["jobs"] => jobs::new::create(visit, form).await,
        ["jobs", id, "cancel"] => jobs::cancel(visit, id).await,
        ["jobs", id, "rate"] => jobs::set_rate(visit, id, form).await,
        ["lanes", "examine"] => soundness::examination(visit).await,
        ["emitters"] => emitters::create(visit, form).await,
        ["emitters", id, "stop"] => emitters::stop(visit, id).await,
        ["demo"] => demo::start(visit).await,
        ["demo", "stop"] => demo::stop(visit).await,
        ["keys"] => keys::create(visit, form).await,
        ["keys", id, "revoke"] => keys::revoke(visit, id).await,
        ["portal-links"] => portal_links::create(visit, form).await,
        ["portal-links", id, "revoke"] => portal_links::revoke(visit, id).await,
        _ => no_page(),
    }
}
