//! Signing what goes out (Standard Webhooks `v1`) and verifying what comes in (`X-Hub-Signature-256`).

use std::fmt;

use base64::{Engine, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// What the text of a secret begins with (Standard Webhooks, "Signature scheme").
const PREFIX: &str = "whsec_";
/// Bytes of a secret, by the same section.
const SECRET_BYTES_MIN: usize = 24;
const SECRET_BYTES_MAX: usize = 64;
/// Bytes of a secret that we make.
const SECRET_BYTES_NEW: usize = 32;

/// The secret that a subscription and its receiver share: 24 to 64 bytes, as text `whsec_` and base64.
/// Its `Debug` form does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningSecret(Vec<u8>);

impl SigningSecret {
    /// A fresh one from the system's randomness.
    #[must_use]
    pub fn generate() -> Self {
        Self(rand::random::<[u8; SECRET_BYTES_NEW]>().to_vec())
    }

    /// Reads `whsec_…`.
    ///
    /// # Errors
    /// What is wrong with it, without showing it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let encoded = text.strip_prefix(PREFIX).ok_or("must begin with `whsec_`")?;
        let bytes = BASE64_STANDARD.decode(encoded).map_err(|_| "must be `whsec_` followed by base64")?;
        if (SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&bytes.len()) {
            Ok(Self(bytes))
        } else {
            Err(format!("must hold {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes, not {}", bytes.len()))
        }
    }

    /// Its text, `whsec_…`: only for the answer that shows it to its owner, and for sealing.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}", BASE64_STANDARD.encode(&self.0))
    }

    /// The value of the `webhook-signature` header: HMAC-SHA256 over `id.timestamp.payload`, base64, behind `v1,`.
    #[must_use]
    pub fn sign_v1(&self, id: &str, timestamp: i64, payload: &[u8]) -> String {
        let mac = self
            .hmac()
            .chain_update(id)
            .chain_update(".")
            .chain_update(timestamp.to_string())
            .chain_update(".")
            .chain_update(payload);
        format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()))
    }

    /// Whether an inbound `X-Hub-Signature-256` header (`sha256=` and hex, over the body alone) was made with the text
    /// of this secret, as GitHub and the many who copy it make theirs. Takes the same time whatever is wrong.
    #[must_use]
    pub fn verifies_hub_signature(&self, header: &str, payload: &[u8]) -> bool {
        let mac = Hmac::<Sha256>::new_from_slice(self.reveal().as_bytes()).expect("any length is a key");
        let expected = mac.chain_update(payload).finalize().into_bytes();
        header
            .strip_prefix("sha256=")
            .and_then(|digits| hex::decode(digits).ok())
            .is_some_and(|given| bool::from(given.ct_eq(expected.as_slice())))
    }

    fn hmac(&self) -> Hmac<Sha256> {
        Hmac::new_from_slice(&self.0).expect("any length is a key")
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Published vectors: the first stands in the Standard Webhooks libraries' own tests (Go, Python, PHP, JavaScript),
    /// the second in the Rust one's, the large ones in the tests of a widely used sender.
    #[test]
    fn published_vectors() {
        const A: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
        let cases = [
            (
                A,
                ID,
                1_614_265_330,
                r#"{"test": 2432232314}"#.to_owned(),
                "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
            ),
            (
                "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
                "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
                1_649_367_553,
                r#"{"email":"test@example.com","username":"test_user"}"#.to_owned(),
                "tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
            ),
            (A, ID, 1_614_265_330, "a".repeat(262_143), "NTItnqyWMoFhk2Bbe5V/BMdcFRWgcSQaTgqLHX7FC7c="),
            (A, ID, 1_614_265_330, "a".repeat(262_144), "Mw4Pe2WgApuT7NSqnSq0PQPV9gbLdggCl9B865x5Xh0="),
            (A, ID, 1_614_265_330, "a".repeat(1_048_576), "txpEUxqWZJ5nteTnymUVa+7C4NHpBeXJ6CsBAW0c3/A="),
        ];
        for (secret, id, timestamp, payload, expected) in cases {
            let secret = SigningSecret::parse(secret).expect("published");
            assert_eq!(secret.sign_v1(id, timestamp, payload.as_bytes()), format!("v1,{expected}"));
        }
    }

    #[test]
    fn hub_signature() {
        let secret = SigningSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("valid");
        // printf %s hello | openssl dgst -sha256 -hmac whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw
        let right = "sha256=c770c8b4e83a988d5236a41db64cb85cf40319a4d0c94a69aacc5703cf225ee4";
        assert!(secret.verifies_hub_signature(right, b"hello"));
        assert!(!secret.verifies_hub_signature(right, b"hello "));
        for wrong in ["", "sha256=", "sha1=00", &right[..20], &right.replace("sha256=", "SHA256=")] {
            assert!(!secret.verifies_hub_signature(wrong, b"hello"), "{wrong}");
        }
    }

    #[test]
    fn secrets_are_parsed_and_hidden() {
        let secret = SigningSecret::generate();
        assert_eq!(SigningSecret::parse(&secret.reveal()), Ok(secret.clone()));
        assert_eq!(format!("{secret:?}"), "SigningSecret(…)");
        let short = format!("whsec_{}", BASE64_STANDARD.encode([7; SECRET_BYTES_MIN - 1]));
        let long = format!("whsec_{}", BASE64_STANDARD.encode([7; SECRET_BYTES_MAX + 1]));
        for text in ["", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_%%%", &short, &long] {
            let message = SigningSecret::parse(text).expect_err(text);
            assert!(text.len() < 10 || !message.contains(&text[8..]), "{message}");
        }
    }
}
