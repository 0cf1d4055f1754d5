//! Bytes as a text to look at. JSON gets line breaks and indents, and nothing else of it changes: numbers keep every
//! digit, and fields their order.

use std::borrow::Cow;

use serde::de::IgnoredAny;

/// Bytes of a dump, at most.
const DUMPED_BYTES_MAX: usize = 1024;
/// Bytes of JSON that are indented, at most. Longer texts are shown as they are.
const INDENTED_BYTES_MAX: usize = 256 * 1024;

/// Bytes as a text: JSON with indents, other text as it is, and anything else as a dump of its beginning.
pub(crate) fn readable(bytes: &[u8]) -> Cow<'_, str> {
    let Ok(text) = std::str::from_utf8(bytes) else { return dump(bytes).into() };
    let is_json = text.len() <= INDENTED_BYTES_MAX && serde_json::from_str::<IgnoredAny>(text).is_ok();
    if is_json { indented(text).into() } else { text.into() }
}

/// A text that is JSON, with a line for each field and item.
fn indented(json: &str) -> String {
    let mut pretty = String::with_capacity(json.len() * 2);
    let mut depth = 0_usize;
    let (mut in_string, mut escaped) = (false, false);
    let mut characters = json.chars().peekable();
    let line = |pretty: &mut String, depth: usize| {
        pretty.push('\n');
        pretty.push_str(&"  ".repeat(depth));
    };
    while let Some(character) = characters.next() {
        if in_string {
            pretty.push(character);
            in_string = escaped || character != '"';
            escaped = !escaped && character == '\\';
            continue;
        }
        match character {
            ' ' | '\t' | '\n' | '\r' => {}
            '{' | '[' => {
                pretty.push(character);
                while characters.next_if(char::is_ascii_whitespace).is_some() {}
                if let Some(end) = characters.next_if(|next| matches!(next, '}' | ']')) {
                    pretty.push(end);
                } else {
                    depth += 1;
                    line(&mut pretty, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut pretty, depth);
                pretty.push(character);
            }
            ',' => {
                pretty.push(',');
                line(&mut pretty, depth);
            }
            ':' => pretty.push_str(": "),
            other => {
                in_string = other == '"';
                pretty.push(other);
            }
        }
    }
    pretty
}

/// The first bytes in hexadecimal.
fn dump(bytes: &[u8]) -> String {
    hexadecimal(&bytes[..bytes.len().min(DUMPED_BYTES_MAX)])
}

/// Bytes in hexadecimal, sixteen in a line, with what of them is printable ASCII.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    let lines = bytes.chunks(16).enumerate().map(|(place, line)| {
        let hex: Vec<_> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let printable = |byte: &u8| if (b' '..=b'~').contains(byte) { char::from(*byte) } else { '.' };
        let text: String = line.iter().map(printable).collect();
        format!("{:08x}  {:<47}  {text}", place * 16, hex.join(" "))
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The beginning of these bytes, `max` of them at most. A text is not cut within a character.
pub(crate) fn beginning(bytes: &[u8], max: usize) -> &[u8] {
    let shown = &bytes[..bytes.len().min(max)];
    match std::str::from_utf8(shown) {
        Err(cut) if cut.error_len().is_none() => &shown[..cut.valid_up_to()],
        Ok(_) | Err(_) => shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_not_cut_within_a_character() {
        assert_eq!(beginning("gr\u{fc}n".as_bytes(), 3), b"gr");
        assert_eq!(beginning("gr\u{fc}n".as_bytes(), 4), "gr\u{fc}".as_bytes());
        assert_eq!(beginning(&[0xff, 0xfe, 0xfd], 2), [0xff, 0xfe]);
    }

    #[test]
    fn bodies_to_look_at() {
        for (bytes, text) in [
            (&b"{\"b\":1.10,\"a\":[1, {}, [ ]]}"[..], "{\n  \"b\": 1.10,\n  \"a\": [\n    1,\n    {},\n    []\n  ]\n}"),
            (b"{\"a,:{\\\"\\\\\": \"x\"}", "{\n  \"a,:{\\\"\\\\\": \"x\"\n}"),
            (b"12345678901234567890.10", "12345678901234567890.10"),
            (b"{not json", "{not json"),
            ("gr\u{fc}\u{df}e".as_bytes(), "gr\u{fc}\u{df}e"),
            (&[0xff, b'A'], "00000000  ff 41                                            .A"),
            (b"", ""),
        ] {
            assert_eq!(readable(bytes), text);
        }
    }
}
