//! What the time of an attempt was spent on: a bar and the same in words.

use maud::{Markup, html};
use postrider_core::queue::attempt::Attempt;

use crate::ui::parts::{millis, nothing};

/// The width of the bar in units of its drawing.
const WIDTH: i64 = 1000;

/// The bar with its words; nothing where no time was measured.
pub(super) fn show(attempt: &Attempt) -> Markup {
    let parts = parts(attempt);
    let whole: i64 = parts.iter().map(|(.., us)| us).sum();
    if whole == 0 && attempt.peer_address.is_none() {
        return nothing();
    }
    let mut drawn = 0;
    let places: Vec<_> = parts
        .iter()
        .map(|(class, _, us)| {
            let width = us * WIDTH / whole.max(1);
            drawn += width;
            (*class, drawn - width, width)
        })
        .collect();
    html! {
        div.phases {
            svg aria-hidden="true" viewBox=(format!("0 0 {WIDTH} 10")) preserveAspectRatio="none" {
                @for (class, x, width) in &places { rect class=(class) x=(x) y="0" width=(width) height="10" {} }
            }
            p.sub {
                @for (class, words, us) in &parts { span class=(class) { (words) " " (time(*us)) } " " }
                @if let Some(address) = &attempt.peer_address { "to " code { (address) } " " }
                @if attempt.is_reused == Some(true) { "over a connection that was open" }
            }
        }
    }
}

/// The phases that were measured, in their order: a class for the colour, the words, and microseconds.
fn parts(attempt: &Attempt) -> Vec<(&'static str, &'static str, i64)> {
    let us = |measured: Option<i32>| i64::from(measured.unwrap_or(0)).max(0);
    let opening = us(attempt.dns_us) + us(attempt.connect_us) + us(attempt.tls_us);
    let waited = attempt.first_byte_us.map(|first| (i64::from(first) - opening).max(0));
    // Without a head of the answer, all that is left was spent on waiting for it.
    let until_head = attempt.first_byte_us.map_or(opening, i64::from);
    let rest = attempt.total_us.map(|total| (i64::from(total) - until_head).max(0));
    let (waited, body) = if attempt.first_byte_us.is_some() { (waited, rest) } else { (rest, None) };
    [
        ("dns", "DNS", attempt.dns_us.map(i64::from)),
        ("connect", "connect", attempt.connect_us.map(i64::from)),
        ("tls", "TLS", attempt.tls_us.map(i64::from)),
        ("wait", "waiting", waited),
        ("body", "answer", body),
    ]
    .into_iter()
    .filter_map(|(class, words, us)| us.map(|us| (class, words, us)))
    .collect()
}

/// A time in milliseconds; below ten, with a digit more.
fn time(us: i64) -> String {
    if us < 10_000 { format!("{}.{} ms", us / 1000, us % 1000 / 100) } else { millis(us / 1000) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(phases: [Option<i32>; 5]) -> Attempt {
        let [dns_us, connect_us, tls_us, first_byte_us, total_us] = phases;
        Attempt {
            number: 1,
            started_at: chrono::DateTime::UNIX_EPOCH,
            duration_ms: None,
            dns_us,
            connect_us,
            tls_us,
            first_byte_us,
            total_us,
            peer_address: None,
            is_reused: None,
            status_code: None,
            error_kind: None,
            error: None,
            response_headers: None,
            response_body: None,
            response_truncated: false,
        }
    }

    #[test]
    fn the_phases_are_the_whole_time() {
        let told = |phases| parts(&attempt(phases)).into_iter().map(|(class, _, us)| (class, us)).collect::<Vec<_>>();
        assert_eq!(
            told([Some(1), Some(2), Some(3), Some(10), Some(15)]),
            [("dns", 1), ("connect", 2), ("tls", 3), ("wait", 4), ("body", 5)]
        );
        assert_eq!(told([None, None, None, Some(10), Some(15)]), [("wait", 10), ("body", 5)], "an open connection");
        assert_eq!(told([None, Some(2), None, None, Some(15)]), [("connect", 2), ("wait", 13)], "no answer");
        assert!(told([None; 5]).is_empty(), "a worker that died");
        assert_eq!([0, 1_234, 9_999, 10_000].map(time), ["0.0 ms", "1.2 ms", "9.9 ms", "10 ms"]);
    }
}
