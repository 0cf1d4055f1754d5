//! How fast events come in and deliveries end, the deliveries that are not finished by what they wait for, and how long
//! it takes until what is due is done. The sizes are those that a worker measured some seconds ago.

use chrono::TimeDelta;
use maud::{Markup, html};
use postrider_core::{
    queue::glance::{BACKLOG_COUNTED_MAX, Glance},
    stats::{self, Pace},
};

use crate::ui::{
    page::Visit,
    parts::{self, span, text},
};

/// Below this many seconds nobody has to wait for anything.
const SOON_SECONDS: f64 = 5.0;
/// An estimate beyond this many seconds says nothing any more: 30 days.
const LONG_SECONDS: f64 = 30.0 * 86_400.0;

/// The tiles with how fast events come in and deliveries end, and those of the backlog, where a worker has counted it.
/// `glance` is `None` where one tenant is looked at, because lanes know no tenants.
pub(super) async fn show(visit: &Visit, glance: Option<&Glance>) -> Markup {
    let tenant = visit.lists().ok().flatten();
    let pace = stats::pace(visit.pool(), tenant, visit.now).await.ok();
    let rate = |of: fn(&Pace) -> f64| pace.as_ref().map_or_else(|| "–".to_owned(), |pace| each_second(of(pace)));
    let rates = html! {
        (figure(visit, "Coming in", "events", &html! { (rate(|pace| pace.accepted)) span.unit { "/s" } },
            &text("events, in the last 5 minutes")))
        (figure(visit, "Done", "deliveries", &html! { (rate(|pace| pace.ended)) span.unit { "/s" } },
            &text("deliveries, in the last 5 minutes")))
    };
    let counted = glance.and_then(|glance| Some((glance, glance.measured_at?)));
    html! {
        section.backlog aria-label=(if glance.is_some() { "The backlog" } else { "How fast things go" }) {
            div.tiles {
                (rates)
                @if let Some((glance, _)) = counted { (sizes(visit, glance, pace.as_ref())) }
            }
            @if let Some((_, at)) = counted {
                p.hint { "Counted " (parts::distance(at - visit.now)) ", over all tenants." }
            }
        }
    }
}

fn figure(visit: &Visit, word: &str, path: &str, figure: &Markup, say: &Markup) -> Markup {
    html! {
        a.tile href=(visit.to(path)) {
            p.word { (word) }
            p.figure { (figure) }
            p.sub { (say) }
        }
    }
}

fn sizes(visit: &Visit, glance: &Glance, pace: Option<&Pace>) -> Markup {
    let backlog = &glance.backlog;
    let tile = |word: &str, count: i64, path: &str, say: &Markup| {
        let more = if count >= BACKLOG_COUNTED_MAX { "+" } else { "" };
        figure(visit, word, path, &html! { (parts::count(count)) (more) }, say)
    };
    let drain = text(drain(backlog.due, pace.map(|pace| pace.ended)));
    let (later, held) = (text("for a retry, or for later"), text("by a pause, a Retry-After, a circuit or a limit"));
    let oldest = glance.oldest_due_at.filter(|_| backlog.due > 0);
    let waited = if oldest.is_some() { "has waited so long for a worker" } else { "nothing is due" };
    let oldest = oldest.map_or_else(|| "–".to_owned(), |at| span((visit.now - at).max(TimeDelta::zero())));
    html! {
        (figure(visit, "Oldest due", "lanes", &text(oldest), &text(waited)))
        (tile("Due", backlog.due, "deliveries?status=pending", &drain))
        (tile("Scheduled", backlog.scheduled, "deliveries?status=pending", &later))
        (tile("Held", backlog.held, "lanes", &held))
        (tile("In flight", backlog.in_flight, "deliveries?status=in_flight", &text("being attempted now")))
        (tile("Dead letters", glance.dead_letters, "dead-letters", &text("wait for a decision")))
    }
}

/// A rate with as many digits as say something.
fn each_second(rate: f64) -> String {
    match rate {
        0.0 => "0".to_owned(),
        ..0.1 => format!("{rate:.2}"),
        ..100.0 => format!("{rate:.1}"),
        #[expect(clippy::cast_possible_truncation, reason = "no rate comes near the largest number")]
        _ => parts::count(rate.round() as i64),
    }
}

/// In how much time what is due will be done, if everything goes on as in the last minutes and nothing is added. What
/// is scheduled or held is left out: it does not wait for workers. `pace` is how many deliveries end each second.
fn drain(due: i64, pace: Option<f64>) -> String {
    if due == 0 {
        return "nothing waits for a worker".to_owned();
    }
    let Some(pace) = pace else { return "wait for a worker".to_owned() };
    if pace <= 0.0 {
        return "none was finished in the last minutes".to_owned();
    }
    #[expect(clippy::cast_precision_loss, reason = "an estimate needs no more digits")]
    let seconds = due as f64 / pace;
    let at_least = if due >= BACKLOG_COUNTED_MAX { "at least" } else { "about" };
    if seconds < SOON_SECONDS {
        return format!("done within seconds, at {pace:.1} a second");
    }
    if seconds > LONG_SECONDS {
        return "more than a month at the present pace".to_owned();
    }
    #[expect(clippy::cast_possible_truncation, reason = "it is bounded above")]
    let time = span(TimeDelta::seconds(seconds as i64));
    format!("done in {at_least} {time} at {pace:.1} a second, if none is added")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_as_many_digits_as_say_something() {
        let said = [0.0, 0.034, 3.21, 99.96, 1_234.5].map(each_second);
        assert_eq!(said, ["0", "0.03", "3.2", "100.0", "1\u{202f}235"]);
    }

    #[test]
    fn what_is_said_of_the_time_until_all_is_done() {
        for (due, pace, said) in [
            (0, Some(9.0), "nothing waits for a worker"),
            (7, None, "wait for a worker"),
            (7, Some(0.0), "none was finished in the last minutes"),
            (7, Some(10.0), "done within seconds, at 10.0 a second"),
            (1_200, Some(10.0), "done in about 2 min at 10.0 a second, if none is added"),
            (BACKLOG_COUNTED_MAX, Some(100.0), "done in at least 16 min at 100.0 a second, if none is added"),
            (50_000, Some(0.001), "more than a month at the present pace"),
        ] {
            assert_eq!(drain(due, pace), said, "{due} at {pace:?}");
        }
    }
}
