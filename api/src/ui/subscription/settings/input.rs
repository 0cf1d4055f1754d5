//! Between the fields of the form and the subscription as the API reads it. Fields are named by the paths that the API
//! uses in its problems, so a mistake finds its field.

use std::{collections::BTreeMap, str::FromStr};

use poem_openapi::types::{MaybeUndefined, ParseFromParameter, ToJSON};
use postrider_core::{
    queue::retry_policy::RetryPolicy,
    subscription::{circuit::CircuitSettings, settings::TIMEOUT_MS_DEFAULT},
    validation::Problems,
};
use serde_json::Value;

use crate::{
    subscriptions::{
        body::SubscriptionInput,
        flow_body::CircuitBody,
        retry_policy_body::{DecisionName, RetryPolicyBody},
    },
    ui::fields::Fields,
};

/// The numbers of a circuit, by their names in the API.
pub(super) const CIRCUIT: [&str; 8] = [
    "failures_in_a_row",
    "failure_percent",
    "samples_min",
    "window_seconds",
    "cooldown_seconds",
    "cooldown_max_seconds",
    "probes",
    "successes_to_close",
];

/// The fields of a subscription that does not exist yet: the defaults.
pub(super) fn fresh() -> Fields {
    fields(&SubscriptionInput {
        circuit: MaybeUndefined::Value(CircuitBody::of(&CircuitSettings::default())),
        retry_policy: Some(RetryPolicyBody::of(&RetryPolicy::default())),
        disable_after_days: MaybeUndefined::Value(5),
        timeout_ms: Some(TIMEOUT_MS_DEFAULT),
        ..SubscriptionInput::default()
    })
}

/// The fields that show a subscription.
pub(super) fn fields(input: &SubscriptionInput) -> Fields {
    let mut fields = Vec::new();
    let mut put = |name: &str, value: String| fields.push((name.to_owned(), value));
    let number = |number: Option<u32>| number.map(|number| number.to_string()).unwrap_or_default();
    put("name", input.name.clone().unwrap_or_default());
    put("target_url", input.target_url.clone());
    put("event_types", input.event_types.join("\n"));
    put("headers", lines(&input.headers));
    put("metadata", lines(&input.metadata));
    put("filters.metadata", lines(&input.filters.metadata));
    let payload = input.filters.payload.as_ref().and_then(|payload| serde_json::to_string_pretty(payload).ok());
    put("filters.payload", payload.unwrap_or_default());
    put("timeout_ms", number(input.timeout_ms));
    put("signature_scheme", word(input.signature_scheme));
    put("ingest_auth", word(input.ingest_auth));
    put("ingest_event_type_header", input.ingest_event_type_header.clone().unwrap_or_default());
    put("ingest_rate_limit_per_second", number(input.ingest_rate_limit_per_second));
    put("rate_limit_per_second", input.rate_limit_per_second.map(|rate| rate.to_string()).unwrap_or_default());
    put("rate_limit_burst", number(input.rate_limit_burst));
    put("max_in_flight", number(input.max_in_flight));
    put("ordering", word(input.ordering));
    put("disable_after_days", number(input.disable_after_days.value().copied()));
    if let Some(policy) = &input.retry_policy {
        let delays = policy.delays_seconds.iter().flatten().map(ToString::to_string).collect::<Vec<_>>();
        put("retry_policy.schedule", if delays.is_empty() { "growing" } else { "listed" }.to_owned());
        put("retry_policy.delays_seconds", delays.join(", "));
        put("retry_policy.max_attempts", number(policy.max_attempts.map(Into::into)));
        put("retry_policy.initial_seconds", number(policy.initial_seconds));
        put("retry_policy.factor", policy.factor.map(|factor| factor.to_string()).unwrap_or_default());
        put("retry_policy.max_seconds", number(policy.max_seconds));
        put(
            "retry_policy.retry_client_errors",
            if policy.retry_client_errors == Some(false) { "" } else { "on" }.into(),
        );
        let decisions = policy.decisions.iter().flatten();
        let decisions = decisions.map(|(key, decision)| (key.clone(), word(Some(*decision)))).collect();
        put("retry_policy.decisions", lines(&decisions));
    }
    if let Some(circuit) = input.circuit.value() {
        put("circuit", "on".to_owned());
        let numbers = serde_json::to_value(circuit).unwrap_or_default();
        for name in CIRCUIT {
            put(
                &format!("circuit.{name}"),
                numbers[name].as_u64().map(|number| number.to_string()).unwrap_or_default(),
            );
        }
    }
    Fields::of(fields)
}

