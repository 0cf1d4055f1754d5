//! Verifies signatures of incoming requests, as the large providers make them. It is pure: headers, payload and time
//! are arguments. Which signature a subscription accepts is in [`crate::trust::ingest_auth`].

use base64::{Engine, prelude::BASE64_STANDARD};
use ring::signature::{ED25519, UnparsedPublicKey};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::{
    text_enum::text_enum,
    trust::signing_secret::{PUBLIC_KEY_PREFIX, mac},
    validation,
};

/// Signatures of one request that are checked, at most: providers send one or two, Postrider up to five.
const SIGNATURES_MAX: usize = 5;
/// Bytes of a message's id, which is part of what is signed, at most.
const ID_BYTES_MAX: usize = 256;
/// Digits of a timestamp in seconds since 1970, at most: enough until the year 318857.
const TIMESTAMP_DIGITS_MAX: usize = 13;
/// Characters of a provider's secret, at most.
const SECRET_CHARACTERS_MAX: usize = 512;
/// Bytes of a Standard Webhooks secret, at least: half of what its specification asks of new ones.
const STANDARD_BYTES_MIN: usize = 12;

text_enum! {
    /// The provider whose way of signing is used.
    pub enum Provider {
        /// `X-Hub-Signature-256: sha256=` and hex, over the body. No timestamp.
        Github = "github",
        /// Standard Webhooks: `webhook-id`, `webhook-timestamp`, `webhook-signature` (or `svix-…`), `v1` and `v1a`.
        Standard = "standard",
        /// `Stripe-Signature: t=…,v1=…`, over `timestamp.body`.
        Stripe = "stripe",
        /// `X-Shopify-Hmac-Sha256`: base64, over the body. No timestamp.
        Shopify = "shopify",
        /// `X-Slack-Signature: v0=` and hex, over `v0:timestamp:body`, with `X-Slack-Request-Timestamp`.
        Slack = "slack",
    }
}

/// Why a signature is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A header is missing or cannot be understood.
    #[error("the header `{0}` is missing or cannot be understood")]
    Unreadable(&'static str),
    /// The signature was made too long ago, or lies in the future.
    #[error("the signature's timestamp is too far from the present time")]
    Stale,
    /// The signature was made with another secret, or over something else.
    #[error("the signature does not fit the body and the secret")]
    Wrong,
}

/// A signature that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The identity of the request, which is the same when it is sent again, and which nobody can change: the signed id
    /// of the message, or else the digest of what is signed, including its timestamp. `None` where the scheme has no
    /// timestamp.
    pub once: Option<String>,
}

/// The signature headers of a request, parsed.
struct Offer<'h> {
    /// The text that is signed in front of the payload.
    prefix: String,
    timestamp: Option<i64>,
    id: Option<&'h str>,
    signatures: Vec<(Algorithm, Vec<u8>)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Hmac,
    Ed25519,
}

/// The key with which a signature is verified.
enum Key {
    Hmac(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl Provider {
    /// The header that contains this provider's signatures.
    #[must_use]
    pub fn header(self) -> &'static str {
        match self {
            Self::Github => "X-Hub-Signature-256",
            Self::Standard => "webhook-signature",
            Self::Stripe => "Stripe-Signature",
            Self::Shopify => "X-Shopify-Hmac-Sha256",
            Self::Slack => "X-Slack-Signature",
        }
    }

    /// Whether a request has such a signature, right or wrong.
    pub fn is_offered<'h>(self, header: impl Fn(&str) -> Option<&'h str>) -> bool {
        header(self.header()).is_some() || self == Self::Standard && header("svix-signature").is_some()
    }

    /// Checks a secret in the form in which the provider shows it to people.
    ///
    /// # Errors
    /// What is wrong with it, without showing it.
    pub fn check_secret(self, text: &str) -> Result<(), String> {
        validation::text(text, SECRET_CHARACTERS_MAX)?;
        self.key(text).map(|_| ())
    }

