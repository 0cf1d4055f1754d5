//! The trace to which an event belongs, as the producer names it by the headers `traceparent` and `tracestate` (W3C
//! Trace Context, <https://www.w3.org/TR/trace-context/>). It is stored with the event and passed on to receivers,
//! whether Postrider makes spans or not. What breaks a rule of that specification is ignored and is never an error, as
//! it demands.

use std::fmt::Write;

/// Characters of a `traceparent` of version 00.
const TRACEPARENT_CHARACTERS: usize = 55;
/// Characters of a `traceparent` of any version, at most. Later versions may append something, which is not kept.
const TRACEPARENT_CHARACTERS_MAX: usize = 255;
/// Characters of a `tracestate` that is kept: as many as must be passed on (§3.3.1.5). Entries are left out of a
/// longer one.
const TRACESTATE_CHARACTERS_MAX: usize = 512;
/// Characters of a `tracestate` that is read at all.
const TRACESTATE_CHARACTERS_READ_MAX: usize = 4096;
/// Entries longer than this are left out first where a `tracestate` is too long.
const LONG_ENTRY_CHARACTERS: usize = 128;
/// Entries of a `tracestate`, at most.
const ENTRIES_MAX: usize = 32;
/// Characters of the key and of the value of an entry, at most.
const ENTRY_PART_CHARACTERS_MAX: usize = 256;
/// The bit of the flags by which the caller says that it has recorded its span.
const SAMPLED: u8 = 1;

/// A place in a trace: the trace, the span that came before, and whether it was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// In the form of version 00, such as `00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01`.
    traceparent: Box<str>,
    /// What tracing systems have noted about the trace; at most 512 ASCII characters, in the form of a `tracestate`.
    tracestate: Option<Box<str>>,
}

impl TraceContext {
    /// Reads the two headers. `None` where the `traceparent` breaks a rule, because then there is no trace; a
    /// `tracestate` that breaks one is left out.
    #[must_use]
    pub fn parse(traceparent: &str, tracestate: Option<&str>) -> Option<Self> {
        let traceparent = parse_traceparent(traceparent)?.into();
        Some(Self { traceparent, tracestate: tracestate.and_then(parse_tracestate).map(Into::into) })
    }

    /// What [`Self::parse`] has read before.
    #[must_use]
    pub fn from_stored(traceparent: Option<String>, tracestate: Option<String>) -> Option<Self> {
        // Whoever may write into the tables could have written anything.
        let traceparent = traceparent.filter(|text| text.is_ascii() && text.len() == TRACEPARENT_CHARACTERS)?;
        Some(Self { traceparent: traceparent.into(), tracestate: tracestate.map(Into::into) })
    }

    /// The place of a span of ours, whose trace has this `tracestate`.
    #[must_use]
    pub fn of_span(trace_id: u128, span_id: u64, sampled: Sampled, tracestate: Option<String>) -> Self {
        let mut traceparent = String::with_capacity(TRACEPARENT_CHARACTERS);
        let flags = match sampled {
            Sampled::Yes => SAMPLED,
            Sampled::No => 0,
        };
        write!(traceparent, "00-{trace_id:032x}-{span_id:016x}-{flags:02x}").expect("a string takes any text");
        Self { traceparent: traceparent.into(), tracestate: tracestate.map(Into::into) }
    }

    /// The value of the header `traceparent`.
    #[must_use]
    pub fn traceparent(&self) -> &str {
        &self.traceparent
    }

    /// The value of the header `tracestate`, if there is one.
    #[must_use]
    pub fn tracestate(&self) -> Option<&str> {
        self.tracestate.as_deref()
    }

    /// The id of the trace: 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> &str {
        &self.traceparent[3..35]
    }

    /// The id of the span that came before: 16 hexadecimal digits.
    #[must_use]
    pub fn parent_id(&self) -> &str {
        &self.traceparent[36..52]
    }

    /// Whether the span that came before was recorded.
    #[must_use]
    pub fn sampled(&self) -> Sampled {
        let flags = u8::from_str_radix(&self.traceparent[53..], 16).unwrap_or_default();
        if flags & SAMPLED == 0 { Sampled::No } else { Sampled::Yes }
    }
}

