//! The secrets that sign deliveries: HMAC keys (`whsec_…`) and Ed25519 keys (`whsk_…`). One is current; during a
//! rotation, earlier ones sign beside it. What is signed, and how it is sent, is in [`crate::trust::signature`].

use std::{fmt, sync::Arc};

use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use ring::signature::{Ed25519KeyPair, KeyPair};
use sha2::Sha256;

use crate::trust::secret_text::{behind, decode};

/// The prefix of an HMAC secret's text (Standard Webhooks, "Signature scheme").
pub const HMAC_PREFIX: &str = "whsec_";
/// The prefix of an Ed25519 secret key's text, by the same section: seed and public key, 64 bytes.
pub const ED25519_PREFIX: &str = "whsk_";
/// The prefix of an Ed25519 public key's text, by the same section.
pub const PUBLIC_KEY_PREFIX: &str = "whpk_";
/// The version of signatures that are made with an HMAC secret; some dashboards show it in front of the secret.
pub const HMAC_VERSION: &str = "v1,";
/// The version of signatures that are made with an Ed25519 key.
pub const ED25519_VERSION: &str = "v1a,";
/// The shortest and longest HMAC secret in bytes, by the same section.
const HMAC_BYTES_MIN: usize = 24;
const HMAC_BYTES_MAX: usize = 64;
/// Bytes of an HMAC secret that Postrider makes.
const HMAC_BYTES_NEW: usize = 32;
/// Bytes of an Ed25519 seed, and of a public key (RFC 8032 §5.1.5).
const ED25519_BYTES: usize = 32;
/// Earlier secrets that may sign beside the current one, at most.
pub const PREVIOUS_SECRETS_MAX: usize = 4;

/// The algorithm that a secret is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretKind {
    /// HMAC-SHA256, whose secret the receiver shares.
    Hmac,
    /// Ed25519, of which the receiver has only the public key.
    Ed25519,
}

/// A secret that signs deliveries. Its `Debug` form does not show it.
#[derive(Clone)]
pub enum SigningSecret {
    /// 24 to 64 bytes; its text is `whsec_` and base64.
    Hmac(Vec<u8>),
    /// A key pair; its text is `whsk_` and the base64 of seed and public key.
    Ed25519(Arc<Ed25519Secret>),
}

/// An Ed25519 key pair, and the seed that it was made from.
pub struct Ed25519Secret {
    seed: [u8; ED25519_BYTES],
    pair: Ed25519KeyPair,
}

impl SigningSecret {
    /// A fresh secret of this kind, from the system's random numbers.
    #[must_use]
    pub fn generate(kind: SecretKind) -> Self {
        match kind {
            SecretKind::Hmac => Self::Hmac(rand::random::<[u8; HMAC_BYTES_NEW]>().to_vec()),
            SecretKind::Ed25519 => {
                let seed = rand::random::<[u8; ED25519_BYTES]>();
                let pair = Ed25519KeyPair::from_seed_unchecked(&seed).expect("any 32 bytes are a seed");
                Self::Ed25519(Arc::new(Ed25519Secret { seed, pair }))
            }
        }
    }

