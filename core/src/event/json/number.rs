//! JSON numbers, compared by value as decimals: nothing is rounded, and an exponent is never written out in zeros.

use std::{cmp::Ordering, fmt};

/// Characters of a whole number that surely fits into an `i64`.
const SMALL_CHARACTERS_MAX: usize = 18;

/// A number. Two are equal where their values are, so `1`, `1.0` and `10e-1` are equal.
#[derive(Clone, Debug)]
pub struct Number(Kept);

#[derive(Clone, Debug)]
enum Kept {
    /// A whole number that is written in the usual way, which is the most frequent case.
    Small(i64),
    /// Any other number, as it was written.
    Written(Box<str>),
}

impl Number {
    /// Wraps a text that is a JSON number whose exponent has been found to be short.
    pub(super) fn from_checked(text: &str) -> Self {
        let small = (text.len() <= SMALL_CHARACTERS_MAX && text != "-0").then(|| text.parse().ok()).flatten();
        Self(small.map_or_else(|| Kept::Written(text.into()), Kept::Small))
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kept::Small(number) => number.fmt(f),
            Kept::Written(text) => f.write_str(text),
        }
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        match (&self.0, &other.0) {
            (Kept::Small(one), Kept::Small(other)) => one.cmp(other),
            (Kept::Small(one), Kept::Written(other)) => Decimal::of(&one.to_string()).compare(&Decimal::of(other)),
            (Kept::Written(one), Kept::Small(other)) => Decimal::of(one).compare(&Decimal::of(&other.to_string())),
            (Kept::Written(one), Kept::Written(other)) => Decimal::of(one).compare(&Decimal::of(other)),
        }
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Number {}

/// The parts of a number's text: the value is 0.DIGITS × 10^`exponent`, with the sign. DIGITS are those of `whole` and
/// `fraction` after the leading zeros.
struct Decimal<'a> {
    is_negative: bool,
    whole: &'a [u8],
    fraction: &'a [u8],
    exponent: i64,
}

impl<'a> Decimal<'a> {
    fn of(text: &'a str) -> Self {
        let (is_negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
        let (digits, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let mut decimal = Self { is_negative, whole: whole.as_bytes(), fraction: fraction.as_bytes(), exponent: 0 };
        let length = |digits: usize| i64::try_from(digits).unwrap_or(i64::MAX);
        let zeros = decimal.all_digits().take_while(|digit| *digit == b'0').count();
        // The exponent was read as one of at most 18 digits, and a text in memory is far shorter than 10^18 bytes.
        let exponent = exponent.parse::<i64>().unwrap_or_default();
        decimal.exponent = exponent.saturating_add(length(whole.len())).saturating_sub(length(zeros));
        decimal
    }

    fn all_digits(&self) -> impl Iterator<Item = u8> + 'a {
        self.whole.iter().chain(self.fraction).copied()
    }

    fn digits(&self) -> impl Iterator<Item = u8> + 'a {
        self.all_digits().skip_while(|digit| *digit == b'0')
    }

    /// -1 for a negative number, 0 for zero, 1 for a positive one. There is one zero: `-0` is none less.
    fn sign(&self) -> i8 {
        match (self.digits().next(), self.is_negative) {
            (None, _) => 0,
            (Some(_), true) => -1,
            (Some(_), false) => 1,
        }
    }

    fn compare(&self, other: &Self) -> Ordering {
        let by_size = || self.exponent.cmp(&other.exponent).then_with(|| self.compare_digits(other));
        self.sign().cmp(&other.sign()).then_with(|| match self.sign() {
            0 => Ordering::Equal,
            1.. => by_size(),
            ..0 => by_size().reverse(),
        })
    }

    /// Compares digit by digit; the shorter one goes on with zeros.
    fn compare_digits(&self, other: &Self) -> Ordering {
        let (mut one, mut other) = (self.digits(), other.digits());
        loop {
            let order = match (one.next(), other.next()) {
                (None, None) => return Ordering::Equal,
                (one, other) => one.unwrap_or(b'0').cmp(&other.unwrap_or(b'0')),
            };
            if order.is_ne() {
                return order;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Number {
        Number::from_checked(text)
    }

    #[test]
    fn equal_numbers() {
        let groups: [&[&str]; 8] = [
            &["0", "-0", "0.0", "-0.000", "0e999999999999999999", "0E-5"],
            &["1", "1.0", "10e-1", "0.1e1", "0.01E+2", "1e0", "1e-0", "1000e-3"],
            &["-120", "-120.00", "-1.2e2", "-12e1", "-0.012e4"],
            &["0.1", "1e-1", "0.10", "0.100000000000000000000000"],
            &["18446744073709551617", "18446744073709551617.0", "1.8446744073709551617e19"],
            &["1e400", "10e399", "0.1e401"],
            &["123456789012345678", "1234567890123456780e-1"],
            &["999999999999999999999999", "9.99999999999999999999999e23"],
        ];
        for group in groups {
            for (one, other) in group.iter().flat_map(|one| group.iter().map(move |other| (one, other))) {
                assert_eq!(number(one), number(other), "{one} {other}");
            }
        }
    }

    #[test]
    fn ordered_numbers() {
        let ordered = [
            "-1e999999999999999999",
            "-18446744073709551617",
            "-18446744073709551616",
            "-9223372036854775809",
            "-9223372036854775808",
            "-1.5",
            "-1",
            "-0.5",
            "-1e-400",
            "0",
            "1e-999999999999999999",
            "1e-400",
            "0.1",
            "0.1000000000000000055511151231257827",
            "0.10000000000000001",
            "0.5",
            "1",
            "1.0000000000000000000000000001",
            "9",
            "10",
            "9007199254740992",
            "9007199254740993",
            "9007199254740993.5",
            "18446744073709551615",
            "18446744073709551616",
            "18446744073709551617",
            "1e400",
            "1.0000000000000000001e400",
            "1e401",
            "1e999999999999999999",
            "10e999999999999999999",
        ];
        for (one, text) in ordered.iter().enumerate() {
            for (other, other_text) in ordered.iter().enumerate() {
                assert_eq!(number(text).cmp(&number(other_text)), one.cmp(&other), "{text} {other_text}");
            }
        }
    }
}
