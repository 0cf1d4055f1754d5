//! What a run prints, and the files that it leaves for whoever wants to know more.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::Path,
    time::Duration,
};

use anyhow::Result;

use super::{Outcome, plan::Kind};

/// Offences that are printed; all of them are in the file.
const PRINTED_MAX: usize = 20;

/// The table of a run.
#[must_use]
pub fn table(outcome: &Outcome, seed: u64, time: Duration, all: Duration) -> String {
    let mut table = String::new();
    let mut row = |name: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(table, "  {name:<66} {value}");
    };
    row("seed", &seed);
    let drained = outcome.drained_after.map_or("not".to_owned(), |after| format!("{:.1} s later", after.as_secs_f64()));
    row("faults happened for", &format!("{} s; drained {drained}; {} s in all", time.as_secs(), all.as_secs()));
    let (mut by_kind, skipped) =
        (BTreeMap::<Kind, usize>::new(), outcome.skipped.iter().map(|(_, count)| count).sum::<usize>());
    for fault in &outcome.log.faults {
        *by_kind.entry(fault.kind).or_default() += 1;
    }
    row("faults", &format!("{}, of {} planned; {skipped} skipped", outcome.log.faults.len(), outcome.planned));
    for kind in Kind::ALL {
        row(&format!("  {}", kind.name()), by_kind.get(&kind).unwrap_or(&0));
    }
    for (name, value) in &outcome.findings.numbers {
        row(name, value);
    }
    let numbers = outcome.numbers;
    let counted = format!("{} of {} logged", numbers.successes_counted, numbers.successes_logged);
    row("statistics: successful attempts counted (a killed process loses some)", &counted);
    let counted = format!("{} of {} stored", numbers.events_counted, numbers.events_stored);
    row("statistics: accepted events counted", &counted);
    row("offences", &outcome.offences.len());
    let mut rules: BTreeMap<&str, usize> = BTreeMap::new();
    for offence in &outcome.offences {
        let count = rules.entry(offence.rule).or_default();
        *count += 1;
        if *count <= 3 && rules.len() <= PRINTED_MAX {
            row(&format!("  {}", offence.rule), &"");
            row(&format!("    {}", offence.what), &"");
        }
    }
    table
}

/// Writes all faults, offences and requests into files of the folder.
///
/// # Errors
/// When a file cannot be written.
pub fn details(outcome: &Outcome, folder: &Path) -> Result<()> {
    let mut faults = String::new();
    for fault in &outcome.log.faults {
        let (from, to) = (fault.from.as_secs_f64(), fault.to.as_secs_f64());
        writeln!(faults, "{from:>9.3} {to:>9.3} {} {}", fault.kind.name(), fault.victim)?;
    }
    fs::write(folder.join("faults.txt"), faults)?;
    let mut offences = String::new();
    for offence in &outcome.offences {
        writeln!(offences, "{}: {}", offence.rule, offence.what)?;
    }
    fs::write(folder.join("offences.txt"), offences)?;
    let mut posted = BufWriter::new(File::create(folder.join("posted.txt"))?);
    for one in &outcome.log.posted {
        let (sent, answered) = (one.sent.as_secs_f64(), one.answered.as_secs_f64());
        let key = one.key.as_deref().unwrap_or("-");
        writeln!(posted, "{sent:>9.3} {answered:>9.3} {} {} {key} {:?}", one.number, one.way, one.answer)?;
    }
    let mut requests = BufWriter::new(File::create(folder.join("requests.txt"))?);
    for one in &outcome.log.requests {
        let (arrived, ended) = (one.arrived.as_secs_f64(), one.ended.as_secs_f64());
        let name = outcome.log.subscriptions.get(one.subscription).map_or("?", |subscription| &subscription.name);
        let (number, delivery, attempt, fate) = (one.number, one.delivery, one.attempt, one.fate);
        writeln!(requests, "{arrived:>9.3} {ended:>9.3} {number} {delivery} {attempt} {fate:?} {name}")?;
    }
    Ok(())
}
