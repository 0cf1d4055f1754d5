//! Verifies signatures of incoming requests, as the large providers make them. It is pure: headers, payload and time
//! are arguments. Which signature a subscription accepts is in [`crate::trust::ingest_auth`], and the questions that
//! some providers ask before they sign anything are in [`crate::trust::inbound_challenge`].

use base64::{Engine, prelude::BASE64_STANDARD};
use ring::{
    hmac,
    signature::{ED25519, UnparsedPublicKey},
};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::{
    trust::{
        provider::{Agreed, Provider, is_sendable},
        secret_text::{behind, decode},
        signing_secret::{ED25519_VERSION, HMAC_PREFIX, HMAC_VERSION, PUBLIC_KEY_PREFIX, mac},
    },
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
    /// The text that is signed behind the payload.
    suffix: String,
    timestamp: Option<i64>,
    id: Option<&'h str>,
    signatures: Vec<(Algorithm, Vec<u8>)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Hmac,
    /// With SHA-1, whose known weakness does not concern an HMAC.
    HmacSha1,
    /// No signature: the SHA-256 of the secret that the request shows.
    Shown,
    Ed25519,
}

/// The key with which a signature is verified.
enum Key {
    Shared(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl Provider {
    /// Whether a request has such a signature, right or wrong.
    pub fn is_offered<'h>(self, header: impl Fn(&str) -> Option<&'h str>) -> bool {
        header(self.header()).is_some() || self == Self::Standard && header("svix-signature").is_some()
    }

    /// Reads a secret in the form in which the provider shows it to people, and returns it without the spaces around
    /// it, which get there when it is copied.
    ///
    /// # Errors
    /// What is wrong with it, without showing it.
    pub fn read_secret(self, text: &str) -> Result<String, String> {
        let text = text.trim();
        self.key(text).map(|_| text.to_owned())
    }

    /// Verifies a request's signature with any of these secrets. Comparing takes the same time whatever differs, so
    /// that the time reveals nothing. `now` is in seconds since 1970.
    ///
    /// # Errors
    /// Why the signature is refused.
    pub fn verify<'h>(
        self,
        agreed: Agreed<'_>,
        header: impl Fn(&str) -> Option<&'h str>,
        payload: &[u8],
        now: i64,
    ) -> Result<Verified, Refused> {
        let offer = self.offer(agreed, header)?;
        if offer.timestamp.is_some_and(|made| made.abs_diff(now) > u64::from(agreed.tolerance_seconds)) {
            return Err(Refused::Stale);
        }
        // Whoever asks X's question gets an HMAC of what they have sent, made with the same secret. So nothing that can
        // be asked may be taken for a signed body. X's own bodies are JSON objects, and cannot be asked.
        if self == Self::X && str::from_utf8(payload).is_ok_and(is_sendable) {
            return Err(Refused::Wrong);
        }
        let keys = agreed.secrets.iter().filter_map(|secret| self.key(secret).ok());
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
        validation::text(text, SECRET_CHARACTERS_MAX)?;
        match self {
            Self::Standard => standard_key(text),
            Self::Github
            | Self::Stripe
            | Self::Shopify
            | Self::Slack
            | Self::Meta
            | Self::Dropbox
            | Self::X
            | Self::Trello
            | Self::Okta => Ok(Key::Shared(text.as_bytes().to_vec())),
        }
    }

    fn offer<'h>(self, agreed: Agreed<'_>, header: impl Fn(&str) -> Option<&'h str>) -> Result<Offer<'h>, Refused> {
        let name = self.header();
        let unreadable = || Refused::Unreadable(name);
        // The signature's bytes, from the text behind a prefix of the header's value.
        let hex_behind = |prefix: &str| header(name)?.strip_prefix(prefix).and_then(|digits| hex::decode(digits).ok());
        let base64_behind = |prefix: &str| BASE64_STANDARD.decode(header(name)?.strip_prefix(prefix)?).ok();
        match self {
            Self::Github | Self::Meta => over_body(Algorithm::Hmac, hex_behind("sha256=")).ok_or_else(unreadable),
            Self::Dropbox => over_body(Algorithm::Hmac, hex_behind("")).ok_or_else(unreadable),
            Self::Shopify => over_body(Algorithm::Hmac, base64_behind("")).ok_or_else(unreadable),
            Self::X => over_body(Algorithm::Hmac, base64_behind("sha256=")).ok_or_else(unreadable),
            Self::Trello => {
                let offer = over_body(Algorithm::HmacSha1, base64_behind("")).ok_or_else(unreadable)?;
                Ok(Offer { suffix: agreed.callback_url.unwrap_or_default().to_owned(), ..offer })
            }
            Self::Okta => {
                let shown = header(name).map(|secret| Sha256::digest(secret).to_vec());
                over_body(Algorithm::Shown, shown).ok_or_else(unreadable)
            }
            Self::Slack => {
                let at = "X-Slack-Request-Timestamp";
                let (text, timestamp) = header(at).and_then(seconds).ok_or(Refused::Unreadable(at))?;
                let offer = over_body(Algorithm::Hmac, hex_behind("v0=")).ok_or_else(unreadable)?;
                Ok(Offer { prefix: format!("v0:{text}:"), timestamp: Some(timestamp), ..offer })
            }
            Self::Stripe => stripe(header(name).unwrap_or_default()).ok_or_else(unreadable),
            Self::Standard => standard(header),
        }
    }
}

