//! Verifying: test vectors of the providers, and malformed headers.

use super::*;

/// The URL that Trello's vector was registered with.
const CALLBACK_URL: &str = "https://example.com/webhooks/ingest/sub_1";

/// What was agreed upon, with these secrets.
fn agreed(secrets: &[String]) -> Agreed<'_> {
    Agreed { secrets, tolerance_seconds: 300, verify_token: None, callback_url: Some(CALLBACK_URL) }
}

type Headers = &'static [(&'static str, &'static str)];

fn verify(provider: Provider, secret: &str, headers: Headers, payload: &str, now: i64) -> Result<Verified, Refused> {
    let header =
        |name: &str| headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| *value);
    let secrets = ["another one, not base64".to_owned(), secret.to_owned()];
    provider.verify(agreed(&secrets), header, payload.as_bytes(), now)
}

/// Vectors from the providers' own documentation and libraries; where none is published, made with openssl.
const VECTORS: [(Provider, &str, Headers, &str, i64); 12] = [
    (
        // GitHub's documentation, "Validating webhook deliveries".
        Provider::Github,
        "It's a Secret to Everybody",
        &[("X-Hub-Signature-256", "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17")],
        "Hello, World!",
        0,
    ),
    (
        Provider::Standard,
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        &[
            ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
            ("webhook-timestamp", "1614265330"),
            (
                "webhook-signature",
                "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc= v2,x v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
            ),
        ],
        r#"{"test": 2432232314}"#,
        1_614_265_330,
    ),
    (
        Provider::Standard,
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        &[
            ("svix-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
            ("svix-timestamp", "1614265330"),
            ("svix-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
        ],
        r#"{"test": 2432232314}"#,
        1_614_265_330,
    ),
    (
        Provider::Standard,
        "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=",
        &[
            ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
            ("webhook-timestamp", "1614265330"),
            (
                "webhook-signature",
                "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==",
            ),
        ],
        r#"{"test": 2432232314}"#,
        1_614_265_330,
    ),
    (
        // printf %s '1492774577.{"id":"evt_1"}' | openssl dgst -sha256 -hmac whsec_test_secret
        Provider::Stripe,
        "whsec_test_secret",
        &[(
            "Stripe-Signature",
            "t=1492774577,v1=00ff,v1=799c4ba7bb339f3c8601adfd112f0e477c930a268be1243d341abb8286501c2f,v0=6ffb",
        )],
        r#"{"id":"evt_1"}"#,
        1_492_774_577,
    ),
    (
        // printf %s '{"id":1}' | openssl dgst -sha256 -hmac hush -binary | base64
        Provider::Shopify,
        "hush",
        &[("X-Shopify-Hmac-Sha256", "VnKUjZsLuN5iZWjn5EntcBVCF9kMN43LglzCE1/GSeY=")],
        r#"{"id":1}"#,
        0,
    ),
    (
        // Slack's documentation, "Verifying requests from Slack".
        Provider::Slack,
        "8f742231b10e8888abcd99yyyzzz85a5",
        &[
            ("X-Slack-Request-Timestamp", "1531420618"),
            ("X-Slack-Signature", "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"),
        ],
        "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V\
         &channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=\
         &response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN\
         &trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c",
        1_531_420_618,
    ),
    (
        // printf %s '{"object":"page"}' | openssl dgst -sha256 -hmac hush
        Provider::Meta,
        "hush",
        &[("X-Hub-Signature-256", "sha256=427baac56cf283c994891c5e27bb98d351da3d114a950d08b4e79b75a5c6d3bf")],
        r#"{"object":"page"}"#,
        0,
    ),
    (
        // printf %s '{"list_folder":{}}' | openssl dgst -sha256 -hmac hush
        Provider::Dropbox,
        "hush",
        &[("X-Dropbox-Signature", "cb89f63b56b02a95d776c5e68b4611f065dfeba904e845a23b57b39f98e7ed63")],
        r#"{"list_folder":{}}"#,
        0,
    ),
    (
        // printf %s '{"for_user_id":"1"}' | openssl dgst -sha256 -hmac hush -binary | base64
        Provider::X,
        "hush",
        &[("X-Twitter-Webhooks-Signature", "sha256=ijarnwykyrX12x07aLX0rJjFSyfEbHrWO8camMB1VdY=")],
        r#"{"for_user_id":"1"}"#,
        0,
    ),
    (
        // printf %s '{"action":{}}https://example.com/webhooks/ingest/sub_1' |
        // openssl dgst -sha1 -hmac hush -binary | base64
        Provider::Trello,
        "hush",
        &[("X-Trello-Webhook", "t69BYQhzHTzhZweFToawxFQ+kVE=")],
        r#"{"action":{}}"#,
        0,
    ),
    (Provider::Okta, "hush", &[("Authorization", "hush")], "", 0),
];

/// Whether the provider signs a timestamp, so that an old request can be told from a new one.
fn has_timestamp(provider: Provider) -> bool {
    match provider {
        Provider::Standard | Provider::Stripe | Provider::Slack => true,
        Provider::Github
        | Provider::Shopify
        | Provider::Meta
        | Provider::Dropbox
        | Provider::X
        | Provider::Trello
        | Provider::Okta => false,
    }
}

/// Whether the provider signs the body.
fn signs(provider: Provider) -> bool {
    provider != Provider::Okta
}

#[test]
fn vectors_of_the_providers() {
    for (provider, secret, headers, payload, now) in VECTORS {
        let verified = verify(provider, secret, headers, payload, now);
        assert_eq!(verified.as_ref().map(|one| one.once.is_some()), Ok(has_timestamp(provider)), "{provider}");
        assert_eq!(verify(provider, "YW5vdGhlciBzZWNyZXQ=", headers, payload, now), Err(Refused::Wrong), "{provider}");
        let other_body = verify(provider, secret, headers, &format!("{payload} "), now);
        assert_eq!(other_body == Err(Refused::Wrong), signs(provider), "{provider}");
        assert!(matches!(verify(provider, secret, &[], payload, now), Err(Refused::Unreadable(_))), "{provider}");
        for (shift, stale) in [(300, false), (-300, false), (301, true), (-301, true)] {
            let expected = stale && has_timestamp(provider);
            let got = verify(provider, secret, headers, payload, now + shift);
            assert_eq!(got == Err(Refused::Stale), expected, "{provider} {shift}");
        }
    }
}

#[test]
fn malformed_headers_are_refused() {
    let cases: [(Provider, Headers); 21] = [
        (Provider::Github, &[("X-Hub-Signature-256", "")]),
        (Provider::Github, &[("X-Hub-Signature-256", "sha1=00")]),
        (Provider::Github, &[("X-Hub-Signature-256", "SHA256=00")]),
        (Provider::Github, &[("X-Hub-Signature-256", "sha256=0")]),
        (Provider::Shopify, &[("X-Shopify-Hmac-Sha256", "%%%")]),
        (Provider::Slack, &[("X-Slack-Signature", "v0=00")]),
        (Provider::Slack, &[("X-Slack-Signature", "v1=00"), ("X-Slack-Request-Timestamp", "1")]),
        (Provider::Slack, &[("X-Slack-Signature", "v0=00"), ("X-Slack-Request-Timestamp", "-1")]),
        (Provider::Stripe, &[("Stripe-Signature", "t=1")]),
        (Provider::Stripe, &[("Stripe-Signature", "v1=00")]),
        (Provider::Stripe, &[("Stripe-Signature", "t=1,t=1,v1=00")]),
        (Provider::Stripe, &[("Stripe-Signature", "t=1.5,v1=00")]),
        (Provider::Stripe, &[("Stripe-Signature", "t=99999999999999,v1=00")]),
        (Provider::Standard, &[("webhook-id", "m"), ("webhook-timestamp", "1e9"), ("webhook-signature", "v1,AA==")]),
        (Provider::Standard, &[("webhook-timestamp", "1"), ("webhook-signature", "v1,AA==")]),
        (Provider::Standard, &[("webhook-id", ""), ("webhook-timestamp", "1"), ("webhook-signature", "v1,AA==")]),
        (Provider::Dropbox, &[("X-Dropbox-Signature", "sha256=00")]),
        (Provider::X, &[("X-Twitter-Webhooks-Signature", "AA==")]),
        (Provider::X, &[("X-Twitter-Webhooks-Signature", "sha256=%")]),
        (Provider::Trello, &[("X-Trello-Webhook", "%")]),
        (Provider::Okta, &[("X-Authorization", "hush")]),
    ];
    for (provider, headers) in cases {
        let refused = verify(provider, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", headers, "x", 1);
        assert!(matches!(refused, Err(Refused::Unreadable(_))), "{provider} {headers:?}: {refused:?}");
    }
    for signature in ["v1,", "v1", "v2,g0hM9SsE", "v1a,AA==", ",", " "] {
        let headers = [("webhook-id", "m"), ("webhook-timestamp", "1"), ("webhook-signature", signature)];
        let header = |name: &str| headers.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        let secrets = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="];
        let refused = Provider::Standard.verify(agreed(&secrets.map(str::to_owned)), header, b"x", 1);
        assert_eq!(refused, Err(Refused::Wrong), "{signature:?}");
    }
}

#[test]
fn a_signature_fits_one_algorithm_and_one_url() {
    const META: Headers =
        &[("X-Hub-Signature-256", "sha256=427baac56cf283c994891c5e27bb98d351da3d114a950d08b4e79b75a5c6d3bf")];
    let payload = r#"{"object":"page"}"#;
    assert!(verify(Provider::Github, "hush", META, payload, 0).is_ok());
    // HMAC-SHA256 is no HMAC-SHA1, and Trello signs the URL, too.
    // printf %s '{"action":{}}' | openssl dgst -sha1 -hmac hush -binary | base64
    for signature in ["i+Da2bwp2i6hJnWvlj6OzqggUwcTUlpz4tAW5zsQ9N0=", "CkRU+YQ5Cq+DIWr7Q0QjfF4tOPU="] {
        let headers: &[_] = &[("X-Trello-Webhook", signature)];
        let header = |name: &str| headers.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        let secrets = ["hush".to_owned()];
        let refused = Provider::Trello.verify(agreed(&secrets), header, br#"{"action":{}}"#, 0);
        assert_eq!(refused, Err(Refused::Wrong), "{signature}");
    }
}

#[test]
fn the_answer_to_x_s_question_is_no_signature() {
    use crate::trust::inbound_challenge::{Answer, Question};
    let secrets = ["hush".to_owned()];
    let question = Question { crc_token: Some("true"), ..Question::default() };
    let Some(Answer::ResponseToken(signature)) = Provider::X.answer(agreed(&secrets), question) else {
        panic!("it is answered");
    };
    let header = |name: &str| (name == Provider::X.header()).then_some(signature.as_str());
    assert_eq!(Provider::X.verify(agreed(&secrets), header, b"true", 0), Err(Refused::Wrong));
}

#[test]
fn secrets_are_read_as_the_providers_show_them() {
    let [_, (_, _, headers, payload, now), ..] = VECTORS;
    let public = VECTORS[3];
    for text in [
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "v1,whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        " whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n",
        "\tMfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\r\n",
    ] {
        let read = Provider::Standard.read_secret(text).expect(text);
        assert!(verify(Provider::Standard, &read, headers, payload, now).is_ok(), "{text:?}");
    }
    for text in
        ["v1a,whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4", "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4= "]
    {
        let read = Provider::Standard.read_secret(text).expect(text);
        assert!(verify(Provider::Standard, &read, public.2, public.3, public.4).is_ok(), "{text:?}");
    }
    // Elsewhere the secret is the text itself, without the spaces around it.
    assert_eq!(Provider::Stripe.read_secret("whsec_anything\n").as_deref(), Ok("whsec_anything"));
    assert_eq!(
        Provider::Github.read_secret(" It's a Secret to Everybody").as_deref(),
        Ok("It's a Secret to Everybody")
    );
}

#[test]
fn secrets_that_cannot_be_read_are_refused_unshown() {
    let long = "x".repeat(SECRET_CHARACTERS_MAX + 1);
    for (provider, text) in [
        (Provider::Github, ""),
        (Provider::Github, " \n"),
        (Provider::Github, "hunter\n2"),
        (Provider::Github, &long),
        (Provider::Standard, "hunter2%%"),
        (Provider::Standard, "whsec_AAAA"),
        (Provider::Standard, "whpk_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        // Each would be a bare secret in the URL-safe alphabet.
        (Provider::Standard, "whsk_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        (Provider::Standard, "WHSEC_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        (Provider::Standard, "whse_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        (Provider::Standard, "v2,whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        (Provider::Standard, "whsec_MfKQ9r8GKYqr TwjUPD8ILPZIo2LaLaSw"),
    ] {
        let why = provider.read_secret(text).expect_err(text);
        assert!(text.trim().is_empty() || !why.contains(text), "{why}");
    }
}
