//! The URL to which a subscription's deliveries are sent. Here is only what its text alone can show. The addresses of
//! its host are judged by [`TargetPolicy`], when the URL is chosen and at each connection.

use std::net::IpAddr;

use url::Url;

use crate::trust::target_policy::{self, TargetPolicy};

/// Bytes of a target URL, at most.
pub const TARGET_URL_BYTES_MAX: usize = 2048;

/// A valid target: http or https, with a host, without a user name or a fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetUrl(Url);

impl TargetUrl {
    /// Parses a URL. If its host is an address, the policy must allow it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str, policy: &TargetPolicy) -> Result<Self, String> {
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
        // The normalized URL, which is stored, may be longer than the given one.
        if url.as_str().len() > TARGET_URL_BYTES_MAX {
            return Err(format!("must be at most {TARGET_URL_BYTES_MAX} bytes long when it is written out"));
        }
        if url.fragment().is_some() {
            return Err("must not have a fragment".to_owned());
        }
        policy.check(&url).map_err(|blocked| blocked.to_string())?;
        Ok(Self(url))
    }

    /// Parses a URL that was valid when it was stored.
    ///
    /// # Errors
    /// When the text is not a URL.
    pub fn from_stored(text: &str) -> Result<Self, url::ParseError> {
        Url::parse(text).map(Self)
    }

    /// The host if it is an address. Then no resolver is ever asked, so the one who connects must judge the address.
    #[must_use]
    pub fn literal_address(&self) -> Option<IpAddr> {
        target_policy::literal_address(&self.0)
    }

    /// The URL in parsed form.
    #[must_use]
    pub fn as_url(&self) -> &Url {
        &self.0
    }

    /// The URL as text.
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
        let policy = TargetPolicy::default();
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
            "https://:443/",
            "http://example.com:65536/",
            "http://exa mple.com/",
            "http://[::1/",
            "http://[fe80::1%25eth0]/",
            &long,
        ] {
            assert!(TargetUrl::parse(text, &policy).is_err(), "{text}");
        }
    }

    /// The host that would be connected to counts, however it is spelled.
    #[test]
    fn spellings_of_what_is_not_public() {
        let policy = TargetPolicy::default();
        for text in [
            "http://127.0.0.1/",
            "http://127.0.0.1:80/",
            "https://127.0.0.1:8443/",
            "http://127.0.0.1./",
            "http://127.1/",
            "http://127.0.1/",
            "http://2130706433/",
            "http://2130706433:8080/",
            "http://0x7f000001/",
            "http://0X7F.1/",
            "http://0x7f.0x0.0x0.0x1/",
            "http://0177.0.0.1/",
            "http://017700000001/",
            "http://0177.0x0.0.1/",
            "http://0/",
            "http://0.0.0.0/",
            "http://%31%32%37.0.0.1/",
            "http://127%2e0%2e0%2e1/",
            "http://127\u{3002}0\u{3002}0\u{3002}1/",
            "http://\u{ff11}\u{ff12}\u{ff17}.0.0.1/",
            "http://\u{2460}\u{2461}\u{2466}.0.0.1/",
            "http:127.0.0.1/",
            "http:/127.0.0.1/",
            "http:\\\\127.0.0.1\\",
            "http://127.0.\t0.1/",
            " http://127.0.0.1/ ",
            "http://example.com@127.0.0.1/",
            "http://1.1.1.1:80@127.0.0.1/",
            "http://127.0.0.1:80#@example.com/",
            "http://[::]/",
            "http://[::1]/",
            "http://[0:0:0:0:0:0:0:1]:8080/",
            "http://[::127.0.0.1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[::ffff:7f00:1]/",
            "http://[64:ff9b::7f00:1]/",
            "http://[2002:7f00:1::]/",
            "http://[fe80::1]/",
            "http://[fd00:ec2::254]/",
            "http://169.254.169.254/latest/meta-data",
            "http://2852039166/",
            "http://192.168.1.1/",
            "http://localhost/",
            "http://localhost./",
            "http://LOCALHOST:8080/",
            "http://local%68ost/",
            "http://\u{ff4c}ocalhost/",
            "http://x.localhost/",
            "http://localhost\u{3002}/",
            "http://metadata.google.internal/",
            "https://printer.local./",
            "https://router.home.arpa/",
        ] {
            assert!(TargetUrl::parse(text, &policy).is_err(), "{text}");
        }
        // It looks like an address to a person, but is a name: the resolver's answer is judged.
        let name = TargetUrl::parse("http://127.0.0.1.example.com/", &policy).expect("a name");
        assert_eq!(name.literal_address(), None);
    }
}