/// The key in a Standard Webhooks secret: `whsec_…` or bare base64, or `whpk_…` for a public key.
fn standard_key(text: &str) -> Result<Key, String> {
    if let Some(encoded) = behind(text, ED25519_VERSION, PUBLIC_KEY_PREFIX) {
        let key = decode(encoded).filter(|bytes| bytes.len() == 32);
        return key.map(Key::Ed25519).ok_or_else(|| "must be `whpk_` followed by the base64 of 32 bytes".to_owned());
    }
    // `_` is a digit of URL-safe base64. So a prefix that is not known, such as `whsk_`, would be read as a part of a
    // bare secret, which no signature would ever fit.
    let is_prefixed = text.split_once('_').is_some_and(|(prefix, _)| {
        prefix.len() <= HMAC_PREFIX.len() && prefix.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("wh"))
    });
    let bare = (!is_prefixed).then_some(text);
    let key = behind(text, HMAC_VERSION, HMAC_PREFIX).or(bare).and_then(decode);
    key.filter(|bytes| bytes.len() >= STANDARD_BYTES_MIN).map(Key::Shared).ok_or_else(|| {
        format!("must be base64 of at least {STANDARD_BYTES_MIN} bytes, behind `whsec_`; or a public key, `whpk_…`")
    })
}

/// One signature, over the body alone.
fn over_body<'h>(algorithm: Algorithm, signature: Option<Vec<u8>>) -> Option<Offer<'h>> {
    let signatures = vec![(algorithm, signature?)];
    Some(Offer { prefix: String::new(), suffix: String::new(), timestamp: None, id: None, signatures })
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
    let (prefix, suffix) = (format!("{text}."), String::new());
    (!signatures.is_empty()).then_some(Offer { prefix, suffix, timestamp: Some(timestamp), id: None, signatures })
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
    let (prefix, suffix) = (format!("{id}.{text}."), String::new());
    Ok(Offer { prefix, suffix, timestamp: Some(timestamp), id: Some(id), signatures })
}

/// Parses a timestamp; returns its text, as it is signed, and the seconds since 1970.
fn seconds(text: &str) -> Option<(&str, i64)> {
    let plain = (1..=TIMESTAMP_DIGITS_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten().map(|seconds| (text, seconds))
}

impl Offer<'_> {
    /// Whether one of the signatures was made with this key over this payload.
    fn fits(&self, key: &Key, payload: &[u8]) -> bool {
        let signed = [self.prefix.as_bytes(), payload, self.suffix.as_bytes()];
        let of = |wanted| self.signatures.iter().filter(move |(algorithm, _)| *algorithm == wanted);
        let is_offered = |wanted| of(wanted).count() > 0;
        // All of them are compared, so that the time does not reveal which one fits.
        let is_among =
            |expected: &[u8], wanted| of(wanted).filter(|(_, given)| bool::from(expected.ct_eq(given))).count() > 0;
        match key {
            Key::Shared(key) => {
                is_offered(Algorithm::Hmac) && is_among(&mac(key, &signed), Algorithm::Hmac)
                    || is_offered(Algorithm::HmacSha1) && is_among(mac_sha1(key, &signed).as_ref(), Algorithm::HmacSha1)
                    || is_offered(Algorithm::Shown) && is_among(&Sha256::digest(key), Algorithm::Shown)
            }
            Key::Ed25519(key) if is_offered(Algorithm::Ed25519) => {
                let key = UnparsedPublicKey::new(&ED25519, key);
                let signed = signed.concat();
                of(Algorithm::Ed25519).any(|(_, given)| key.verify(&signed, given).is_ok())
            }
            Key::Ed25519(_) => false,
        }
    }
}

/// HMAC-SHA1 over the concatenated parts.
fn mac_sha1(key: &[u8], parts: &[&[u8]]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key));
    for part in parts {
        context.update(part);
    }
    context.sign()
}

#[cfg(test)]
mod tests;
