//! A retry policy as a line of time: a mark for each attempt, if all of them fail. The line is logarithmic, because the
//! first waits are seconds and the last ones hours.

use chrono::TimeDelta;
use maud::{Markup, html};
use postrider_core::queue::retry_policy::RetryPolicy;

use crate::ui::parts::span;

/// The width of the line, in units of the drawing.
const WIDTH: f64 = 560.0;
/// The distance of the first and the last mark from its ends.
const MARGIN: f64 = 6.0;

/// The line, with the same in words.
pub(super) fn show(policy: &RetryPolicy) -> Markup {
    let times = times(policy);
    let last = times.last().copied().unwrap_or_default();
    let attempts = if times.len() == 1 { "1 attempt".to_owned() } else { format!("{} attempts", times.len()) };
    let sentence = if last > 0.0 { format!("{attempts} over {}", length(last)) } else { attempts };
    html! {
        @if last > 0.0 {
            p { "The last one comes after " (length(last)) ", if all of them fail" }
            svg.schedule role="img" aria-label=(sentence) viewBox=(format!("0 0 {WIDTH} 20")) {
                line x1=(MARGIN) x2=(WIDTH - MARGIN) y1="10" y2="10" {}
                @for (place, seconds) in times.iter().enumerate() {
                    circle cx=(format!("{:.1}", x(*seconds, last))) cy="10" r="5" {
                        title { "Attempt " (place + 1) ": after " (length(*seconds)) }
                    }
                }
            }
        }
    }
}

/// The seconds from the first attempt to each one.
fn times(policy: &RetryPolicy) -> Vec<f64> {
    let waits = (1..).map_while(|attempt| policy.delay(attempt)).map(|wait| wait.as_secs_f64());
    let later = waits.scan(0.0, |at, wait| {
        *at += wait;
        Some(*at)
    });
    [0.0].into_iter().chain(later).collect()
}

/// The place of a mark.
fn x(seconds: f64, last: f64) -> f64 {
    MARGIN + seconds.ln_1p() / last.ln_1p() * (WIDTH - 2.0 * MARGIN)
}

fn length(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, reason = "a policy's waits are far below the largest number")]
    span(TimeDelta::seconds(seconds.round() as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_stand_where_the_attempts_are() {
        let policy = RetryPolicy::default();
        let times = times(&policy);
        assert_eq!(times.len(), usize::from(policy.max_attempts()));
        assert!(times.is_sorted(), "{times:?}");
        let last = times[times.len() - 1];
        assert!((x(0.0, last) - MARGIN).abs() < 0.1 && (x(last, last) - (WIDTH - MARGIN)).abs() < 0.1);
        assert_eq!([length(0.0), length(59.6), length(7200.0)], ["0 s", "1 min", "2 h"]);
    }
}
