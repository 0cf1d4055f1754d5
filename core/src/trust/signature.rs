//! How deliveries are signed: the schemes, and the headers that each of them sends. Their secrets are in
//! [`crate::trust::signing_secret`]; verifying other people's signatures is in [`crate::trust::inbound_signature`].

use chrono::{DateTime, Utc};

use crate::{
    text_enum::text_enum,
    trust::signing_secret::{SecretKind, SigningSecret, SigningSecrets},
};

text_enum! {
    /// A way to sign deliveries.
    #[derive(Default)]
    pub enum SignatureScheme {
        /// Standard Webhooks `v1`: HMAC-SHA256 over `id.timestamp.payload`.
        #[default]
        Standard = "standard",
        /// Standard Webhooks `v1a`: Ed25519 over the same, so that the receiver holds no secret.
        StandardV1a = "standard_v1a",
        /// `X-Hub-Signature-256` as GitHub makes it: HMAC-SHA256 over the payload only, so a receiver cannot tell a
        /// replay.
        Github = "github",
        /// `X-Webhook-Signature`: HMAC-SHA256 over `timestamp.payload`, in hex.
        Timestamped = "timestamped",
    }
}

/// The parts of an attempt that its headers show, or that are signed.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The event's id, which is the same over all attempts.
    pub event_id: &'a str,
    /// The delivery's id, which is the same over all attempts too.
    pub delivery_id: &'a str,
    /// When the attempt is made, in seconds since 1970.
    pub timestamp: i64,
    /// The request's body, byte for byte.
    pub payload: &'a [u8],
}

/// Headers that a scheme sets, in lower case: none of them may be chosen as a custom header.
pub const SIGNATURE_HEADERS: [&str; 6] = [
    "x-hub-signature-256",
    "x-hub-signature-256-previous",
    "x-webhook-signature",
    "x-webhook-signature-previous",
    "x-webhook-timestamp",
    "x-webhook-delivery-id",
];

impl SignatureScheme {
    /// The kind of secret that the scheme signs with.
    #[must_use]
    pub fn secret_kind(self) -> SecretKind {
        match self {
            Self::Standard | Self::Github | Self::Timestamped => SecretKind::Hmac,
            Self::StandardV1a => SecretKind::Ed25519,
        }
    }

    /// Checks that the secret is of the kind that this scheme signs with.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(self, secret: &SigningSecret) -> Result<(), String> {
        match (self.secret_kind(), secret.kind()) {
            (SecretKind::Hmac, SecretKind::Ed25519) => Err(format!("must begin with `whsec_` for the scheme `{self}`")),
            (SecretKind::Ed25519, SecretKind::Hmac) => Err(format!("must begin with `whsk_` for the scheme `{self}`")),
            (SecretKind::Hmac, SecretKind::Hmac) | (SecretKind::Ed25519, SecretKind::Ed25519) => Ok(()),
        }
    }

    /// Parses a secret of the kind that this scheme signs with.
    ///
    /// # Errors
    /// What is wrong, without showing it.
    pub fn parse_secret(self, text: &str) -> Result<SigningSecret, String> {
        let secret = SigningSecret::parse(text)?;
        self.check(&secret).map(|()| secret)
    }

    /// Whether a subscription's own secret may open its ingest. It may not where deliveries are signed in the way that
    /// its ingest accepts, because whoever sees a delivery could post it there.
    #[must_use]
    pub fn opens_own_ingest(self) -> bool {
        match self {
            Self::Standard | Self::Timestamped => true,
            Self::StandardV1a | Self::Github => false,
        }
    }

    /// The headers that prove where a message comes from, signed with every secret that is valid at `now`. Standard
    /// Webhooks allows several signatures in one header. Where receivers compare the whole value, the current secret's
    /// signature stands alone, and those of earlier secrets are in another header.
    #[must_use]
    pub fn headers(
        self,
        secrets: &SigningSecrets,
        now: DateTime<Utc>,
        message: Message<'_>,
    ) -> Vec<(&'static str, String)> {
        let timestamp = message.timestamp.to_string();
        match self {
            Self::Standard | Self::StandardV1a => {
                let parts: [&[u8]; 5] =
                    [message.event_id.as_bytes(), b".", timestamp.as_bytes(), b".", message.payload];
                let signatures: Vec<_> = secrets.active(now).map(|secret| secret.sign_standard(&parts)).collect();
                vec![("webhook-signature", signatures.join(" "))]
            }
            Self::Github => {
                let macs = by_text(secrets, now, &[message.payload]);
                let macs = macs.into_iter().map(|mac| format!("sha256={mac}"));
                one_and_earlier(["x-hub-signature-256", "x-hub-signature-256-previous"], macs)
            }
            Self::Timestamped => {
                let macs = by_text(secrets, now, &[timestamp.as_bytes(), b".", message.payload]);
                let mut headers =
                    one_and_earlier(["x-webhook-signature", "x-webhook-signature-previous"], macs.into_iter());
                headers.push(("x-webhook-timestamp", timestamp));
                headers.push(("x-webhook-delivery-id", message.delivery_id.to_owned()));
                headers
            }
        }
    }
}

/// The MACs of these parts in hex, one for each valid secret, keyed with the secret's text.
fn by_text(secrets: &SigningSecrets, now: DateTime<Utc>, parts: &[&[u8]]) -> Vec<String> {
    secrets.active(now).filter_map(|secret| secret.mac_by_text(parts)).map(hex::encode).collect()
}

