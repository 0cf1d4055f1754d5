//! The content encoding of a payload (RFC 9110 §8.4): how it was packed before it was posted. It is kept and sent on as
//! it came, because a receiver needs it to read the payload. Filters look at the unpacked text, whose size is bounded.

use std::io::Read;

use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};

use crate::event::json::Unreadable;

/// Bytes of a content encoding, at most.
const ENCODING_BYTES_MAX: usize = 255;
/// Bytes that a payload is unpacked to for filters, at most. It is the size of the largest plain payload by default, so
/// that a small body that unpacks to a large one takes no more time and memory than a plain one may.
pub const UNPACKED_BYTES_MAX: usize = 1 << 20;
/// How many times a payload may be packed and still be unpacked for filters.
const CODINGS_MAX: usize = 2;

/// A content encoding: names of codings in the order in which they were applied, such as `gzip`; a valid header value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentEncoding(String);

impl ContentEncoding {
    /// Checks the value of a header. An empty one says that there is no content encoding.
    ///
    /// # Errors
    /// What is wrong.
    pub fn parse(text: String) -> Result<Option<Self>, String> {
        if text.trim_ascii().is_empty() {
            return Ok(None);
        }
        let token = |name: &str| {
            let name = name.trim_ascii();
            !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.+!#$%&'*^`|~".contains(&byte))
        };
        if text.len() > ENCODING_BYTES_MAX || !text.split(',').all(token) {
            return Err(format!(
                "must be names of content codings, such as `gzip`, and at most {ENCODING_BYTES_MAX} bytes long"
            ));
        }
        Ok(Some(Self(text)))
    }

    /// Wraps a content encoding that was checked before it was stored.
    pub(crate) fn from_stored(text: String) -> Self {
        Self(text)
    }

    /// The header value.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Unpacks a payload, in memory.
    ///
    /// # Errors
    /// When a coding is unknown, the payload is not packed so, or it has more than [`UNPACKED_BYTES_MAX`] bytes once it
    /// is unpacked.
    pub fn unpack(&self, packed: &[u8]) -> Result<Vec<u8>, Unreadable> {
        let mut bytes = packed.to_vec();
        let codings = self.0.split(',').map(|name| name.trim_ascii().to_ascii_lowercase());
        let codings: Vec<_> = codings.filter(|name| name != "identity").collect();
        if codings.len() > CODINGS_MAX {
            return Err(Unreadable::Encoding(self.0.clone()));
        }
        for coding in codings.iter().rev() {
            bytes = match coding.as_str() {
                "gzip" | "x-gzip" => read_bounded(MultiGzDecoder::new(bytes.as_slice()), "gzip")?,
                // The coding `deflate` is the format of zlib, but some senders leave out its header.
                "deflate" if has_zlib_header(&bytes) => read_bounded(ZlibDecoder::new(bytes.as_slice()), "deflate")?,
                "deflate" => read_bounded(DeflateDecoder::new(bytes.as_slice()), "deflate")?,
                _ => return Err(Unreadable::Encoding(self.0.clone())),
            };
        }
        Ok(bytes)
    }
}

/// Whether the first two bytes are a header of zlib (RFC 1950 §2.2).
fn has_zlib_header(bytes: &[u8]) -> bool {
    let Some([method, flags]) = bytes.first_chunk::<2>() else { return false };
    method & 0x0F == 8 && u16::from_be_bytes([*method, *flags]).is_multiple_of(31)
}

