//! JSON as filters see it. Every text that RFC 8259 allows has exactly one value here: numbers keep all their digits,
//! and a string may hold half of a surrogate pair. A byte order mark at the start is skipped. A text that cannot be
//! read is refused with the reason; nothing is guessed or rounded.

mod number;
mod reader;

use std::{
    cmp::Ordering,
    fmt::{self, Write},
};

pub use number::Number;

use crate::event::json::reader::Reader;

/// How deeply arrays and objects may be nested. Reading is recursive, so this bounds the stack.
pub const DEPTH_MAX: usize = 512;
/// Digits of a number's exponent, at most, without leading zeros.
pub const EXPONENT_DIGITS_MAX: usize = 18;

/// A JSON value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Json {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, with all its digits.
    Number(Number),
    /// A string.
    Text(Text),
    /// An array.
    Array(Vec<Json>),
    /// An object: each name once, in the order of the names. Of a name that the text has several times, the last value
    /// counts.
    Object(Vec<(Text, Json)>),
}

/// A string, in which half of a surrogate pair may stand alone, as JavaScript writes a text that was cut inside an
/// emoji. The bytes are UTF-8 in which such a half is encoded like any other code point (WTF-8), so comparing bytes
/// compares code points.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text(Box<[u8]>);

/// Why filters cannot read a payload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// The payload is not JSON.
    #[error("it is not JSON: {what} at byte {at}")]
    NotJson {
        /// What is wrong there.
        what: &'static str,
        /// The place, counted from 0.
        at: usize,
    },
    /// Arrays and objects are nested too deeply.
    #[error("it is nested more than {DEPTH_MAX} deep")]
    TooDeep,
    /// A number's exponent is too long.
    #[error("the exponent of a number has more than {EXPONENT_DIGITS_MAX} digits")]
    Exponent,
    /// The payload is packed in a way that filters cannot unpack.
    #[error("it has the content encoding `{0}`; filters read gzip and deflate")]
    Encoding(String),
    /// The payload is not what its content encoding says.
    #[error("it is not {0}, which its content encoding says")]
    Corrupt(&'static str),
    /// The payload is packed, and too large once it is unpacked.
    #[error("it has more than {0} bytes once it is unpacked")]
    TooLarge(usize),
}

impl Json {
    /// Reads a whole text.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn read(text: &[u8]) -> Result<Self, Unreadable> {
        Reader::read(text)
    }

    /// The member of an object with this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Self> {
        let Self::Object(members) = self else { return None };
        let place = members.binary_search_by(|(key, _)| key.as_bytes().cmp(name.as_bytes()));
        place.ok().map(|place| &members[place].1)
    }

    /// Orders two numbers by value, or two strings by code points (so RFC 3339 times in UTC sort); `None` for any other
    /// pair.
    #[must_use]
    pub fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Number(one), Self::Number(other)) => Some(one.cmp(other)),
            (Self::Text(one), Self::Text(other)) => Some(one.cmp(other)),
            _ => None,
        }
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => value.fmt(f),
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => text.fmt(f),
            Self::Array(items) => {
                f.write_char('[')?;
                for (place, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if place == 0 { "" } else { "," })?;
                }
                f.write_char(']')
            }
            Self::Object(members) => {
                f.write_char('{')?;
                for (place, (name, value)) in members.iter().enumerate() {
                    write!(f, "{}{name}:{value}", if place == 0 { "" } else { "," })?;
                }
                f.write_char('}')
            }
        }
    }
}

impl Text {
    /// The text as UTF-8, in which half a surrogate pair is encoded like any other code point.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().into())
    }
}

/// The text as JSON, in quotes; half of a surrogate pair as its escape.
impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.as_bytes();
        f.write_char('"')?;
        loop {
            let is_half = |bytes: &[u8]| bytes[0] == 0xED && bytes[1] >= 0xA0;
            let (valid, half) = rest.split_at(rest.windows(3).position(is_half).unwrap_or(rest.len()));
            let quoted = serde_json::to_string(&String::from_utf8_lossy(valid)).map_err(|_| fmt::Error)?;
            f.write_str(&quoted[1..quoted.len() - 1])?;
            let [_, middle, low, after @ ..] = half else { break };
            write!(f, "\\u{:04x}", 0xD000 | u16::from(middle & 0x3F) << 6 | u16::from(low & 0x3F))?;
            rest = after;
        }
        f.write_char('"')
    }
}