/// Puts the first value under the first name, and the others, if any, as a list under the second name.
fn one_and_earlier(
    [first, second]: [&'static str; 2],
    mut values: impl Iterator<Item = String>,
) -> Vec<(&'static str, String)> {
    let mut headers: Vec<_> = values.next().map(|value| (first, value)).into_iter().collect();
    let earlier: Vec<_> = values.collect();
    if !earlier.is_empty() {
        headers.push((second, earlier.join(", ")));
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::signing_secret::PreviousSecret;

    const A: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const B: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    const ED25519: &str =
        "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const AT: i64 = 1_614_265_330;

    fn secret(text: &str) -> SigningSecret {
        SigningSecret::parse(text).expect("valid")
    }

    fn signed(scheme: SignatureScheme, secrets: &SigningSecrets, id: &str, at: i64, payload: &str) -> Vec<String> {
        let now = DateTime::from_timestamp(at, 0).expect("in range");
        let message = Message { event_id: id, delivery_id: "dlv_1", timestamp: at, payload: payload.as_bytes() };
        let headers = scheme.headers(secrets, now, message);
        headers.into_iter().map(|(name, value)| format!("{name}: {value}")).collect()
    }

    /// Published vectors: the first is from the tests of the Standard Webhooks libraries (Go, Python, PHP, JavaScript),
    /// the second from its Rust library, the Ed25519 one and the large ones from the tests of a widely used sender.
    #[test]
    fn published_vectors() {
        use SignatureScheme::{Standard, StandardV1a};
        let short = r#"{"test": 2432232314}"#.to_owned();
        let user = r#"{"email":"test@example.com","username":"test_user"}"#.to_owned();
        let ed25519 = "hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==";
        let cases = [
            (Standard, A, ID, AT, &short, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
            (
                Standard,
                B,
                "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
                1_649_367_553,
                &user,
                "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
            ),
            (StandardV1a, ED25519, ID, AT, &short, &format!("v1a,{ed25519}")),
            (Standard, A, ID, AT, &"a".repeat(262_143), "v1,NTItnqyWMoFhk2Bbe5V/BMdcFRWgcSQaTgqLHX7FC7c="),
            (Standard, A, ID, AT, &"a".repeat(262_144), "v1,Mw4Pe2WgApuT7NSqnSq0PQPV9gbLdggCl9B865x5Xh0="),
            (Standard, A, ID, AT, &"a".repeat(1_048_576), "v1,txpEUxqWZJ5nteTnymUVa+7C4NHpBeXJ6CsBAW0c3/A="),
        ];
        for (scheme, text, id, at, payload, expected) in cases {
            let secrets = SigningSecrets::only(secret(text));
            assert_eq!(signed(scheme, &secrets, id, at, payload), [format!("webhook-signature: {expected}")]);
        }
        let public = secret(ED25519).public_key_text();
        assert_eq!(public.as_deref(), Some("whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="));
    }

    #[test]
    fn during_a_rotation_every_secret_signs() {
        let previous = |text, seconds| PreviousSecret {
            secret: secret(text),
            expires_at: DateTime::from_timestamp(AT + seconds, 0).expect("in range"),
        };
        let secrets = SigningSecrets {
            current: secret(B),
            previous: vec![previous(ED25519, 10), previous(A, 10), previous(A, -1)],
        };
        let alone = |scheme, text: &str| {
            let headers = signed(scheme, &SigningSecrets::only(secret(text)), ID, AT, "x");
            headers[0].split_once(": ").expect("a header").1.to_owned()
        };
        let standard = SignatureScheme::Standard;
        assert_eq!(
            signed(standard, &secrets, ID, AT, "x"),
            [[B, ED25519, A].map(|text| alone(standard, text)).join(" ")]
                .map(|all| format!("webhook-signature: {all}"))
        );
        // Only HMAC secrets can sign in the other schemes.
        for (scheme, names) in [
            (SignatureScheme::Github, ["x-hub-signature-256", "x-hub-signature-256-previous"]),
            (SignatureScheme::Timestamped, ["x-webhook-signature", "x-webhook-signature-previous"]),
        ] {
            let headers = signed(scheme, &secrets, ID, AT, "x");
            assert_eq!(headers[0], format!("{}: {}", names[0], alone(scheme, B)));
            assert_eq!(headers[1], format!("{}: {}", names[1], alone(scheme, A)));
        }
    }

    #[test]
    fn other_schemes() {
        let secrets = SigningSecrets::only(secret(A));
        // printf %s hello | openssl dgst -sha256 -hmac whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw
        let github = "c770c8b4e83a988d5236a41db64cb85cf40319a4d0c94a69aacc5703cf225ee4";
        assert_eq!(
            signed(SignatureScheme::Github, &secrets, ID, AT, "hello"),
            [format!("x-hub-signature-256: sha256={github}")]
        );
        // printf %s 1614265330.hello | openssl dgst -sha256 -hmac whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw
        let timestamped = "518fc75be806acee3af620a8407010f7ae6e27a70092043b1996e63f024abfd7";
        assert_eq!(
            signed(SignatureScheme::Timestamped, &secrets, ID, AT, "hello"),
            [
                format!("x-webhook-signature: {timestamped}"),
                format!("x-webhook-timestamp: {AT}"),
                "x-webhook-delivery-id: dlv_1".to_owned(),
            ]
        );
    }
}
