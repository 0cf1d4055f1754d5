//! The controls of the form. Each has its label, a hint, and the mistakes that were made in it.

use maud::{Markup, html};

use crate::ui::{
    fields::Fields,
    page::Visit,
    subscription::settings::{Mistakes, input::CIRCUIT},
};

/// What the form is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For {
    /// A new subscription, whose tenant can be named by a key that reaches every tenant.
    Creation { any_tenant: bool },
    /// A subscription that exists.
    Change,
}

/// What was entered into a form.
#[derive(Clone)]
pub(super) struct Entered<'a> {
    pub(super) fields: &'a Fields,
    pub(super) mistakes: &'a Mistakes,
    /// Where scripts ask whether a field is right.
    pub(super) check: String,
}

/// All mistakes together, each with a link to its field.
pub(super) fn mistakes(visit: &Visit, mistakes: &Mistakes) -> Markup {
    html! {
        @if !mistakes.is_empty() {
            div.note.bad role="alert" tabindex="-1" {
                (visit.icon("circle-alert"))
                div {
                    p { strong { "Nothing was saved. " } "Please look at these fields:" }
                    ul { @for (field, message) in mistakes {
                        li { a href=(format!("#{}", control_of(field))) { (field) } " " (message) }
                    } }
                }
            }
        }
    }
}

/// The control in which a mistake was made: the name of the field without the place within it.
fn control_of(field: &str) -> &str {
    let field = field.split('[').next().unwrap_or(field);
    for whole in ["retry_policy.decisions", "filters.payload", "filters.metadata", "headers", "metadata"] {
        if field.starts_with(whole) {
            return whole;
        }
    }
    field
}

/// A control with all that belongs to it.
struct Control<'a> {
    entered: &'a Entered<'a>,
    name: &'a str,
    label: &'a str,
    hint: &'a str,
}

impl Control<'_> {
    fn with(&self, control: impl FnOnce(Option<&str>, Option<String>) -> Markup) -> Markup {
        let wrong: Vec<_> = self.entered.mistakes.iter().filter(|(field, _)| control_of(field) == self.name).collect();
        let (hint, error) = (format!("{}-hint", self.name), format!("{}-error", self.name));
        let described = if self.hint.is_empty() { error.clone() } else { format!("{hint} {error}") };
        // Names have points in them, which would begin a class in a selector of ids.
        let said = format!("[id='{error}']");
        html! {
            div.field data-wrong=[(!wrong.is_empty()).then_some("")] hx-post=(self.entered.check) hx-trigger="change"
                hx-target=(said) hx-select=(said) hx-swap="outerMorph" {
                label for=(self.name) { (self.label) }
                (control((!wrong.is_empty()).then_some("true"), Some(described)))
                @if !self.hint.is_empty() { p.hint id=(hint) { (self.hint) } }
                p.wrong id=(error) role="status" { @for (_, message) in wrong { (message) ". " } }
            }
        }
    }

    fn input(&self, kind: &str, hint: &str) -> Markup {
        let value = self.entered.fields.text(self.name);
        self.with(|invalid, described| {
            html! {
                input id=(self.name) name=(self.name) type=(kind) value=(value) placeholder=(hint) autocomplete="off"
                    spellcheck="false" aria-invalid=[invalid] aria-describedby=[described];
            }
        })
    }

    fn number(&self, hint: &str) -> Markup {
        let value = self.entered.fields.text(self.name);
        self.with(|invalid, described| {
            html! {
                input id=(self.name) name=(self.name) type="text" inputmode="decimal" value=(value) placeholder=(hint)
                    autocomplete="off" aria-invalid=[invalid] aria-describedby=[described];
            }
        })
    }

    fn lines(&self, rows: u32, hint: &str) -> Markup {
        self.with(|invalid, described| {
            html! {
                textarea.mono id=(self.name) name=(self.name) rows=(rows) placeholder=(hint) spellcheck="false"
                    aria-invalid=[invalid] aria-describedby=[described] { (self.entered.fields.text(self.name)) }
            }
        })
    }

    fn choice(&self, choices: &[(&str, &str)]) -> Markup {
        let chosen = self.entered.fields.text(self.name);
        self.with(|invalid, described| {
            html! {
                select id=(self.name) name=(self.name) aria-invalid=[invalid] aria-describedby=[described] {
                    @for (value, word) in choices {
                        option value=(value) selected[*value == chosen] { (word) }
                    }
                }
            }
        })
    }

    fn tick(&self) -> Markup {
        html! {
            label.tick {
                input type="checkbox" id=(self.name) name=(self.name) checked[self.entered.fields.has(self.name)];
                span { (self.label) @if !self.hint.is_empty() { span.hint { (self.hint) } } }
            }
        }
    }
}

