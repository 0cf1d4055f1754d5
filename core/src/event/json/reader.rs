//! Reads JSON by the grammar of RFC 8259. It knows nothing of filters.

use crate::event::json::{DEPTH_MAX, EXPONENT_DIGITS_MAX, Json, Number, Text, Unreadable};

/// A byte order mark as UTF-8. RFC 8259 §8.1 lets readers skip it.
const BYTE_ORDER_MARK: &str = "\u{feff}";

/// Reads one text from its beginning to its end.
pub(super) struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

type Read<T> = Result<T, Unreadable>;

impl<'a> Reader<'a> {
    /// Reads a whole text, which must be UTF-8.
    pub(super) fn read(text: &'a [u8]) -> Read<Json> {
        let text = std::str::from_utf8(text);
        let text = text.map_err(|error| Unreadable::NotJson { what: "not UTF-8", at: error.valid_up_to() })?;
        let at = if text.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
        let mut reader = Self { text, at, depth: 0 };
        let value = reader.value()?;
        reader.skip_space();
        if reader.at < text.len() { reader.wrong("more than one value") } else { Ok(value) }
    }

    fn wrong<T>(&self, what: &'static str) -> Read<T> {
        Err(Unreadable::NotJson { what, at: self.at })
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// Takes a byte if it comes next.
    fn takes(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn value(&mut self) -> Read<Json> {
        self.skip_space();
        match self.peek() {
            Some(b'"') => self.text().map(Json::Text),
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b'-' | b'0'..=b'9') => self.number().map(Json::Number),
            Some(b't') => self.word("true", Json::Bool(true)),
            Some(b'f') => self.word("false", Json::Bool(false)),
            Some(b'n') => self.word("null", Json::Null),
            Some(_) | None => self.wrong("no value"),
        }
    }

    fn word(&mut self, word: &'static str, value: Json) -> Read<Json> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return self.wrong("no value");
        }
        self.at += word.len();
        Ok(value)
    }

    /// Reads an array or an object, whose first bracket comes next.
    fn nested(&mut self, read: impl FnOnce(&mut Self) -> Read<Json>) -> Read<Json> {
        if self.depth == DEPTH_MAX {
            return Err(Unreadable::TooDeep);
        }
        self.depth += 1;
        self.at += 1;
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn array(&mut self) -> Read<Json> {
        let mut items = Vec::new();
        self.skip_space();
        if self.takes(b']') {
            return Ok(Json::Array(items));
        }
        loop {
            items.push(self.value()?);
            self.skip_space();
            if self.takes(b']') {
                return Ok(Json::Array(items));
            }
            if !self.takes(b',') {
                return self.wrong("no comma and no `]`");
            }
        }
    }

    fn object(&mut self) -> Read<Json> {
        let mut members = Vec::new();
        self.skip_space();
        if self.takes(b'}') {
            return Ok(Json::Object(members));
        }
        loop {
            self.skip_space();
            if self.peek() != Some(b'"') {
                return self.wrong("no name of a member");
            }
            let name = self.text()?;
            self.skip_space();
            if !self.takes(b':') {
                return self.wrong("no colon");
            }
            members.push((name, self.value()?));
            self.skip_space();
            if self.takes(b'}') {
                return Ok(Json::Object(in_order(members)));
            }
            if !self.takes(b',') {
                return self.wrong("no comma and no `}`");
            }
        }
    }

    fn number(&mut self) -> Read<Number> {
        let start = self.at;
        self.takes(b'-');
        if !self.takes(b'0') {
            self.digits()?;
        }
        if self.takes(b'.') {
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            let exponent = self.digits()?.trim_start_matches('0');
            if exponent.len() > EXPONENT_DIGITS_MAX {
                return Err(Unreadable::Exponent);
            }
        }
        Ok(Number::from_checked(&self.text[start..self.at]))
    }

    /// Reads one digit or more.
    fn digits(&mut self) -> Read<&'a str> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start { self.wrong("no digit") } else { Ok(&self.text[start..self.at]) }
    }

    /// Reads a string, whose first quotation mark comes next.
    fn text(&mut self) -> Read<Text> {
        self.at += 1;
        let mut start = self.at;
        let mut text = Vec::new();
        loop {
            match self.peek() {
                Some(b'"') => {
                    let rest = &self.text.as_bytes()[start..self.at];
                    self.at += 1;
                    if text.is_empty() {
                        return Ok(Text(rest.into()));
                    }
                    text.extend_from_slice(rest);
                    return Ok(Text(text.into_boxed_slice()));
                }
                Some(b'\\') => {
                    text.extend_from_slice(&self.text.as_bytes()[start..self.at]);
                    self.at += 1;
                    self.escape(&mut text)?;
                    start = self.at;
                }
                Some(0..=0x1F) => return self.wrong("a control character"),
                Some(_) => self.at += 1,
                None => return self.wrong("no end of a string"),
            }
        }
    }

    /// Reads what follows a backslash.
    fn escape(&mut self, text: &mut Vec<u8>) -> Read<()> {
        let byte = match self.peek() {
            Some(byte @ (b'"' | b'\\' | b'/')) => byte,
            Some(b'b') => 0x08,
            Some(b'f') => 0x0C,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'u') => {
                self.at += 1;
                return self.code_point(text);
            }
            Some(_) | None => return self.wrong("no such escape"),
        };
        self.at += 1;
        text.push(byte);
        Ok(())
    }

    /// Reads the four digits of a `\u`, and the other half of a surrogate pair where it follows.
    fn code_point(&mut self, text: &mut Vec<u8>) -> Read<()> {
        let mut code = u32::from(self.four_digits()?);
        if (0xD800..0xDC00).contains(&code) && self.text.as_bytes()[self.at..].starts_with(b"\\u") {
            let after_first = self.at;
            self.at += 2;
            match self.four_digits()? {
                low @ 0xDC00..0xE000 => code = 0x10000 + ((code - 0xD800) << 10) + (u32::from(low) - 0xDC00),
                // It is not the other half, so it is read again, as a character of its own.
                _ => self.at = after_first,
            }
        }
        if let Some(character) = char::from_u32(code) {
            text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        } else {
            // Half of a surrogate pair: three bytes, by the rule of UTF-8 for other code points of this size.
            let [middle, low] = [code >> 6, code].map(|bits| 0x80 | (bits.to_be_bytes()[3] & 0x3F));
            text.extend_from_slice(&[0xED, middle, low]);
        }
        Ok(())
    }

    fn four_digits(&mut self) -> Read<u16> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            let Some(digit) = digit.and_then(|digit| u16::try_from(digit).ok()) else {
                return self.wrong("no hexadecimal digit");
            };
            code = code << 4 | digit;
            self.at += 1;
        }
        Ok(code)
    }
}

/// Sorts members by their names; of those with the same name, the last one stays.
fn in_order(mut members: Vec<(Text, Json)>) -> Vec<(Text, Json)> {
    members.sort_by(|(one, _), (other, _)| one.cmp(other));
    members.dedup_by(|later, earlier| {
        let is_same = later.0 == earlier.0;
        if is_same {
            std::mem::swap(later, earlier);
        }
        is_same
    });
    members
}