/// Whether a text that is known to be JSON is one that filters can read. This is far cheaper than reading it.
///
/// # Errors
/// Why it cannot be read.
pub fn check(json: &[u8]) -> Result<(), Unreadable> {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(byte) = json.get(at) {
        at += 1;
        match byte {
            b'[' | b'{' if depth == DEPTH_MAX => return Err(Unreadable::TooDeep),
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => {
                while let Some(byte) = json.get(at).filter(|byte| **byte != b'"') {
                    at += if *byte == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            // Outside of strings, an `e` before a sign or a digit begins an exponent; others are in `true` and `false`.
            b'e' | b'E' => {
                let exponent = json[at..].iter().skip_while(|byte| b"+-".contains(byte));
                let digits = exponent.skip_while(|byte| **byte == b'0').take_while(|byte| byte.is_ascii_digit());
                if digits.take(EXPONENT_DIGITS_MAX + 1).count() > EXPONENT_DIGITS_MAX {
                    return Err(Unreadable::Exponent);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Json {
        Json::read(text.as_bytes()).unwrap_or_else(|why| panic!("{text}: {why}"))
    }

    #[test]
    fn a_value_is_shown_as_it_was_read() {
        let cases = [
            ("null", "null"),
            (" [ true , false ] \r\n", "[true,false]"),
            ("{}", "{}"),
            ("[]", "[]"),
            ("\u{feff}{\"b\":1,\"a\":{\"x\":[]}}", "{\"a\":{\"x\":[]},\"b\":1}"),
            ("{\"a\":1,\"b\":2,\"a\":3,\"a\":[4]}", "{\"a\":[4],\"b\":2}"),
            ("0", "0"),
            ("-0", "-0"),
            ("12345678901234567890123", "12345678901234567890123"),
            ("-0.10E+007", "-0.10E+007"),
            ("1e400", "1e400"),
            (r#""\"\\\/\b\f\n\r\t""#, r#""\"\\/\b\f\n\r\t""#),
            (r#""\u0000\u00e9\u20AC\ud83d\ude00""#, "\"\\u0000\u{e9}\u{20ac}\u{1f600}\""),
            (r#""\ud83d""#, r#""\ud83d""#),
            (r#""a\uDE00b""#, r#""a\ude00b""#),
            (r#""\ud83d\ud83d\ude00\ud83dx\ud83d\n""#, "\"\\ud83d\u{1f600}\\ud83dx\\ud83d\\n\""),
            ("\"\u{d7ff}\u{e000}\"", "\"\u{d7ff}\u{e000}\""),
        ];
        for (text, shown) in cases {
            assert_eq!(read(text).to_string(), shown, "{text}");
            assert_eq!(read(shown), read(text), "{text}");
            assert_eq!(check(text.as_bytes()), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_is_not_json_is_refused_with_the_place() {
        let cases: [(&[u8], usize); 29] = [
            (b"", 0),
            (b" ", 1),
            (b"plain", 0),
            (b"nul", 0),
            (b"{\"a\":1} x", 8),
            (b"[1,]", 3),
            (b"[1 2]", 3),
            (b"[1", 2),
            (b"[", 1),
            (b"{a:1}", 1),
            (b"{\"a\" 1}", 5),
            (b"{\"a\":1,}", 7),
            (b"{\"a\":}", 5),
            (b"{\"a\":1", 6),
            (b"01", 1),
            (b"-", 1),
            (b"+1", 0),
            (b".5", 0),
            (b"1.", 2),
            (b"1.e5", 2),
            (b"1e", 2),
            (b"1e+", 3),
            (b"NaN", 0),
            (b"\"", 1),
            (b"\"a\nb\"", 2),
            (b"\"\\x\"", 2),
            (b"\"\\u12g4\"", 5),
            (b"\"\\ud83d\\u12\"", 11),
            (b"\"\xff\"", 1),
        ];
        for (text, place) in cases {
            let told = String::from_utf8_lossy(text);
            match Json::read(text) {
                Err(Unreadable::NotJson { at, .. }) => assert_eq!(at, place, "{told}"),
                other => panic!("{told}: {other:?}"),
            }
        }
    }

    #[test]
    fn depth_and_exponents_are_bounded() {
        let nested = |depth: usize| ["[".repeat(depth), "]".repeat(depth)].concat();
        let mixed =
            ["[{\"e\\\"[\":".repeat(DEPTH_MAX / 2 + 1), "1".to_owned(), "}]".repeat(DEPTH_MAX / 2 + 1)].concat();
        let cases = [
            (nested(DEPTH_MAX), Ok(())),
            (nested(DEPTH_MAX + 1), Err(Unreadable::TooDeep)),
            (mixed, Err(Unreadable::TooDeep)),
            ("[[[]],[[]],{\"true\":false}]".to_owned(), Ok(())),
            (format!("[{}true]", "[],".repeat(DEPTH_MAX)), Ok(())),
            ("1e-000000000000000000000999999999999999999".to_owned(), Ok(())),
            ("1e1000000000000000000".to_owned(), Err(Unreadable::Exponent)),
            ("[1.5E+1000000000000000000]".to_owned(), Err(Unreadable::Exponent)),
            ("[\"1e1000000000000000000\",\"\\\"1e1000000000000000000\"]".to_owned(), Ok(())),
        ];
        for (text, expected) in cases {
            assert_eq!(Json::read(text.as_bytes()).map(|_| ()), expected, "{text}");
            assert_eq!(check(text.as_bytes()), expected, "{text}");
        }
        for depth in [100_000, 1_000_000] {
            assert_eq!(Json::read("[".repeat(depth).as_bytes()), Err(Unreadable::TooDeep));
        }
    }

    #[test]
    fn strings_are_ordered_by_code_points() {
        let ordered = [
            r#""""#,
            r#""a""#,
            r#""ab""#,
            "\"\u{d7ff}\"",
            r#""\ud800""#,
            r#""\udfff""#,
            "\"\u{e000}\"",
            "\"\u{1f600}\"",
        ];
        for pair in ordered.windows(2) {
            assert_eq!(read(pair[0]).compare(&read(pair[1])), Some(Ordering::Less), "{pair:?}");
        }
        assert_eq!(read("1").compare(&read("\"1\"")), None);
    }
}
