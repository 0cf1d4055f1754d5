//! Charts of lines over time: how long deliveries take, and how large the backlog is. They are drawn here as SVG, with
//! a sentence and a table that say the same.

use std::fmt::Write;

use chrono::{DateTime, TimeDelta, Utc};
use maud::{Markup, html};
use postrider_core::{
    stats::{Outcomes, Percentiles, Totals},
    upkeep::backlog::{self, Point},
};

use crate::{
    serve::problem::ApiError,
    ui::{
        page::Visit,
        parts::{self, clock, count, millis, panel},
        statistics::{end, in_words, range},
    },
};

/// The distance of two points, and the height of the drawing, in units of the drawing.
const STEP: usize = 10;
/// The width of a value without neighbours.
const ALONE: usize = 6;
const HEIGHT: f64 = 1000.0;

/// A line: its name, the class that colours it, and a value for each time.
struct Line {
    name: &'static str,
    class: &'static str,
    values: Vec<Option<f64>>,
}

/// How values become heights.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scale {
    /// Evenly from nothing up to this value.
    Even(f64),
    /// Each of these powers of ten is as high above the one before.
    Powers(i32, i32),
}

impl Scale {
    /// A scale from nothing to a round number that no value exceeds.
    fn even(values: impl Iterator<Item = f64>) -> Self {
        let most = values.fold(1.0, f64::max);
        let power = 10f64.powf(most.log10().floor());
        let round = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|round| *round >= most);
        Self::Even(round.unwrap_or(most))
    }

    /// A scale of whole powers of ten around all values.
    #[expect(clippy::cast_possible_truncation, reason = "no value has more than some dozens of digits")]
    fn powers(values: impl Iterator<Item = f64>) -> Self {
        let bounds = values.filter(|value| *value > 0.0).map(f64::log10);
        let (low, high) = bounds.fold((f64::MAX, f64::MIN), |(low, high), one| (low.min(one), high.max(one)));
        if low > high {
            return Self::Powers(0, 3);
        }
        let (low, high) = (low.floor() as i32, high.ceil() as i32);
        Self::Powers(low, high.max(low + 1))
    }

    /// The place of a value, counted from above.
    fn y(self, value: f64) -> f64 {
        let share = match self {
            Self::Even(most) => value / most,
            Self::Powers(low, high) => (value.max(f64::MIN_POSITIVE).log10() - f64::from(low)) / f64::from(high - low),
        };
        HEIGHT - share.clamp(0.0, 1.0) * HEIGHT
    }

    /// The values at which a line across the drawing helps.
    fn marks(self) -> Vec<f64> {
        match self {
            Self::Even(most) => vec![most / 2.0, most],
            Self::Powers(low, high) => (low..=high).map(|power| 10f64.powi(power)).collect(),
        }
    }
}

/// What one chart shows.
struct Chart<'a> {
    title: &'a str,
    sentence: String,
    times: Vec<DateTime<Utc>>,
    lines: Vec<Line>,
    scale: Scale,
    say: fn(f64) -> String,
}

