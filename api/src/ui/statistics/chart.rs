//! A chart of outcomes: a bar for each minute or hour, drawn here as SVG, with a sentence and a table that say the
//! same.

use maud::{Markup, html};
use postrider_core::{
    stats::{Step, Totals},
    tally::class::Kind,
};

use crate::ui::{
    page::Visit,
    parts::{clock, count},
    statistics::{
        Range,
        marks::{self, Mark},
    },
};

/// The width of a bar with the gap beside it, and the height of the drawing, in units of the drawing.
const BAR: usize = 10;
const HEIGHT: u64 = 1000;

/// What came of the attempts of a point.
struct Bar<'a> {
    totals: &'a Totals,
    good: u64,
    bad: u64,
    ours: u64,
}

impl Bar<'_> {
    fn all(&self) -> u64 {
        self.good + self.bad + self.ours
    }
}

/// The chart.
pub(super) fn show(visit: &Visit, points: &[Totals], range: &Range, marks: &[Mark]) -> Markup {
    let bars: Vec<_> = points.iter().filter_map(bar).collect();
    let most = bars.iter().map(Bar::all).max().unwrap_or(0);
    let sum = |of: fn(&Bar<'_>) -> u64| number(bars.iter().map(of).sum());
    let each = match range.step {
        Step::Minute => "minute",
        Step::Hour => "hour",
        Step::Day => "day",
    };
    let sentence = format!(
        "In the {} {}, {} attempts succeeded and {} failed; at most {} in one {each}.",
        if visit.query.has("until") { "chosen" } else { "last" },
        range.words,
        sum(|bar| bar.good),
        sum(|bar| bar.bad + bar.ours),
        number(most)
    );
    html! {
        figure.chart {
            svg role="img" aria-label=(sentence) viewBox=(format!("0 0 {} {HEIGHT}", bars.len() * BAR))
                preserveAspectRatio="none" {
                @for (place, bar) in bars.iter().enumerate() { (drawn(place, bar, most)) }
                @for mark in marks { (marked(mark, &bars)) }
            }
            div.axis {
                @if let (Some(first), Some(last)) = (bars.first(), bars.last()) {
                    (clock(visit, first.totals.since))
                    span.key {
                        span.ok { "succeeded" } span.bad { "failed" } span.plain { "interrupted" }
                        " · at most " (number(most)) " in one " (each)
                    }
                    (clock(visit, last.totals.until))
                }
            }
            (marks::list(visit, marks))
            details {
                summary { "Show the numbers" }
                (table(visit, &bars))
            }
        }
    }
}

/// The line of a mark.
fn marked(mark: &Mark, bars: &[Bar<'_>]) -> Markup {
    let (Some(first), Some(last)) = (bars.first(), bars.last()) else { return html! {} };
    let (since, until) = (first.totals.since, last.totals.until);
    let width = i64::try_from(bars.len() * BAR).unwrap_or(i64::MAX);
    let x = (mark.at - since).num_seconds() * width / (until - since).num_seconds().max(1);
    html! {
        @if (0..=width).contains(&x) {
            g.mark {
                title { (mark.at.format("%H:%M:%S")) " UTC: " (mark.what) }
                line x1=(x) x2=(x) y1="0" y2=(HEIGHT) {}
            }
        }
    }
}

fn bar(totals: &Totals) -> Option<Bar<'_>> {
    let outcomes = totals.outcomes.as_ref()?;
    let [good, bad, ours] = [Kind::Success, Kind::Failure, Kind::OurFault].map(|kind| outcomes.of_kind(kind));
    Some(Bar { totals, good, bad, ours })
}

fn drawn(place: usize, bar: &Bar<'_>, most: u64) -> Markup {
    let x = place * BAR + 1;
    // What happened at all is seen, however little it was.
    let height = |part: u64| if part == 0 { 0 } else { (part * HEIGHT / most.max(1)).max(HEIGHT / 100) };
    let (good, bad, ours) = (height(bar.good), height(bar.bad), height(bar.ours));
    let from = |below: u64, own: u64| HEIGHT.saturating_sub(below + own);
    html! {
        g {
            title {
                (bar.totals.since.format("%H:%M")) " UTC: " (number(bar.good)) " succeeded, "
                (number(bar.bad)) " failed"
                @if bar.ours > 0 { ", " (number(bar.ours)) " interrupted" }
            }
            rect.ground x=(x - 1) y="0" width=(BAR) height=(HEIGHT) {}
            rect.ok x=(x) y=(from(0, good)) width=(BAR - 2) height=(good) {}
            rect.bad x=(x) y=(from(good, bad)) width=(BAR - 2) height=(bad) {}
            rect.plain x=(x) y=(from(good + bad, ours)) width=(BAR - 2) height=(ours) {}
        }
    }
}

fn table(visit: &Visit, bars: &[Bar<'_>]) -> Markup {
    html! {
        table {
            caption.unseen { "Attempts by their outcomes; times without an attempt are left out" }
            thead {
                tr {
                    th scope="col" { "From" }
                    th.number scope="col" { "Succeeded" }
                    th.number scope="col" { "Failed" }
                    th.number scope="col" { "Interrupted" }
                }
            }
            tbody {
                @for bar in bars.iter().filter(|bar| bar.all() > 0).rev() {
                    tr {
                        th scope="row" { (clock(visit, bar.totals.since)) }
                        td.number { (number(bar.good)) }
                        td.number { (number(bar.bad)) }
                        td.number { (number(bar.ours)) }
                    }
                }
            }
        }
    }
}

fn number(number: u64) -> String {
    count(i64::try_from(number).unwrap_or(i64::MAX))
}
