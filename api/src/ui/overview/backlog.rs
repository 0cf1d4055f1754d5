//! The deliveries that are not finished, by what they wait for, and how long it takes until what is due is done. The
//! sizes are those that a worker measured some seconds ago.

use chrono::TimeDelta;
use maud::{Markup, html};
use postrider_core::{
    queue::glance::{BACKLOG_COUNTED_MAX, Glance},
    stats,
};

use crate::ui::{
    page::Visit,
    parts::{self, nothing, span, text},
};

/// Below this many seconds nobody has to wait for anything.
const SOON_SECONDS: f64 = 5.0;
/// An estimate beyond this many seconds says nothing any more: 30 days.
const LONG_SECONDS: f64 = 30.0 * 86_400.0;

/// The tiles; nothing where no worker has measured anything yet.
pub(super) async fn show(visit: &Visit, glance: &Glance) -> Markup {
    let Some(at) = glance.measured_at else { return nothing() };
    let backlog = &glance.backlog;
    let tile = |word: &str, figure: i64, path: &str, say: &Markup| {
        let more = if figure >= BACKLOG_COUNTED_MAX { "+" } else { "" };
        html! {
            a.tile href=(visit.to(path)) {
                p.word { (word) }
                p.figure { (parts::count(figure)) (more) }
                p.sub { (say) }
            }
        }
    };
    let pace = if backlog.due > 0 { stats::pace(visit.pool(), visit.now).await.ok() } else { None };
    let drain = text(drain(backlog.due, pace));
    let (later, held) = (text("for a retry, or for later"), text("by a pause, a Retry-After, a circuit or a limit"));
    html! {
        section.backlog aria-label="The backlog" {
            div.tiles {
                (tile("Due", backlog.due, "deliveries?status=pending", &drain))
                (tile("Scheduled", backlog.scheduled, "deliveries?status=pending", &later))
                (tile("Held", backlog.held, "lanes", &held))
                (tile("In flight", backlog.in_flight, "deliveries?status=in_flight", &text("being attempted now")))
                (tile("Dead letters", glance.dead_letters, "dead-letters", &text("wait for a decision")))
            }
            p.hint { "Counted " (parts::distance(at - visit.now)) ", over all tenants." }
        }
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