impl Chart<'_> {
    fn show(&self, visit: &Visit) -> Markup {
        let body = html! {
            figure.chart {
                svg.lines role="img" aria-label=(self.sentence) {
                    @for mark in self.scale.marks() {
                        @let y = format!("{:.2}%", self.scale.y(mark) / HEIGHT * 100.0);
                        line.grid x1="0" x2="100%" y1=(y) y2=(y) {}
                        text x="4" y=(y) dy=(if self.scale.y(mark) < HEIGHT { 12 } else { -5 }) { ((self.say)(mark)) }
                    }
                    svg viewBox=(format!("0 0 {} {HEIGHT}", self.times.len().max(2) * STEP - STEP))
                        preserveAspectRatio="none" {
                        @for line in &self.lines { path class=(line.class) d=(self.path(line)) {} }
                        @for (place, at) in self.times.iter().enumerate() { (self.column(place, *at)) }
                    }
                }
                div.axis {
                    @if let (Some(first), Some(last)) = (self.times.first(), self.times.last()) {
                        (clock(visit, *first))
                        span.key { @for line in &self.lines { span class=(line.class) { (line.name) } } }
                        (clock(visit, *last))
                    }
                }
                p.hint { (self.sentence) }
                details { summary { "Show the numbers" } (self.table(visit)) }
            }
        };
        panel(self.title, &html! { span.sub { (in_words(visit)) } }, &body)
    }

    /// The way of a line. Where a value is missing, it is broken; a value alone is a dash.
    fn path(&self, line: &Line) -> String {
        let mut path = String::new();
        let mut is_down = false;
        let is_known = |place: usize| line.values.get(place).is_some_and(Option::is_some);
        for (place, value) in line.values.iter().enumerate() {
            let Some(value) = value else {
                is_down = false;
                continue;
            };
            let (x, y) = (place * STEP, self.scale.y(*value));
            let _ = match (is_down, is_known(place + 1)) {
                (true, _) => write!(path, "L{x} {y:.0}"),
                (false, true) => write!(path, "M{x} {y:.0}"),
                (false, false) => write!(path, "M{} {y:.0}h{}", x.saturating_sub(ALONE / 2), ALONE),
            };
            is_down = true;
        }
        path
    }

    /// The part of the drawing around a time. Where the mouse rests on it, it says the values.
    fn column(&self, place: usize, at: DateTime<Utc>) -> Markup {
        let values = self.lines.iter().filter_map(|line| Some((line.name, line.values.get(place).copied()??)));
        let said: Vec<_> = values.map(|(name, value)| format!("{name} {}", (self.say)(value))).collect();
        html! {
            @if !said.is_empty() {
                g {
                    title { (at.format("%H:%M")) " UTC: " (said.join(", ")) }
                    rect.ground x=((place * STEP).saturating_sub(STEP / 2)) y="0" width=(STEP) height=(HEIGHT) {}
                }
            }
        }
    }

    fn table(&self, visit: &Visit) -> Markup {
        let value = |line: &Line, place: usize| line.values.get(place).copied().flatten();
        html! {
            table {
                caption.unseen { (self.title) "; times of which nothing is known are left out" }
                thead {
                    tr {
                        th scope="col" { "From" }
                        @for line in &self.lines { th.number scope="col" { (line.name) } }
                    }
                }
                tbody {
                    @for (place, at) in self.times.iter().enumerate().rev() {
                        @if self.lines.iter().any(|line| value(line, place).is_some()) {
                            tr {
                                th scope="row" { (clock(visit, *at)) }
                                @for line in &self.lines {
                                    td.number {
                                        @match value(line, place) {
                                            Some(value) => ((self.say)(value)),
                                            None => "–",
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "times are far below the largest number")]
fn time(value: f64) -> String {
    match value {
        ..1_000.0 => format!("{value:.0} ms"),
        1_000.0..60_000.0 => format!("{} s", tenth(value / 1_000.0)),
        _ => millis(value.round() as i64),
    }
}

/// A number with one digit behind the point, unless that is zero.
fn tenth(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

#[expect(clippy::cast_possible_truncation, reason = "no count comes near the largest number")]
fn number(value: f64) -> String {
    count(value.round() as i64)
}

/// The chart of how long deliveries take from when they are due first until they succeed; nothing where none succeeded.
pub(super) fn latencies(visit: &Visit, points: &[Totals]) -> Markup {
    let times: Vec<_> = points.iter().map(|point| point.outcomes.as_ref().and_then(Outcomes::latencies)).collect();
    let line = |name, class, of: fn(&Percentiles) -> f64| Line {
        name,
        class,
        values: times.iter().map(|time| time.as_ref().map(of)).collect(),
    };
    let lines = vec![
        line("p50", "low", |times| times.p50),
        line("p95", "middle", |times| times.p95),
        line("p99", "high", |times| times.p99),
    ];
    let values = || lines.iter().flat_map(|line| line.values.iter().flatten().copied());
    let worst = times
        .iter()
        .flatten()
        .map(|one| one.p95)
        .fold(None, |most: Option<f64>, one| Some(most.map_or(one, |most| most.max(one))));
    let last = times.iter().flatten().last();
    let (Some(worst), Some(last)) = (worst, last) else { return html! {} };
    let sentence = format!(
        "At the end, half of the deliveries arrived within about {}, 95 % within {} and 99 % within {}; the worst p95 \
         was {}.",
        time(last.p50),
        time(last.p95),
        time(last.p99),
        time(worst)
    );
    let scale = Scale::powers(values());
    let times = points.iter().map(|point| point.since).collect();
    let title = "From acceptance to delivery";
    Chart { title, sentence, times, lines, scale, say: time }.show(visit)
}

/// The chart of the backlog over the range that the page shows. Lanes know no tenants, so it is that of all of them.
pub(crate) async fn backlog(visit: &Visit) -> Markup {
    let range = range(visit);
    let read = async {
        let until = end(visit)?.unwrap_or(visit.now);
        let step = range.fine;
        let first = until - range.length;
        let first = DateTime::from_timestamp(first.timestamp() / step.num_seconds() * step.num_seconds(), 0);
        let since = first.unwrap_or(until - range.length);
        Ok::<_, ApiError>((since, until, backlog::history(visit.pool(), (since, until), step).await?))
    };
    match read.await {
        Ok((since, until, points)) if !points.is_empty() => sizes(since, until, range.fine, &points).show(visit),
        Ok(_) => html! {},
        Err(error) => panel("The backlog", &html! {}, &parts::trouble(visit, &error)),
    }
}

fn sizes(since: DateTime<Utc>, until: DateTime<Utc>, step: TimeDelta, points: &[Point]) -> Chart<'static> {
    let mut times = Vec::new();
    let mut at = since;
    while at < until {
        times.push(at);
        at += step;
    }
    let line = |name, class, of: fn(&Point) -> i64| {
        let mut values = vec![None; times.len()];
        for point in points {
            let place = (point.since - since).num_seconds() / step.num_seconds();
            if let Some(value) = usize::try_from(place).ok().and_then(|place| values.get_mut(place)) {
                // It is a picture.
                *value = Some(f64::from(u32::try_from(of(point)).unwrap_or_default()));
            }
        }
        Line { name, class, values }
    };
    let lines = vec![
        line("due", "high", |point| point.due),
        line("scheduled", "low", |point| point.scheduled),
        line("held", "middle", |point| point.held),
        line("in flight", "plain", |point| point.in_flight),
    ];
    let most = points.iter().max_by_key(|point| point.due);
    let last = |of: fn(&Point) -> i64| count(points.last().map_or(0, of));
    let sentence = format!(
        "At the end, {} were due, {} scheduled, {} held and {} in flight; at most {} were due, {}.",
        last(|point| point.due),
        last(|point| point.scheduled),
        last(|point| point.held),
        last(|point| point.in_flight),
        count(most.map_or(0, |point| point.due)),
        most.map_or_else(String::new, |point| point.since.format("at %H:%M UTC on %-d %b").to_string())
    );
    let scale = Scale::even(lines.iter().flat_map(|line| line.values.iter().flatten().copied()));
    Chart { title: "The backlog", sentence, times, lines, scale, say: number }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_have_round_ends() {
        let even = |most| Scale::even([most, 0.0].into_iter());
        assert_eq!([even(0.0), even(7.0), even(120.0)], [1.0, 10.0, 200.0].map(Scale::Even));
        let powers = |values: &[f64]| Scale::powers(values.iter().copied());
        assert_eq!(powers(&[12.0, 880.0]), Scale::Powers(1, 3));
        assert_eq!(powers(&[100.0]), Scale::Powers(2, 3));
        assert_eq!(powers(&[]), Scale::Powers(0, 3));
        assert_eq!(Scale::Powers(1, 3).marks().into_iter().map(time).collect::<Vec<_>>(), ["10 ms", "100 ms", "1 s"]);
        let heights = [10.0, 100.0, 1000.0].map(|value| format!("{:.0}", Scale::Powers(1, 3).y(value)));
        assert_eq!(heights, ["1000", "500", "0"]);
    }

    #[test]
    fn a_line_is_broken_where_nothing_is_known() {
        let line = Line { name: "a", class: "low", values: vec![Some(0.0), Some(1.0), None, Some(0.5)] };
        let chart = Chart {
            title: "",
            sentence: String::new(),
            times: Vec::new(),
            lines: Vec::new(),
            scale: Scale::Even(1.0),
            say: number,
        };
        assert_eq!(chart.path(&line), "M0 1000L10 0M27 500h6");
    }

    #[test]
    fn times_are_short() {
        assert_eq!([3.4, 1_000.0, 2_500.0, 90_000.0].map(time), ["3 ms", "1 s", "2.5 s", "1 min 30 s"]);
    }
}