    /// Parses a text that begins with `whsec_` or `whsk_`, as dashboards and files show it
    /// (`crate::trust::secret_text`).
    ///
    /// # Errors
    /// What is wrong with it, without showing it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(encoded) = behind(text, HMAC_VERSION, HMAC_PREFIX) {
            let bytes = decode(encoded).ok_or("must be `whsec_` followed by base64")?;
            return if (HMAC_BYTES_MIN..=HMAC_BYTES_MAX).contains(&bytes.len()) {
                Ok(Self::Hmac(bytes))
            } else {
                Err(format!("must hold {HMAC_BYTES_MIN} to {HMAC_BYTES_MAX} bytes, not {}", bytes.len()))
            };
        }
        let encoded = behind(text, ED25519_VERSION, ED25519_PREFIX).ok_or("must begin with `whsec_` or `whsk_`")?;
        let wrong = "must be `whsk_` followed by the base64 of an Ed25519 seed and its public key, 64 bytes in all";
        let bytes = decode(encoded).ok_or(wrong)?;
        let (seed, public) = bytes.split_first_chunk::<ED25519_BYTES>().ok_or(wrong)?;
        let pair = Ed25519KeyPair::from_seed_and_public_key(seed, public).map_err(|_| wrong)?;
        Ok(Self::Ed25519(Arc::new(Ed25519Secret { seed: *seed, pair })))
    }

    /// The secret's text, only for the answer that shows it to its owner, and for sealing.
    #[must_use]
    pub fn reveal(&self) -> String {
        match self {
            Self::Hmac(bytes) => format!("{HMAC_PREFIX}{}", BASE64_STANDARD.encode(bytes)),
            Self::Ed25519(secret) => {
                let bytes = [secret.seed.as_slice(), secret.pair.public_key().as_ref()].concat();
                format!("{ED25519_PREFIX}{}", BASE64_STANDARD.encode(bytes))
            }
        }
    }

    /// The algorithm that the secret is for.
    #[must_use]
    pub fn kind(&self) -> SecretKind {
        match self {
            Self::Hmac(_) => SecretKind::Hmac,
            Self::Ed25519(_) => SecretKind::Ed25519,
        }
    }

    /// The 32 bytes of the public key; `None` for an HMAC secret.
    #[must_use]
    pub fn public_key(&self) -> Option<&[u8]> {
        match self {
            Self::Hmac(_) => None,
            Self::Ed25519(secret) => Some(secret.pair.public_key().as_ref()),
        }
    }

    /// The public key as text, `whpk_` and base64; `None` for an HMAC secret.
    #[must_use]
    pub fn public_key_text(&self) -> Option<String> {
        self.public_key().map(|bytes| format!("{PUBLIC_KEY_PREFIX}{}", BASE64_STANDARD.encode(bytes)))
    }

    /// One entry of a `webhook-signature` header over the concatenated parts: `v1,` or `v1a,` and base64.
    #[must_use]
    pub(crate) fn sign_standard(&self, parts: &[&[u8]]) -> String {
        match self {
            Self::Hmac(bytes) => format!("v1,{}", BASE64_STANDARD.encode(mac(bytes, parts))),
            Self::Ed25519(secret) => {
                format!("v1a,{}", BASE64_STANDARD.encode(secret.pair.sign(&parts.concat())))
            }
        }
    }

    /// HMAC-SHA256 over these parts, keyed with this secret's text, as receivers do that treat a secret as text. `None`
    /// for a key pair, because receivers do not have its text.
    #[must_use]
    pub(crate) fn mac_by_text(&self, parts: &[&[u8]]) -> Option<[u8; 32]> {
        match self {
            Self::Hmac(_) => Some(mac(self.reveal().as_bytes(), parts)),
            Self::Ed25519(_) => None,
        }
    }
}

/// HMAC-SHA256 over the concatenated parts.
#[must_use]
pub(crate) fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mac = Hmac::<Sha256>::new_from_slice(key).expect("any length is a key");
    parts.iter().fold(mac, Mac::chain_update).finalize().into_bytes().into()
}

impl PartialEq for SigningSecret {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Hmac(one), Self::Hmac(other)) => one == other,
            (Self::Ed25519(one), Self::Ed25519(other)) => one.seed == other.seed,
            (Self::Hmac(_), Self::Ed25519(_)) | (Self::Ed25519(_), Self::Hmac(_)) => false,
        }
    }
}

impl Eq for SigningSecret {}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret(…)")
    }
}

/// A secret that has been replaced, and that signs beside its successor for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreviousSecret {
    /// The replaced secret.
    pub secret: SigningSecret,
    /// When the secret stops signing.
    pub expires_at: DateTime<Utc>,
}

/// The secrets that sign a subscription's deliveries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningSecrets {
    /// The current secret, which always signs.
    pub current: SigningSecret,
    /// Earlier secrets, the latest first; some may have stopped signing.
    pub previous: Vec<PreviousSecret>,
}