/// Whether a span is recorded, and so whether those that follow should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampled {
    /// It is.
    Yes,
    /// It is not.
    No,
}

/// A `traceparent` in the form of version 00 (§3.2.2). Of a later version, the part that version 00 has is kept, and
/// of its flags only whether the caller's span was recorded (§3.2.4).
fn parse_traceparent(text: &str) -> Option<String> {
    let is_hex = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_id = |part: &str| is_hex(part) && part.bytes().any(|byte| byte != b'0');
    if !text.is_ascii() || !(TRACEPARENT_CHARACTERS..=TRACEPARENT_CHARACTERS_MAX).contains(&text.len()) {
        return None;
    }
    let (own, more) = text.split_at(TRACEPARENT_CHARACTERS);
    let mut parts = own.split('-');
    let (version, trace_id, parent_id, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_valid = parts.next().is_none()
        && (version.len(), trace_id.len(), parent_id.len(), flags.len()) == (2, 32, 16, 2)
        && is_hex(version)
        && version != "ff"
        && is_id(trace_id)
        && is_id(parent_id)
        && is_hex(flags);
    match version {
        _ if !is_valid => None,
        "00" => more.is_empty().then(|| own.to_owned()),
        _ if more.is_empty() || more.starts_with('-') => {
            let flags = u8::from_str_radix(flags, 16).unwrap_or_default() & SAMPLED;
            Some(format!("00-{trace_id}-{parent_id}-{flags:02x}"))
        }
        _ => None,
    }
}

/// A `tracestate` with its entries in their order (§3.3.1), shortened where it is too long. `None` where it breaks a
/// rule or has no entry.
fn parse_tracestate(text: &str) -> Option<String> {
    if text.len() > TRACESTATE_CHARACTERS_READ_MAX {
        return None;
    }
    let mut entries: Vec<&str> = Vec::new();
    for entry in text.split(',').map(|entry| entry.trim_matches([' ', '\t'])).filter(|entry| !entry.is_empty()) {
        let (key, value) = entry.split_once('=')?;
        let is_known = entries.iter().any(|known| known.split('=').next() == Some(key));
        if !is_key(key) || !is_value(value) || is_known || entries.len() == ENTRIES_MAX {
            return None;
        }
        entries.push(entry);
    }
    let characters = |entries: &[&str]| entries.iter().map(|entry| entry.len() + 1).sum::<usize>().saturating_sub(1);
    if characters(&entries) > TRACESTATE_CHARACTERS_MAX {
        entries.retain(|entry| entry.len() <= LONG_ENTRY_CHARACTERS);
    }
    while characters(&entries) > TRACESTATE_CHARACTERS_MAX {
        entries.pop();
    }
    (!entries.is_empty()).then(|| entries.join(","))
}

fn is_key(key: &str) -> bool {
    let is_inner = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@');
    (1..=ENTRY_PART_CHARACTERS_MAX).contains(&key.len())
        && key.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
        && key.bytes().all(is_inner)
}

fn is_value(value: &str) -> bool {
    let is_inner = |byte: u8| matches!(byte, 0x20..=0x7e) && byte != b',' && byte != b'=';
    (1..=ENTRY_PART_CHARACTERS_MAX).contains(&value.len()) && value.bytes().all(is_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_is_kept_or_ignored_by_the_rules_of_the_specification() {
        let of_version_00 = |text: &str| Some(text.to_owned());
        let cases = [
            (VALID.to_owned(), of_version_00(VALID)),
            (VALID.replace("-01", "-00"), of_version_00(&VALID.replace("-01", "-00"))),
            (VALID.replace("-01", "-03"), of_version_00(&VALID.replace("-01", "-03"))),
            // Of a later version, what version 00 has counts.
            (VALID.replacen("00", "cc", 1), of_version_00(VALID)),
            (format!("{}-more", VALID.replacen("00", "01", 1)), of_version_00(VALID)),
            (format!("{}more", VALID.replacen("00", "01", 1)), None),
            (VALID.replacen("00", "cc", 1).replace("-01", "-fe"), of_version_00(&VALID.replace("-01", "-00"))),
            (VALID.replacen("00", "ff", 1), None),
            (format!("{VALID}-more"), None),
            (format!("{}-{}", VALID.replacen("00", "01", 1), "x".repeat(TRACEPARENT_CHARACTERS_MAX)), None),
            (VALID.to_uppercase(), None),
            (VALID[..54].to_owned(), None),
            (VALID.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)), None),
            (VALID.replace("b7ad6b7169203331", &"0".repeat(16)), None),
            (VALID.replace("b7ad6b7169203331", "b7ad6b716920333g"), None),
            (VALID.replace("-b7ad6b7169203331-", "-b7ad6b71692033-1-"), None),
            (VALID.replace("-01", "-0x"), None),
            (VALID.replace('-', "_"), None),
            (VALID.replace("00-0a", "00-é"), None),
            (String::new(), None),
        ];
        for (text, kept) in cases {
            assert_eq!(parse_traceparent(&text), kept, "{text}");
        }
    }

    #[test]
    fn a_tracestate_is_kept_shortened_or_left_out() {
        let entry = |name: char, characters: usize| format!("{name}={}", "x".repeat(characters - 2));
        let too_long = [entry('a', 100), entry('b', 200), entry('c', 200), entry('d', 100)].join(",");
        let many = |count: u32| (0..count).map(|number| format!("k{number}=v")).collect::<Vec<_>>().join(",");
        let short = [entry('a', 128), entry('b', 128), entry('c', 128), entry('d', 125)].join(",");
        assert_eq!(short.len(), TRACESTATE_CHARACTERS_MAX);
        let cases = [
            ("congo=t61rcWkgMzE".to_owned(), Some("congo=t61rcWkgMzE".to_owned())),
            (" a=1 ,\tb@c=2,, ".to_owned(), Some("a=1,b@c=2".to_owned())),
            ("1a=a b~!".to_owned(), Some("1a=a b~!".to_owned())),
            (many(32), Some(many(32))),
            (many(33), None),
            // Long entries go first, then the last ones.
            (too_long, Some([entry('a', 100), entry('d', 100)].join(","))),
            (format!("{short},e=1,f=1"), Some(short.clone())),
            (short.clone(), Some(short)),
            ("a=1,a=2".to_owned(), None),
            ("A=1".to_owned(), None),
            ("_a=1".to_owned(), None),
            ("a=".to_owned(), None),
            ("a".to_owned(), None),
            ("a=b=c".to_owned(), None),
            ("a=é".to_owned(), None),
            (format!("a={}", "x".repeat(ENTRY_PART_CHARACTERS_MAX + 1)), None),
            (many(1) + &",".repeat(TRACESTATE_CHARACTERS_READ_MAX), None),
            (" , ".to_owned(), None),
        ];
        for (text, kept) in cases {
            assert_eq!(parse_tracestate(&text), kept, "{text}");
        }
    }

    #[test]
    fn a_context_tells_its_parts() {
        let context = TraceContext::parse(VALID, Some("a=1")).expect("valid");
        assert_eq!(context.trace_id(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!((context.parent_id(), context.sampled()), ("b7ad6b7169203331", Sampled::Yes));
        assert_eq!((context.traceparent(), context.tracestate()), (VALID, Some("a=1")));
        let made = TraceContext::of_span(0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, 0xb7ad, Sampled::No, None);
        assert_eq!(made.traceparent(), "00-0af7651916cd43dd8448eb211c80319c-000000000000b7ad-00");
        assert_eq!(made.sampled(), Sampled::No);
        let stored = TraceContext::from_stored(Some(VALID.to_owned()), Some("a=1".to_owned()));
        assert_eq!(stored, Some(context));
        assert_eq!(TraceContext::from_stored(Some("é".repeat(30)), None), None);
    }
}