/// What the form says, upon a subscription whose other settings stay. What cannot be read is added to the problems.
pub(super) fn read(form: &Fields, base: SubscriptionInput, problems: &mut Problems) -> SubscriptionInput {
    let payload = form.get("filters.payload").map(serde_json::from_str::<Value>);
    let payload = payload
        .and_then(|parsed| problems.take("filters.payload", parsed.map_err(|why| format!("is not JSON: {why}"))));
    let mut input = SubscriptionInput {
        target_url: form.get("target_url").unwrap_or_default().to_owned(),
        name: form.get("name").map(str::to_owned),
        event_types: form.text("event_types").split_whitespace().map(str::to_owned).collect(),
        headers: pairs(form, "headers", problems),
        metadata: pairs(form, "metadata", problems),
        timeout_ms: number(form, "timeout_ms", problems),
        secret: form.get("secret").map(str::to_owned),
        signature_scheme: chosen(form, "signature_scheme", problems),
        ingest_auth: chosen(form, "ingest_auth", problems),
        ingest_event_type_header: form.get("ingest_event_type_header").map(str::to_owned),
        ingest_rate_limit_per_second: number(form, "ingest_rate_limit_per_second", problems),
        rate_limit_per_second: number(form, "rate_limit_per_second", problems),
        rate_limit_burst: number(form, "rate_limit_burst", problems),
        max_in_flight: number(form, "max_in_flight", problems),
        ordering: chosen(form, "ordering", problems),
        disable_after_days: MaybeUndefined::from_opt_null(number(form, "disable_after_days", problems)),
        retry_policy: Some(policy(form, problems)),
        circuit: MaybeUndefined::from_opt_null(form.has("circuit").then(|| circuit(form, problems))),
        ..base
    };
    input.filters.metadata = pairs(form, "filters.metadata", problems);
    input.filters.payload = payload;
    input
}

fn policy(form: &Fields, problems: &mut Problems) -> RetryPolicyBody {
    let mut decisions = BTreeMap::new();
    for (key, text) in pairs(form, "retry_policy.decisions", problems) {
        let decision = DecisionName::parse_from_parameter(&text).map_err(|_| "must be `retry` or `give_up`".to_owned());
        decisions
            .extend(problems.take(&format!("retry_policy.decisions.{key}"), decision).map(|decision| (key, decision)));
    }
    let rules = RetryPolicyBody {
        retry_client_errors: Some(form.has("retry_policy.retry_client_errors")),
        decisions: (!decisions.is_empty()).then_some(decisions),
        ..RetryPolicyBody::default()
    };
    if form.get("retry_policy.schedule") == Some("listed") {
        let listed =
            form.text("retry_policy.delays_seconds").split([',', ' ', '\n']).filter(|text| !text.trim().is_empty());
        let delays =
            listed.map(|text| text.trim().parse().map_err(|_| format!("`{}` is no number of seconds", text.trim())));
        let delays = problems.take("retry_policy.delays_seconds", delays.collect::<Result<Vec<_>, _>>());
        return RetryPolicyBody { delays_seconds: Some(delays.unwrap_or_default()), ..rules };
    }
    RetryPolicyBody {
        max_attempts: number(form, "retry_policy.max_attempts", problems),
        initial_seconds: number(form, "retry_policy.initial_seconds", problems),
        factor: number(form, "retry_policy.factor", problems),
        max_seconds: number(form, "retry_policy.max_seconds", problems),
        ..rules
    }
}

