//! Sessions of the dashboard. A session is a sealed text that the browser keeps; nothing of it is stored here. It names
//! the API key with which its owner signed in by the digest of the key, under which the key is looked up for each
//! request. So the session ends with the key, in all processes.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};

use crate::{access::api_key::Digest, trust::seal::Keyring};

/// A session ends after so many seconds: 12 hours.
pub const SECONDS_MAX: i64 = 12 * 3600;
/// The context in which sessions are sealed, so that no other sealed text passes for one.
const SESSION_CONTEXT: &[u8] = b"dashboard session";
/// The context in which notes are sealed.
const NOTE_CONTEXT: &[u8] = b"dashboard note";
/// Bytes of a digest, and of the time after it.
const DIGEST_BYTES: usize = 32;

/// A session that was opened and has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// The digest of the key with which its owner signed in.
    pub key: Digest,
}

impl Session {
    /// The text that the browser keeps for a session that begins at `now`.
    #[must_use]
    pub fn seal(self, keyring: &Keyring, now: DateTime<Utc>) -> String {
        let ends = now + TimeDelta::seconds(SECONDS_MAX);
        let plain = [self.key.as_slice(), &ends.timestamp().to_be_bytes()].concat();
        BASE64_URL_SAFE_NO_PAD.encode(keyring.seal(&plain, SESSION_CONTEXT))
    }

    /// The session in a text that a browser has sent; `None` where the text is not ours, or the session has ended.
    #[must_use]
    pub fn open(keyring: &Keyring, text: &str, now: DateTime<Utc>) -> Option<Self> {
        let sealed = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
        let plain = keyring.open(&sealed, SESSION_CONTEXT).ok()?;
        let (key, ends) = plain.split_first_chunk::<DIGEST_BYTES>()?;
        let ends = i64::from_be_bytes(ends.try_into().ok()?);
        (now.timestamp() < ends).then_some(Self { key: *key })
    }
}

/// Seals a short text for the page that is shown next, so that nobody else can put words on a page.
#[must_use]
pub fn seal_note(keyring: &Keyring, text: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(keyring.seal(text.as_bytes(), NOTE_CONTEXT))
}

/// The text of a note; `None` where it is not ours.
#[must_use]
pub fn open_note(keyring: &Keyring, sealed: &str) -> Option<String> {
    let sealed = BASE64_URL_SAFE_NO_PAD.decode(sealed).ok()?;
    String::from_utf8(keyring.open(&sealed, NOTE_CONTEXT).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_ends_and_nothing_else_passes_for_one() {
        let ring = |text: &str| Keyring::parse(text).expect("valid");
        let ours = ring("a:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
        let now = DateTime::from_timestamp(1_800_000_000, 0).expect("in range");
        let session = Session { key: [7; DIGEST_BYTES] };
        let text = session.seal(&ours, now);
        let after = |seconds| now + TimeDelta::seconds(seconds);
        assert_eq!(Session::open(&ours, &text, now), Some(session));
        assert_eq!(Session::open(&ours, &text, after(SECONDS_MAX - 1)), Some(session));
        assert_eq!(Session::open(&ours, &text, after(SECONDS_MAX)), None);
        assert_eq!(Session::open(&ring("a:ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8="), &text, now), None);
        let note = seal_note(&ours, "done");
        assert_eq!(open_note(&ours, &note).as_deref(), Some("done"));
        assert_eq!((Session::open(&ours, &note, now), open_note(&ours, &text)), (None, None));
        for text in ["", "x", &text[1..], &text[..text.len() - 4]] {
            assert_eq!(Session::open(&ours, text, now), None, "{text}");
        }
    }
}
