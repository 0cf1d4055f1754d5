//! How a receiver verifies the deliveries of a subscription: a function in six languages, for the scheme by which this
//! subscription signs. Each text marks its lines with the schemes that need them. A test runs them.

use maud::{Markup, html};
use postrider_core::{subscription::Subscription, trust::signature::SignatureScheme};

use crate::ui::{
    page::Visit,
    parts::{self, nothing, panel},
};

/// The languages, each with its text.
const LANGUAGES: [(&str, &str); 6] = [
    ("Shell", include_str!("verification/shell.txt")),
    ("JavaScript (Node)", include_str!("verification/node.txt")),
    ("Python", include_str!("verification/python.txt")),
    ("Go", include_str!("verification/go.txt")),
    ("Ruby", include_str!("verification/ruby.txt")),
    ("PHP", include_str!("verification/php.txt")),
];
/// The mark of a line that every scheme needs.
const ALL: char = '*';

/// The panel.
pub(super) fn show(visit: &Visit, subscription: &Subscription) -> Markup {
    let scheme = subscription.settings.signature_scheme;
    let holds = match scheme {
        SignatureScheme::StandardV1a => html! {
            "Put the public key into " code { "WEBHOOK_PUBLIC_KEY" } "; who has it can verify, and cannot sign. "
        },
        SignatureScheme::Standard | SignatureScheme::Github | SignatureScheme::Timestamped => html! {
            "Put the secret into " code { "WEBHOOK_SECRET" } ", where nobody else can read it. "
        },
    };
    let body = html! {
        p {
            (holds) "Give the function the body as it arrived, byte for byte: one that was parsed and written again "
            "has another signature. "
            @if scheme == SignatureScheme::Github {
                "This scheme signs no time, so keep every " code { "webhook-id" } " that was handled, and refuse it "
                "the second time."
            } @else { "Deliveries come at least once, so remember each " code { "webhook-id" } " that was handled." }
        }
        div.languages {
            @for (place, (language, text)) in LANGUAGES.iter().enumerate() {
                details name="language" open[place == 0] {
                    summary { (language) }
                    (parts::code_box(visit, &format!("Verify in {language}"), &of_scheme(text, scheme)))
                }
            }
        }
    };
    panel("Verify it in the receiver", &nothing(), &body)
}

/// The lines of a text that a scheme needs.
fn of_scheme(text: &str, scheme: SignatureScheme) -> String {
    let mark = match scheme {
        SignatureScheme::Standard => 's',
        SignatureScheme::StandardV1a => 'a',
        SignatureScheme::Github => 'g',
        SignatureScheme::Timestamped => 't',
    };
    let lines = text.lines().filter_map(|line| line.split_once('|'));
    let lines = lines.filter(|(marks, _)| marks.contains([mark, ALL])).map(|(_, line)| line);
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_says_for_which_schemes_it_is() {
        for (language, text) in LANGUAGES {
            for line in text.lines() {
                let marks = line.split_once('|').map(|(marks, _)| marks.trim_end()).unwrap_or_default();
                let is_sound = marks == "*" || (!marks.is_empty() && marks.chars().all(|mark| "sagt".contains(mark)));
                assert!(is_sound, "{language}: {line}");
            }
            for scheme in SignatureScheme::ALL {
                assert!(of_scheme(text, scheme).lines().count() > 5, "{language}: {scheme}");
            }
        }
        assert_eq!(of_scheme("*    |a\nst   |b|c\ng    |d", SignatureScheme::Timestamped), "a\nb|c");
    }
}