fn circuit(form: &Fields, problems: &mut Problems) -> CircuitBody {
    let mut take = |name: &str| number(form, &format!("circuit.{name}"), problems);
    CircuitBody {
        failures_in_a_row: take("failures_in_a_row"),
        failure_percent: take("failure_percent"),
        samples_min: take("samples_min"),
        window_seconds: take("window_seconds"),
        cooldown_seconds: take("cooldown_seconds"),
        cooldown_max_seconds: take("cooldown_max_seconds"),
        probes: take("probes"),
        successes_to_close: take("successes_to_close"),
    }
}

/// A word of an enum of the API.
fn word<T: ToJSON>(value: Option<T>) -> String {
    value.and_then(|value| value.to_json()?.as_str().map(str::to_owned)).unwrap_or_default()
}

fn chosen<T: ParseFromParameter>(form: &Fields, name: &str, problems: &mut Problems) -> Option<T> {
    let parsed = T::parse_from_parameter(form.get(name)?).map_err(|_| "is not one of the choices".to_owned());
    problems.take(name, parsed)
}

fn number<T: FromStr>(form: &Fields, name: &str, problems: &mut Problems) -> Option<T> {
    let parsed = form.get(name)?.parse().map_err(|_| "must be a number".to_owned());
    problems.take(name, parsed)
}

/// Entries such as `x-team: blue`, a line each.
fn lines(entries: &BTreeMap<String, String>) -> String {
    entries.iter().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>().join("\n")
}

/// Reads entries such as `x-team: blue`, a line each.
pub(in crate::ui::subscription) fn pairs(
    form: &Fields,
    name: &str,
    problems: &mut Problems,
) -> BTreeMap<String, String> {
    let mut entries = BTreeMap::new();
    for line in form.text(name).lines().map(str::trim).filter(|line| !line.is_empty()) {
        match line.split_once(':') {
            Some((key, value)) => {
                let is_first = entries.insert(key.trim().to_owned(), value.trim().to_owned()).is_none();
                problems.require(is_first, name, format!("`{}` stands there twice", key.trim()));
            }
            None => problems.add(name, format!("`{line}` is not `name: value`")),
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_form_shows_is_read_back_as_it_was() {
        let mut problems = Problems::default();
        let shown = SubscriptionInput {
            target_url: "https://example.com/a".to_owned(),
            event_types: vec!["order.*".to_owned(), "user.created".to_owned()],
            headers: BTreeMap::from([("x-team".to_owned(), "blue: green".to_owned())]),
            rate_limit_per_second: Some(0.5),
            ..read(&fresh(), SubscriptionInput::default(), &mut problems)
        };
        let again = read(&fields(&shown), SubscriptionInput::default(), &mut problems);
        assert_eq!(problems, Problems::default());
        assert_eq!(serde_json::to_value(again).expect("JSON"), serde_json::to_value(shown).expect("JSON"));
    }

    #[test]
    fn what_cannot_be_read_is_told_with_its_field() {
        let form = Fields::parse(
            b"timeout_ms=x&headers=a%0Ab:c%0Ab:d&retry_policy.schedule=listed\
                                   &retry_policy.delays_seconds=5,x&filters.payload=%7B&ordering=lifo",
        );
        let mut problems = Problems::default();
        read(&form, SubscriptionInput::default(), &mut problems);
        let mut told: Vec<_> = problems.0.iter().map(|problem| problem.field.as_str()).collect();
        told.sort_unstable();
        let expected =
            ["filters.payload", "headers", "headers", "ordering", "retry_policy.delays_seconds", "timeout_ms"];
        assert_eq!(told, expected);
    }
}