/// Where deliveries go, and which.
pub(super) fn basics(entered: &Entered<'_>, purpose: For) -> Markup {
    let control = |name, label, hint| Control { entered, name, label, hint };
    html! {
        fieldset.panel {
            legend { "Where, and what" }
            (control("target_url", "Target URL", "An absolute http or https URL.")
                .input("text", "https://example.com/webhooks"))
            div.two {
                (control("name", "Name", "What people call it.").input("text", "Order service"))
                @if purpose == (For::Creation { any_tenant: true }) {
                    (control("tenant_id", "Tenant", "It cannot be changed later.").input("text", "default"))
                }
            }
            (control("event_types", "Event types",
                "A pattern in each line, such as order.* for everything below order. None means every type.")
                .lines(3, "order.*"))
            (control("filters.payload", "Condition on the payload",
                "JSON, such as {\"order.total\": {\"$gte\": 100}}. None means every payload.").lines(3, ""))
            div.two {
                (control("filters.metadata", "Condition on metadata", "Entries that events must have, a line each.")
                    .lines(2, "region: eu"))
                (control("headers", "Headers", "Sent with each attempt, a line each. [redacted] stays as it is.")
                    .lines(2, "x-team: blue"))
            }
        }
    }
}

/// How deliveries are made, retried, held back and signed.
pub(super) fn details(entered: &Entered<'_>) -> Markup {
    let control = |name, label, hint| Control { entered, name, label, hint };
    html! {
        fieldset.panel {
            legend { "Retries" }
            div.two {
                (control("timeout_ms", "Timeout of an attempt", "Milliseconds, 1000 to 60000.").number("15000"))
                (control("retry_policy.schedule", "Waits between attempts", "").choice(&[
                    ("growing", "Growing from a first one"), ("listed", "As listed"),
                ]))
            }
            div.four {
                (control("retry_policy.max_attempts", "Attempts", "").number("10"))
                (control("retry_policy.initial_seconds", "First wait (s)", "").number("5"))
                (control("retry_policy.factor", "Factor", "").number("4"))
                (control("retry_policy.max_seconds", "Longest wait (s)", "").number("86400"))
            }
            (control("retry_policy.delays_seconds", "Listed waits (s)", "Only where they are as listed: 5, 60, 600.")
                .input("text", ""))
            (control("retry_policy.retry_client_errors", "An answer 4xx is worth another attempt", "").tick())
            (control("retry_policy.decisions", "Exceptions", "A line each, such as 404: give_up or tls: give_up.")
                .lines(2, ""))
        }
        fieldset.panel {
            legend { "Flow" }
            div.four {
                (control("rate_limit_per_second", "Attempts a second", "None means no limit.").number(""))
                (control("rate_limit_burst", "Burst", "Needs a rate.").number(""))
                (control("max_in_flight", "Max in flight", "None means no limit.").number(""))
                (control("disable_after_days", "Disable after days", "Of failures only; none means never.").number(""))
            }
            (control("ordering", "Order", "").choice(&[
                ("none", "None: deliveries do not wait for each other"),
                ("fifo", "First in, first out, for each ordering key"),
            ]))
            (control("circuit", "Hold deliveries back while the receiver keeps failing (circuit)", "").tick())
            details {
                summary { "The circuit's numbers" }
                div.four {
                    @for name in CIRCUIT {
                        (Control { entered, name: &format!("circuit.{name}"), label: &spoken(name), hint: "" }
                            .number(""))
                    }
                }
            }
        }
        fieldset.panel {
            legend { "Signing and ingest" }
            div.two {
                (control("signature_scheme", "Signed as", "").choice(&[
                    ("standard", "Standard Webhooks, shared secret (v1)"),
                    ("standard_v1a", "Standard Webhooks, public key (v1a)"),
                    ("github", "X-Hub-Signature-256, as GitHub"),
                    ("timestamped", "X-Webhook-Signature with a timestamp"),
                ]))
                (control("ingest_auth", "What opens its ingest", "").choice(&[
                    ("key_or_signature", "An API key or a signature"), ("key", "An API key"),
                    ("signature", "A signature"), ("none", "Nothing: whoever knows the URL"),
                ]))
                (control("ingest_event_type_header", "Header with the event type", "").input("text", "X-GitHub-Event"))
                (control("ingest_rate_limit_per_second", "Requests a second to its ingest", "None means no limit.")
                    .number(""))
            }
            (control("metadata", "Your notes", "Entries such as region: eu, a line each.").lines(2, ""))
        }
    }
}

/// The name of a field in words.
fn spoken(name: &str) -> String {
    let mut words = name.replace('_', " ");
    if let Some(first) = words.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    words
}
