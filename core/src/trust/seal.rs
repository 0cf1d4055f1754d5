//! Sealing secrets for storage: XChaCha20-Poly1305 under a master key from the environment. It does not know what it
//! seals, except for the context of one secret that shares a row with others.

use std::fmt;

use base64::{Engine, prelude::BASE64_STANDARD};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use uuid::Uuid;

/// Bytes of a master key, as the cipher requires.
const KEY_BYTES: usize = 32;
/// Bytes of the random nonce in front of each ciphertext: so many that random nonces never repeat.
const NONCE_BYTES: usize = 24;
/// Bytes of a key's id, at most, because its length is stored in one byte and people read it.
const KEY_ID_BYTES_MAX: usize = 32;

/// The master keys: the first one seals, and each of them opens what it sealed.
#[derive(Clone)]
pub struct Keyring(Vec<(String, XChaCha20Poly1305)>);

impl Keyring {
    /// Reads `id:base64,id:base64,…`, each key 32 bytes.
    ///
    /// # Errors
    /// What is wrong with the text, without showing it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let keys = text.split(',').map(|item| {
            let (id, key) = item.trim().split_once(':').ok_or("each key must be `id:base64`")?;
            if id.is_empty() || id.len() > KEY_ID_BYTES_MAX {
                return Err(format!("a key's id must be 1 to {KEY_ID_BYTES_MAX} characters long"));
            }
            let key = BASE64_STANDARD.decode(key).map_err(|_| format!("key `{id}` is not valid base64"))?;
            let cipher = XChaCha20Poly1305::new_from_slice(&key)
                .map_err(|_| format!("key `{id}` must be {KEY_BYTES} bytes, not {}", key.len()))?;
            Ok((id.to_owned(), cipher))
        });
        let keys = keys.collect::<Result<Vec<_>, String>>()?;
        for (place, (id, _)) in keys.iter().enumerate() {
            if keys[..place].iter().any(|(earlier, _)| earlier == id) {
                return Err(format!("there are two keys `{id}`"));
            }
        }
        Ok(Self(keys))
    }

    /// Seals a secret. `context` says to which row it belongs. Only the same context opens it again, so that nobody can
    /// move a secret from one row to another.
    #[must_use]
    pub fn seal(&self, secret: &[u8], context: &[u8]) -> Vec<u8> {
        let (_, cipher) = self.present();
        let nonce: [u8; NONCE_BYTES] = rand::random();
        let sealed = cipher
            .encrypt(&XNonce::from(nonce), Payload { msg: secret, aad: context })
            .expect("secrets are far below the cipher's length limit");
        [&self.mark(), nonce.as_slice(), &sealed].concat()
    }

    /// The bytes with which everything begins that is sealed with the first key: the length of its id, then the id.
    #[must_use]
    pub fn mark(&self) -> Vec<u8> {
        let (id, _) = self.present();
        let id_bytes = u8::try_from(id.len()).expect("checked when the key was read");
        [&[id_bytes], id.as_bytes()].concat()
    }

    fn present(&self) -> &(String, XChaCha20Poly1305) {
        self.0.first().expect("a keyring holds at least one key")
    }

    /// Opens a sealed secret with whichever key sealed it.
    ///
    /// # Errors
    /// When that key is not in the ring, or when the bytes or the context differ from those that were sealed.
    pub fn open(&self, sealed: &[u8], context: &[u8]) -> Result<Vec<u8>, String> {
        let damaged = || "a sealed secret is damaged".to_owned();
        let (&id_bytes, rest) = sealed.split_first().ok_or_else(damaged)?;
        let (id, rest) = rest.split_at_checked(id_bytes.into()).ok_or_else(damaged)?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_BYTES>().ok_or_else(damaged)?;
        let (_, cipher) = self.0.iter().find(|(known, _)| known.as_bytes() == id).ok_or_else(|| {
            format!("no encryption key `{}` is configured, and a stored secret needs it", String::from_utf8_lossy(id))
        })?;
        cipher.decrypt(&XNonce::from(*nonce), Payload { msg: sealed, aad: context }).map_err(|_| damaged())
    }
}

/// The context in which the secrets of a subscription's ingest are sealed. It differs from the subscription's id, the
/// context of its other secrets, so that neither column can be moved into the place of the other.
#[must_use]
pub(crate) fn ingest_signature_context(subscription_id: Uuid) -> Vec<u8> {
    [subscription_id.as_bytes(), b"ingest_signature".as_slice()].concat()
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(id, _)| id)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "old:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    const NEW: &str = "new:ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=";

    #[test]
    fn opens_with_whichever_key_sealed() {
        let old = Keyring::parse(OLD).expect("valid");
        let both = Keyring::parse(&format!("{NEW},{OLD}")).expect("valid");
        let sealed = old.seal(b"secret", b"row 1");
        assert_eq!(both.open(&sealed, b"row 1").as_deref(), Ok(b"secret".as_slice()));
        assert!(both.open(&sealed, b"row 2").is_err(), "another context");
        assert!(old.open(&both.seal(b"x", b""), b"").expect_err("sealed by the new key").contains("`new`"));
    }

    #[test]
    fn damage_is_noticed() {
        let ring = Keyring::parse(OLD).expect("valid");
        let sealed = ring.seal(b"secret", b"");
        for index in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[index] ^= 1;
            assert!(ring.open(&damaged, b"").is_err(), "byte {index}");
            assert!(ring.open(&sealed[..index], b"").is_err(), "cut at {index}");
        }
    }

    #[test]
    fn bad_keys_are_refused_unshown() {
        assert!(Keyring::parse(&format!("{OLD},{OLD}")).is_err_and(|why| why.contains("two keys")));
        for text in ["", "id", "id:short", "id:AAAA", ":AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="] {
            let message = Keyring::parse(text).expect_err(text);
            assert!(!message.contains("AAAA"), "{message}");
        }
    }
}
