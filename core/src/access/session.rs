//! Sessions of the dashboard. A session is a sealed text that the browser keeps; nothing of it is stored here. It names
//! the API key with which its owner signed in by the digest of the key, under which the key is looked up for each
//! request. So the session ends with the key, in all processes. It also says whether its owner came by a portal link,
//! so that whoever comes back after the link's end is told so.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};

use crate::{
    access::api_key::{Digest, KeyKind},
    trust::seal::Keyring,
};

/// A session with an API key ends after so many seconds: 12 hours. One by a portal link ends with the link.
pub const SECONDS_MAX: i64 = 12 * 3600;
/// The context in which sessions are sealed, so that no other sealed text passes for one.
const SESSION_CONTEXT: &[u8] = b"dashboard session";
/// The context in which notes are sealed.
const NOTE_CONTEXT: &[u8] = b"dashboard note";
/// Bytes of a digest.
const DIGEST_BYTES: usize = 32;
/// Bytes of the time after it.
const TIME_BYTES: usize = 8;

/// A session that was opened and has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// The digest of the key with which its owner signed in.
    pub key: Digest,
    /// How that key came to its owner.
    pub kind: KeyKind,
}

/// Why a text opens no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The text is not ours.
    NotOurs,
    /// The session has ended. Its owner had come with a key of this kind.
    Ended(KeyKind),
}

impl Session {
    /// The text that the browser keeps for a session that ends at `ends`.
    #[must_use]
    pub fn seal(self, keyring: &Keyring, ends: DateTime<Utc>) -> String {
        let ends = ends.timestamp().to_be_bytes();
        let plain = [self.key.as_slice(), &ends, self.kind.as_str().as_bytes()].concat();
        BASE64_URL_SAFE_NO_PAD.encode(keyring.seal(&plain, SESSION_CONTEXT))
    }

    /// The session in a text that a browser has sent.
    ///
    /// # Errors
    /// Why it opens none.
    pub fn open(keyring: &Keyring, text: &str, now: DateTime<Utc>) -> Result<Self, Closed> {
        let (session, ends) = Self::parse(keyring, text).ok_or(Closed::NotOurs)?;
        if now.timestamp() < ends { Ok(session) } else { Err(Closed::Ended(session.kind)) }
    }

    /// The session and the second of its end.
    fn parse(keyring: &Keyring, text: &str) -> Option<(Self, i64)> {
        let sealed = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
        let plain = keyring.open(&sealed, SESSION_CONTEXT).ok()?;
        let (key, rest) = plain.split_first_chunk::<DIGEST_BYTES>()?;
        let (ends, kind) = rest.split_first_chunk::<TIME_BYTES>()?;
        let kind = std::str::from_utf8(kind).ok()?.parse().ok()?;
        Some((Self { key: *key, kind }, i64::from_be_bytes(*ends)))
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
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn a_session_ends_and_nothing_else_passes_for_one() {
        let ring = |text: &str| Keyring::parse(text).expect("valid");
        let ours = ring("a:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
        let now = DateTime::from_timestamp(1_800_000_000, 0).expect("in range");
        let ends = now + TimeDelta::hours(1);
        for kind in KeyKind::ALL {
            let session = Session { key: [7; DIGEST_BYTES], kind };
            let text = session.seal(&ours, ends);
            assert_eq!(Session::open(&ours, &text, now), Ok(session));
            assert_eq!(Session::open(&ours, &text, ends - TimeDelta::seconds(1)), Ok(session));
            assert_eq!(Session::open(&ours, &text, ends), Err(Closed::Ended(kind)));
            let theirs = ring("a:ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=");
            assert_eq!(Session::open(&theirs, &text, now), Err(Closed::NotOurs));
            assert_eq!(open_note(&ours, &text), None);
            for text in ["", "x", &text[1..], &text[..text.len() - 4]] {
                assert_eq!(Session::open(&ours, text, now), Err(Closed::NotOurs), "{text}");
            }
        }
        let note = seal_note(&ours, "done");
        assert_eq!(open_note(&ours, &note).as_deref(), Some("done"));
        assert_eq!(Session::open(&ours, &note, now), Err(Closed::NotOurs));
    }
}