impl SigningSecrets {
    /// Only a current secret, without earlier ones.
    #[must_use]
    pub fn only(current: SigningSecret) -> Self {
        Self { current, previous: Vec::new() }
    }

    /// The secrets that sign at `now`: the current one, then earlier ones, the latest first.
    pub fn active(&self, now: DateTime<Utc>) -> impl Iterator<Item = &SigningSecret> {
        std::iter::once(&self.current).chain(self.overlapping(now).map(|previous| &previous.secret))
    }

    /// The earlier secrets that still sign at `now`.
    pub fn overlapping(&self, now: DateTime<Utc>) -> impl Iterator<Item = &PreviousSecret> {
        self.previous.iter().filter(move |previous| now < previous.expires_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_parsed_and_hidden() {
        for kind in [SecretKind::Hmac, SecretKind::Ed25519] {
            let secret = SigningSecret::generate(kind);
            assert_eq!(secret.kind(), kind);
            assert_eq!(SigningSecret::parse(&secret.reveal()), Ok(secret.clone()));
            assert_ne!(SigningSecret::generate(kind), secret);
            assert_eq!(format!("{secret:?}"), "SigningSecret(…)");
        }
        let short = format!("whsec_{}", BASE64_STANDARD.encode([7; HMAC_BYTES_MIN - 1]));
        let long = format!("whsec_{}", BASE64_STANDARD.encode([7; HMAC_BYTES_MAX + 1]));
        let unpaired = format!("whsk_{}", BASE64_STANDARD.encode([7; 64]));
        let seed = format!("whsk_{}", BASE64_STANDARD.encode([7; ED25519_BYTES]));
        let bare = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        for text in ["", "whsec_", "whsk_", bare, "whsec_%%%", "whsk_%%%", &short, &long, &unpaired, &seed] {
            let message = SigningSecret::parse(text).expect_err(text);
            assert!(text.len() < 10 || !message.contains(&text[8..]), "{message}");
        }
    }

    #[test]
    fn secrets_are_read_as_dashboards_show_them() {
        let bytes = [0xfb; HMAC_BYTES_MIN + 1];
        let wanted = SigningSecret::Hmac(bytes.to_vec());
        let padded = BASE64_STANDARD.encode(bytes);
        let bare = padded.trim_end_matches('=');
        let url_safe = padded.replace('+', "-").replace('/', "_");
        assert!(padded != bare && padded != url_safe, "the bytes need padding, and differ in both alphabets");
        for encoded in [padded.as_str(), bare, &url_safe, url_safe.trim_end_matches('=')] {
            for text in [format!("whsec_{encoded}"), format!(" v1,whsec_{encoded}\r\n")] {
                assert_eq!(SigningSecret::parse(&text), Ok(wanted.clone()), "{text:?}");
            }
            assert!(SigningSecret::parse(&format!("v1a,whsec_{encoded}")).is_err());
        }
        let pair = SigningSecret::generate(SecretKind::Ed25519);
        let text = pair.reveal();
        assert_eq!(SigningSecret::parse(&format!("v1a,{}\n", text.trim_end_matches('='))), Ok(pair));
    }

    #[test]
    fn earlier_secrets_sign_until_they_expire() {
        let at = |seconds| DateTime::from_timestamp(seconds, 0).expect("in range");
        let [current, late, early] = [(); 3].map(|()| SigningSecret::generate(SecretKind::Hmac));
        let secrets = SigningSecrets {
            current: current.clone(),
            previous: vec![
                PreviousSecret { secret: late.clone(), expires_at: at(20) },
                PreviousSecret { secret: early.clone(), expires_at: at(10) },
            ],
        };
        let active = |seconds| secrets.active(at(seconds)).cloned().collect::<Vec<_>>();
        assert_eq!(active(9), [current.clone(), late.clone(), early]);
        assert_eq!(active(10), [current.clone(), late]);
        assert_eq!(active(20), [current]);
    }
}