    /// Verifies a request's signature with any of these secrets. Comparing takes the same time whatever differs, so
    /// that the time reveals nothing. `now` is in seconds since 1970.
    ///
    /// # Errors
    /// Why the signature is refused.
    pub fn verify<'h>(
        self,
        secrets: &[String],
        tolerance_seconds: u32,
        header: impl Fn(&str) -> Option<&'h str>,
        payload: &[u8],
        now: i64,
    ) -> Result<Verified, Refused> {
        let offer = self.offer(header)?;
        if offer.timestamp.is_some_and(|made| made.abs_diff(now) > u64::from(tolerance_seconds)) {
            return Err(Refused::Stale);
        }
        let keys = secrets.iter().filter_map(|secret| self.key(secret).ok());
        let fits = keys.filter(|key| offer.fits(key, payload)).count() > 0;
        if !fits {
            return Err(Refused::Wrong);
        }
        // The digest is over the signed text and not the signature, because each of two valid secrets makes another
        // signature.
        let signed = || hex::encode(Sha256::new().chain_update(&offer.prefix).chain_update(payload).finalize());
        let once = offer.timestamp.map(|_| offer.id.map_or_else(signed, |id| format!("id:{id}")));
        Ok(Verified { once })
    }

    fn key(self, text: &str) -> Result<Key, String> {
        if self != Self::Standard {
            return Ok(Key::Hmac(text.as_bytes().to_vec()));
        }
        if let Some(encoded) = text.strip_prefix(PUBLIC_KEY_PREFIX) {
            let key = BASE64_STANDARD.decode(encoded).ok().filter(|bytes| bytes.len() == 32);
            return key
                .map(Key::Ed25519)
                .ok_or_else(|| "must be `whpk_` followed by the base64 of 32 bytes".to_owned());
        }
        let key = BASE64_STANDARD.decode(text.strip_prefix("whsec_").unwrap_or(text)).ok();
        key.filter(|bytes| bytes.len() >= STANDARD_BYTES_MIN).map(Key::Hmac).ok_or_else(|| {
            format!("must be base64 of at least {STANDARD_BYTES_MIN} bytes, behind `whsec_`; or a public key, `whpk_…`")
        })
    }

    fn offer<'h>(self, header: impl Fn(&str) -> Option<&'h str>) -> Result<Offer<'h>, Refused> {
        let name = self.header();
        let unreadable = || Refused::Unreadable(name);
        let hmacs = |bytes: Option<Vec<u8>>| {
            let signature = bytes.ok_or_else(unreadable)?;
            Ok(vec![(Algorithm::Hmac, signature)])
        };
        match self {
            Self::Github => {
                let value = header(name).and_then(|value| value.strip_prefix("sha256="));
                let signatures = hmacs(value.and_then(|digits| hex::decode(digits).ok()))?;
                Ok(Offer { prefix: String::new(), timestamp: None, id: None, signatures })
            }
            Self::Shopify => {
                let signatures = hmacs(header(name).and_then(|value| BASE64_STANDARD.decode(value).ok()))?;
                Ok(Offer { prefix: String::new(), timestamp: None, id: None, signatures })
            }
            Self::Slack => {
                let at = "X-Slack-Request-Timestamp";
                let (text, timestamp) = header(at).and_then(seconds).ok_or(Refused::Unreadable(at))?;
                let value = header(name).and_then(|value| value.strip_prefix("v0="));
                let signatures = hmacs(value.and_then(|digits| hex::decode(digits).ok()))?;
                Ok(Offer { prefix: format!("v0:{text}:"), timestamp: Some(timestamp), id: None, signatures })
            }
            Self::Stripe => stripe(header(name).unwrap_or_default()).ok_or_else(unreadable),
            Self::Standard => standard(header),
        }
    }
}

/// `t=1492774577,v1=5257a8…,v1=…,v0=…`, in any order; only `v1` counts.
fn stripe(value: &str) -> Option<Offer<'_>> {
    let mut timestamp = None;
    let mut signatures = Vec::new();
    for (name, item) in value.split(',').filter_map(|item| item.trim().split_once('=')) {
        match name {
            "t" if timestamp.is_some() => return None,
            "t" => timestamp = Some(seconds(item)?),
            "v1" if signatures.len() < SIGNATURES_MAX => signatures.push((Algorithm::Hmac, hex::decode(item).ok()?)),
            _ => {}
        }
    }
    let (text, timestamp) = timestamp?;
    let prefix = format!("{text}.");
    (!signatures.is_empty()).then_some(Offer { prefix, timestamp: Some(timestamp), id: None, signatures })
}

/// Parses the headers of Standard Webhooks ("Webhook headers"). Signatures are separated by spaces; those of unknown
/// versions never fit.
fn standard<'h>(header: impl Fn(&str) -> Option<&'h str>) -> Result<Offer<'h>, Refused> {
    let names = ["webhook-id", "webhook-timestamp", "webhook-signature"];
    let unbranded = ["svix-id", "svix-timestamp", "svix-signature"];
    let sent = if header(names[2]).is_some() { names } else { unbranded };
    let find =
        |index: usize| header(sent[index]).filter(|text| !text.is_empty()).ok_or(Refused::Unreadable(names[index]));
    let id = find(0)?;
    if id.len() > ID_BYTES_MAX {
        return Err(Refused::Unreadable(names[0]));
    }
    let (text, timestamp) = seconds(find(1)?).ok_or(Refused::Unreadable(names[1]))?;
    let signatures = find(2)?.split(' ').filter_map(|item| {
        let (version, encoded) = item.split_once(',')?;
        let algorithm = match version {
            "v1" => Algorithm::Hmac,
            "v1a" => Algorithm::Ed25519,
            _ => return None,
        };
        Some((algorithm, BASE64_STANDARD.decode(encoded).ok()?))
    });
    let signatures = signatures.take(SIGNATURES_MAX).collect();
    Ok(Offer { prefix: format!("{id}.{text}."), timestamp: Some(timestamp), id: Some(id), signatures })
}

/// Parses a timestamp; returns its text, as it is signed, and the seconds since 1970.
fn seconds(text: &str) -> Option<(&str, i64)> {
    let plain = (1..=TIMESTAMP_DIGITS_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten().map(|seconds| (text, seconds))
}

impl Offer<'_> {
    /// Whether one of the signatures was made with this key over this payload.
    fn fits(&self, key: &Key, payload: &[u8]) -> bool {
        let of = |wanted| self.signatures.iter().filter(move |(algorithm, _)| *algorithm == wanted);
        match key {
            Key::Hmac(key) if of(Algorithm::Hmac).count() > 0 => {
                let expected = mac(key, &[self.prefix.as_bytes(), payload]);
                // All of them are compared, so that the time does not reveal which one fits.
                of(Algorithm::Hmac).filter(|(_, given)| bool::from(expected.ct_eq(given))).count() > 0
            }
            Key::Ed25519(key) if of(Algorithm::Ed25519).count() > 0 => {
                let key = UnparsedPublicKey::new(&ED25519, key);
                let signed = [self.prefix.as_bytes(), payload].concat();
                of(Algorithm::Ed25519).any(|(_, given)| key.verify(&signed, given).is_ok())
            }
            Key::Hmac(_) | Key::Ed25519(_) => false,
        }
    }
}

#[cfg(test)]
mod tests;
