//! Reads the text of a secret as people copy it from a provider's dashboard or from a file: spaces around it, the
//! version of its signatures in front of it, and every usual form of base64. What a secret means is in
//! [`crate::trust::signing_secret`] and [`crate::trust::inbound_signature`].

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

/// Padding may be there or not.
const CONFIG: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, CONFIG);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, CONFIG);

/// Decodes base64, padded or not, in the standard or the URL-safe alphabet. A text that mixes both alphabets is
/// refused, because it is damaged.
pub fn decode(encoded: &str) -> Option<Vec<u8>> {
    let engine = if encoded.contains(['-', '_']) { URL_SAFE } else { STANDARD };
    engine.decode(encoded).ok()
}

/// The text behind `prefix`, such as `whsec_`. In front of that, there may be spaces, and the version of the signatures
/// that are made with such a secret, such as `v1,`: some dashboards show it with the secret.
pub fn behind<'t>(text: &'t str, version: &str, prefix: &str) -> Option<&'t str> {
    let text = text.trim();
    text.strip_prefix(version).unwrap_or(text).strip_prefix(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_usual_form_of_base64() {
        let bytes = [0xfb, 0xff, 0xfe, 0x01];
        for text in ["+//+AQ==", "+//+AQ", "-__-AQ==", "-__-AQ"] {
            assert_eq!(decode(text).as_deref(), Some(bytes.as_slice()), "{text}");
        }
        for text in ["+__+AQ==", "+//+A", "+//+AR==", "+//+ AQ==", "%%%", "+//+AQ==\n"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }

    #[test]
    fn a_version_and_spaces_may_stand_in_front() {
        for text in ["whsec_AAAA", " whsec_AAAA\n", "v1,whsec_AAAA", "\tv1,whsec_AAAA "] {
            assert_eq!(behind(text, "v1,", "whsec_"), Some("AAAA"), "{text:?}");
        }
        for text in ["AAAA", "v2,whsec_AAAA", "v1a,whsec_AAAA", "v1,v1,whsec_AAAA", "v1, whsec_AAAA", "WHSEC_AAAA"] {
            assert_eq!(behind(text, "v1,", "whsec_"), None, "{text:?}");
        }
    }
}