fn read_bounded(unpacker: impl Read, coding: &'static str) -> Result<Vec<u8>, Unreadable> {
    let mut bytes = Vec::new();
    let bytes_max = u64::try_from(UNPACKED_BYTES_MAX).unwrap_or(u64::MAX);
    unpacker.take(bytes_max + 1).read_to_end(&mut bytes).map_err(|_| Unreadable::Corrupt(coding))?;
    if bytes.len() > UNPACKED_BYTES_MAX { Err(Unreadable::TooLarge(UNPACKED_BYTES_MAX)) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{
        Compression,
        write::{DeflateEncoder, GzEncoder, ZlibEncoder},
    };

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
        packer.write_all(bytes).expect("in memory");
        packer.finish().expect("in memory")
    }

    fn zlib(bytes: &[u8]) -> Vec<u8> {
        let mut packer = ZlibEncoder::new(Vec::new(), Compression::default());
        packer.write_all(bytes).expect("in memory");
        packer.finish().expect("in memory")
    }

    fn raw_deflate(bytes: &[u8]) -> Vec<u8> {
        let mut packer = DeflateEncoder::new(Vec::new(), Compression::default());
        packer.write_all(bytes).expect("in memory");
        packer.finish().expect("in memory")
    }

    fn unpack(encoding: &str, packed: &[u8]) -> Result<Vec<u8>, Unreadable> {
        let encoding = ContentEncoding::parse(encoding.to_owned()).expect("valid").expect("one");
        encoding.unpack(packed)
    }

    #[test]
    fn what_was_packed_is_unpacked() {
        let text = b"{\"kind\":\"order\"}".as_slice();
        let several_members = [gzip(&text[..5]), gzip(&text[5..])].concat();
        for (encoding, packed) in [
            ("identity", text.to_vec()),
            ("gzip", gzip(text)),
            ("X-GZIP", gzip(text)),
            (" gzip ", several_members),
            ("deflate", zlib(text)),
            ("deflate", raw_deflate(text)),
            ("deflate, gzip", gzip(&zlib(text))),
            ("identity,gzip,identity", gzip(text)),
        ] {
            assert_eq!(unpack(encoding, &packed).as_deref(), Ok(text), "{encoding}");
        }
    }

    #[test]
    fn what_cannot_be_unpacked_is_told() {
        let cut = gzip(b"{\"kind\":\"order\"}");
        for (encoding, packed, told) in [
            ("br", Vec::new(), Unreadable::Encoding("br".to_owned())),
            ("gzip,gzip,gzip", Vec::new(), Unreadable::Encoding("gzip,gzip,gzip".to_owned())),
            ("gzip", b"{}".to_vec(), Unreadable::Corrupt("gzip")),
            ("gzip", Vec::new(), Unreadable::Corrupt("gzip")),
            ("gzip", cut[..cut.len() - 9].to_vec(), Unreadable::Corrupt("gzip")),
            ("deflate", vec![0xFF; 20], Unreadable::Corrupt("deflate")),
        ] {
            assert_eq!(unpack(encoding, &packed), Err(told), "{encoding}");
        }
    }

    #[test]
    fn a_bomb_is_not_unpacked() {
        let largest = vec![b' '; UNPACKED_BYTES_MAX];
        assert_eq!(unpack("gzip", &gzip(&largest)).map(|bytes| bytes.len()), Ok(UNPACKED_BYTES_MAX));
        let bomb = gzip(&vec![b' '; UNPACKED_BYTES_MAX * 16]);
        assert_eq!(unpack("gzip", &bomb), Err(Unreadable::TooLarge(UNPACKED_BYTES_MAX)));
        assert_eq!(unpack("gzip, gzip", &gzip(&bomb)), Err(Unreadable::TooLarge(UNPACKED_BYTES_MAX)));
    }

    #[test]
    fn names_are_checked() {
        for empty in ["", "  "] {
            assert_eq!(ContentEncoding::parse(empty.to_owned()), Ok(None));
        }
        let long = "x".repeat(ENCODING_BYTES_MAX + 1);
        for wrong in ["gzip,", ",", "g zip", "gzip;q=1", "\u{e9}", "a\r\nb", long.as_str()] {
            assert!(ContentEncoding::parse(wrong.to_owned()).is_err(), "{wrong:?}");
        }
    }
}
