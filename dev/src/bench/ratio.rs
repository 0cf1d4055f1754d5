//! A figure as a multiple of the same figure without a burden, measured in the same run, and the limit that it has to
//! keep.

use anyhow::{Result, ensure};
use serde_json::{Map, Value, json};

/// A figure with the burden as a multiple of the same figure without it, and its limit.
pub struct Ratio {
    name: &'static str,
    value: f64,
    limit: Limit,
}

/// What a ratio may be.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// It must not be larger.
    AtMost(f64),
    /// It must not be smaller.
    AtLeast(f64),
}

impl Ratio {
    /// Prints the ratio and answers it.
    #[must_use]
    pub fn told(name: &'static str, value: f64, limit: Limit) -> Self {
        let ratio = Self { name, value, limit };
        let limit = match limit {
            Limit::AtMost(limit) => format!("at most {limit:.2}"),
            Limit::AtLeast(limit) => format!("at least {limit:.2}"),
        };
        let verdict = if ratio.is_kept() { "" } else { "   BROKEN" };
        println!("                {value:>8.2}   {name}: {limit}{verdict}");
        ratio
    }

    /// Whether the limit is kept. A value that is no number keeps no limit.
    fn is_kept(&self) -> bool {
        match self.limit {
            Limit::AtMost(limit) => self.value <= limit,
            Limit::AtLeast(limit) => self.value >= limit,
        }
    }
}

/// Fails where one of the limits is broken.
///
/// # Errors
/// The names of those that are broken.
pub fn ensure_kept(ratios: &[Ratio]) -> Result<()> {
    let broken: Vec<_> = ratios.iter().filter(|ratio| !ratio.is_kept()).map(|ratio| ratio.name).collect();
    ensure!(broken.is_empty(), "these limits are broken: {broken:?}");
    Ok(())
}

/// The ratios by their names.
#[must_use]
pub fn by_name(ratios: &[Ratio]) -> Value {
    let values: Map<_, _> = ratios.iter().map(|ratio| (ratio.name.to_owned(), json!(ratio.value))).collect();
    values.into()
}

/// The median of what several rounds have measured.
#[must_use]
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_kept_up_to_its_value_and_never_by_what_is_no_number() {
        for (value, limit, is_kept) in [
            (2.0, Limit::AtMost(2.0), true),
            (2.01, Limit::AtMost(2.0), false),
            (0.95, Limit::AtLeast(0.95), true),
            (0.94, Limit::AtLeast(0.95), false),
            (f64::NAN, Limit::AtMost(2.0), false),
            (f64::NAN, Limit::AtLeast(0.95), false),
        ] {
            let ratio = Ratio::told("a ratio", value, limit);
            assert_eq!(ratio.is_kept(), is_kept, "{value}");
            assert_eq!(ensure_kept(&[ratio]).is_ok(), is_kept, "{value}");
        }
    }
}
