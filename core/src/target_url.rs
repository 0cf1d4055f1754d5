//! The URL that a subscription's deliveries are sent to. What its host resolves to is judged at each connection, by
//! [`AddressPolicy`]; here only what the text alone can tell.

use std::net::IpAddr;

use url::{Host, Url};

use crate::network::AddressPolicy;

/// Bytes of a target URL, at most.
pub const TARGET_URL_BYTES_MAX: usize = 2048;

/// A valid target: http or https, a host, no user name, no fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetUrl(Url);

impl TargetUrl {
    /// Reads a URL. A host given as an address must be one that the policy allows.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str, policy: &AddressPolicy) -> Result<Self, String> {
        if text.len() > TARGET_URL_BYTES_MAX {
            return Err(format!("must be at most {TARGET_URL_BYTES_MAX} bytes long"));
        }
        let url = Url::parse(text).map_err(|error| format!("must be an absolute http or https URL: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err("must be an absolute http or https URL".to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("must not carry a user name or password; send them as a custom header".to_owned());
        }
        if url.fragment().is_some() {
            return Err("must not have a fragment".to_owned());
        }
        let target = Self(url);
        match target.literal_address() {
            Some(address) if !policy.allows(address) => {
                Err(format!("{address} is not a public address, and its network is not allowed by the operator"))
            }
            _ => Ok(target),
        }
    }

    /// A URL that was valid when it was stored.
    ///
    /// # Errors
    /// When it is no URL at all.
    pub fn from_stored(text: &str) -> Result<Self, url::ParseError> {
        Url::parse(text).map(Self)
    }

    /// The host, where it is an address: then no resolver is ever asked, so whoever connects must judge it.
    #[must_use]
    pub fn literal_address(&self) -> Option<IpAddr> {
        match self.0.host()? {
            Host::Ipv4(address) => Some(address.into()),
            Host::Ipv6(address) => Some(address.into()),
            Host::Domain(_) => None,
        }
    }

    /// The URL itself.
    #[must_use]
    pub fn as_url(&self) -> &Url {
        &self.0
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_and_refused() {
        let policy = AddressPolicy::default();
        for text in [
            "https://example.com/hook",
            "http://example.com:8080/a?b=c",
            "https://1.1.1.1/",
            "https://[2606:4700::1111]/",
        ] {
            assert!(TargetUrl::parse(text, &policy).is_ok(), "{text}");
        }
        let long = format!("https://example.com/{}", "a".repeat(TARGET_URL_BYTES_MAX));
        for text in [
            "",
            "example.com",
            "/hook",
            "ftp://example.com/",
            "file:///etc/passwd",
            "https://",
            "https://user@example.com/",
            "https://user:pass@example.com/",
            "https://example.com/#part",
            "http://127.0.0.1/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://0177.0.0.1/",
            "http://127.1/",
            "http://[::1]/",
            "http://[::ffff:7f00:1]/",
            "http://169.254.169.254/latest/meta-data",
            "http://192.168.1.1/",
            "http://127.0.0.1./",
            &long,
        ] {
            assert!(TargetUrl::parse(text, &policy).is_err(), "{text}");
        }
    }
}
