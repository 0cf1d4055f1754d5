//! The settings that control the flow of a subscription's deliveries: what may be chosen, and what a change does to the
//! lane. The health of deliveries and the lists that show which subscriptions are in trouble are in `health.rs`.

use reqwest::Method;
use serde_json::{Value, json};

use crate::world::{World, id, uuid, worker};

/// A time that does not come while a test runs.
const NEVER: &str = "2999-01-01T00:00:00+00:00";

/// The lane of a subscription as it is stored.
pub async fn lane(world: &World, subscription: &str) -> Value {
    let lane = sqlx::query_scalar("SELECT to_jsonb(l) FROM lanes l WHERE l.id = $1").bind(uuid(subscription));
    lane.fetch_one(&world.pool).await.unwrap()
}

/// Writes into the lane of a subscription what a hot statement would write.
pub async fn set(world: &World, subscription: &str, assignments: &str) {
    let update = format!("UPDATE lanes SET {assignments} WHERE id = '{}'", uuid(subscription));
    let updated = sqlx::query(sqlx::AssertSqlSafe(update)).execute(&world.pool).await.unwrap();
    assert_eq!(updated.rows_affected(), 1);
}

async fn is_due(world: &World, subscription: &str) -> bool {
    let due = sqlx::query_scalar("SELECT due_at <= clock_timestamp() FROM lanes WHERE id = $1");
    due.bind(uuid(subscription)).fetch_one(&world.pool).await.unwrap()
}

pub async fn patch(world: &World, subscription: &str, patch: Value) -> Value {
    world.call(Method::PATCH, &format!("/subscriptions/{subscription}"), Some(patch)).await.expect(200)
}

/// These fields of an object; null where it lacks one.
fn fields(object: &Value, names: &[&str]) -> Value {
    names.iter().map(|name| ((*name).to_owned(), object[*name].clone())).collect()
}

const COPIES: [&str; 4] = ["rate_interval_us", "rate_burst", "max_in_flight", "is_ordered"];

fn default_circuit() -> Value {
    json!({
        "failures_in_a_row": 10, "failure_percent": 80, "samples_min": 20, "window_seconds": 60,
        "cooldown_seconds": 30, "cooldown_max_seconds": 900, "probes": 1, "successes_to_close": 2,
    })
}

#[tokio::test]
async fn every_setting_of_the_flow_is_chosen_and_replaced() {
    let world = World::new().await;
    let bare = world.subscribe("/success", json!({})).await;
    assert_eq!(bare["circuit"], default_circuit());
    assert_eq!((&bare["ordering"], &bare["disable_after_days"]), (&json!("none"), &json!(5)));
    for absent in ["rate_limit_per_second", "rate_limit_burst", "max_in_flight"] {
        assert!(bare.get(absent).is_none(), "{absent}");
    }
    let unlimited = json!({"rate_interval_us": null, "rate_burst": null, "max_in_flight": null, "is_ordered": false});
    assert_eq!(fields(&lane(&world, &id(&bare)).await, &COPIES), unlimited);

    let all = json!({
        "circuit": {
            "failures_in_a_row": 3, "failure_percent": 50, "samples_min": 5, "window_seconds": 30,
            "cooldown_seconds": 7, "cooldown_max_seconds": 70, "probes": 4, "successes_to_close": 6,
        },
        "rate_limit_per_second": 0.5, "rate_limit_burst": 7, "max_in_flight": 3, "ordering": "fifo",
        "disable_after_days": 14,
    });
    let names: Vec<_> = all.as_object().unwrap().keys().map(String::as_str).collect();
    let created = world.subscribe("/success", all.clone()).await;
    let (subscription, path) = (id(&created), format!("/subscriptions/{}", id(&created)));
    let limited = json!({"rate_interval_us": 2_040_000, "rate_burst": 7, "max_in_flight": 3, "is_ordered": true});
    assert_eq!(fields(&created, &names), all);
    assert_eq!(fields(&world.get(&path).await, &names), all);
    assert_eq!(fields(&lane(&world, &subscription).await, &COPIES), limited);
    let log = world.get(&format!("/audit-log?target_id={subscription}")).await["data"][0].clone();
    assert_eq!(fields(&log["after"], &names), all);

    // What an answer shows can be sent back, also where something is switched off.
    for off in [json!({}), json!({"circuit": null, "disable_after_days": null})] {
        let shown = patch(&world, &subscription, off).await;
        let mut again = shown.clone();
        for field in ["id", "state", "created_at", "updated_at"] {
            again.as_object_mut().unwrap().remove(field);
        }
        let replaced = world.call(Method::PUT, &path, Some(again)).await.expect(200);
        assert_eq!(fields(&replaced, &names), fields(&shown, &names));
        assert_eq!(fields(&lane(&world, &subscription).await, &COPIES), limited);
    }
    let off = world.get(&path).await;
    assert!(off.get("circuit") == Some(&Value::Null) && off.get("disable_after_days") == Some(&Value::Null), "{off}");
    let replaced = world.call(Method::PUT, &path, Some(json!({"target_url": created["target_url"]}))).await.expect(200);
    assert_eq!(fields(&replaced, &names), fields(&bare, &names), "what is absent has its default again");
    assert_eq!(fields(&lane(&world, &subscription).await, &COPIES), unlimited);
    world.finish().await;
}

#[tokio::test]
async fn a_patch_merges_circuits_and_null_switches_off() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    let with = |field: &str, value: u32| {
        let mut circuit = default_circuit();
        circuit[field] = value.into();
        circuit
    };
    let mut long = with("cooldown_seconds", 1000);
    long["cooldown_max_seconds"] = 1000.into();
    for (body, field, expected) in [
        (json!({"circuit": {"probes": 9}}), "circuit", with("probes", 9)),
        (json!({"circuit": {"window_seconds": 5, "probes": null}}), "circuit", with("window_seconds", 5)),
        (json!({"circuit": null}), "circuit", Value::Null),
        (json!({"name": "as it was"}), "circuit", Value::Null),
        (json!({"circuit": {}}), "circuit", default_circuit()),
        (json!({"circuit": null}), "circuit", Value::Null),
        (json!({"circuit": {"cooldown_seconds": 1000}}), "circuit", long),
        (json!({"circuit": {"cooldown_seconds": null, "cooldown_max_seconds": null}}), "circuit", default_circuit()),
        (json!({"disable_after_days": 30}), "disable_after_days", json!(30)),
        (json!({"disable_after_days": null}), "disable_after_days", Value::Null),
        (json!({"name": null}), "disable_after_days", Value::Null),
        (json!({"rate_limit_per_second": 3}), "rate_limit_per_second", json!(3.0)),
        (json!({}), "rate_limit_burst", json!(3)),
        (json!({"rate_limit_per_second": 99.9}), "rate_limit_burst", json!(99)),
        (json!({"rate_limit_burst": 5}), "rate_limit_burst", json!(5)),
        (json!({"rate_limit_per_second": 8}), "rate_limit_burst", json!(5)),
        (json!({"rate_limit_burst": null}), "rate_limit_burst", json!(8)),
        (json!({"rate_limit_burst": 2}), "rate_limit_burst", json!(2)),
        (json!({"rate_limit_per_second": null}), "rate_limit_per_second", Value::Null),
        (json!({}), "rate_limit_burst", Value::Null),
        (json!({"max_in_flight": 2}), "max_in_flight", json!(2)),
        (json!({"max_in_flight": null}), "max_in_flight", Value::Null),
        (json!({"ordering": "fifo"}), "ordering", json!("fifo")),
        (json!({"ordering": null}), "ordering", json!("none")),
    ] {
        let told = body.to_string();
        let answer = patch(&world, &subscription, body).await;
        assert_eq!(answer[field], expected, "{told}");
        assert_eq!(world.get(&format!("/subscriptions/{subscription}")).await[field], expected, "{told}");
    }
    world.finish().await;
}

#[tokio::test]
async fn a_wrong_setting_is_named_wherever_it_is_sent() {
    let world = World::new().await;
    let created = world.subscribe("/success", json!({"circuit": {"probes": 2}, "ordering": "fifo"})).await;
    let path = format!("/subscriptions/{}", id(&created));
    let before = world.get(&path).await;
    for (settings, field) in [
        (json!({"circuit": 5}), "circuit"),
        (json!({"circuit": []}), "circuit"),
        (json!({"circuit": "off"}), "circuit"),
        (json!({"circuit": {"colour": 1}}), "circuit.colour"),
        (json!({"circuit": {"failures_in_a_row": 1001}}), "circuit.failures_in_a_row"),
        (json!({"circuit": {"failure_percent": 101}}), "circuit.failure_percent"),
        (json!({"circuit": {"samples_min": 10_001}}), "circuit.samples_min"),
        (json!({"circuit": {"window_seconds": 3601}}), "circuit.window_seconds"),
        (json!({"circuit": {"cooldown_seconds": 0}}), "circuit.cooldown_seconds"),
        (json!({"circuit": {"cooldown_seconds": "30"}}), "circuit.cooldown_seconds"),
        (json!({"circuit": {"cooldown_max_seconds": 86_401}}), "circuit.cooldown_max_seconds"),
        (json!({"circuit": {"cooldown_seconds": 61, "cooldown_max_seconds": 60}}), "circuit.cooldown_max_seconds"),
        (json!({"circuit": {"probes": -1}}), "circuit.probes"),
        (json!({"circuit": {"probes": 1.5}}), "circuit.probes"),
        (json!({"circuit": {"successes_to_close": 101}}), "circuit.successes_to_close"),
        (json!({"rate_limit_per_second": 0}), "rate_limit_per_second"),
        (json!({"rate_limit_per_second": 0.009}), "rate_limit_per_second"),
        (json!({"rate_limit_per_second": 10_000.5}), "rate_limit_per_second"),
        (json!({"rate_limit_per_second": "5"}), "rate_limit_per_second"),
        (json!({"rate_limit_burst": 5}), "rate_limit_burst"),
        (json!({"rate_limit_per_second": 1, "rate_limit_burst": 0}), "rate_limit_burst"),
        (json!({"rate_limit_per_second": 1, "rate_limit_burst": 100_001}), "rate_limit_burst"),
        (json!({"max_in_flight": 0}), "max_in_flight"),
        (json!({"max_in_flight": 10_001}), "max_in_flight"),
        (json!({"max_in_flight": 1.5}), "max_in_flight"),
        (json!({"ordering": "lifo"}), "ordering"),
        (json!({"ordering": true}), "ordering"),
        (json!({"ordering": 1}), "ordering"),
        (json!({"ordering": ["fifo"]}), "ordering"),
        (json!({"disable_after_days": 0}), "disable_after_days"),
        (json!({"disable_after_days": 366}), "disable_after_days"),
        (json!({"disable_after_days": "5"}), "disable_after_days"),
    ] {
        let mut whole = settings.clone();
        whole["target_url"] = created["target_url"].clone();
        let sent = [
            (Method::POST, "/subscriptions", whole.clone()),
            (Method::PUT, path.as_str(), whole),
            (Method::PATCH, path.as_str(), settings),
        ];
        for (method, to, body) in sent {
            let problem = world.call(method.clone(), to, Some(body.clone())).await.problem(422);
            let errors = problem["errors"].as_array().unwrap();
            assert_eq!((errors.len(), &errors[0]["field"]), (1, &json!(field)), "{method} {body}: {problem}");
        }
    }
    // All mistakes are told at once.
    let many = json!({"circuit": {"probes": 0, "samples_min": 0}, "max_in_flight": 0, "disable_after_days": 0});
    let problem = world.call(Method::PATCH, &path, Some(many)).await.problem(422);
    let told: Vec<_> = problem["errors"].as_array().unwrap().iter().map(|error| error["field"].clone()).collect();
    assert_eq!(told, ["circuit.samples_min", "circuit.probes", "max_in_flight", "disable_after_days"]);
    assert_eq!(world.get(&path).await, before, "nothing was changed");
    assert_eq!(world.get("/subscriptions").await["data"].as_array().unwrap().len(), 1, "nothing was created");
    world.finish().await;
}

#[tokio::test]
async fn a_lane_without_settings_of_its_own_has_the_defaults() {
    let world = World::new().await;
    world.subscription("/success").await;
    // The copies are rows in which nothing of the flow was said: the defaults of the table are those of the API.
    world.multiply(1).await;
    let settings =
        "SELECT count(DISTINCT (circuit, rate_limit_per_second, max_in_flight, ordering, disable_after_days))
                      FROM subscriptions";
    assert_eq!(sqlx::query_scalar::<_, i64>(settings).fetch_one(&world.pool).await.unwrap(), 1);
    world.finish().await;
}

#[tokio::test]
async fn a_changed_limit_takes_effect_at_once_and_no_other_change_ends_a_hold() {
    let world = World::new().await;
    let limits = json!({"rate_limit_per_second": 1, "max_in_flight": 1});
    let subscription = id(&world.subscribe("/success", limits).await);
    let out_of_tokens = format!("due_at = '{NEVER}', next_token_at = '{NEVER}', token_held_until = '{NEVER}'");
    set(&world, &subscription, &out_of_tokens).await;
    let delivery = world.ingest(&subscription, "x").await;
    assert_eq!(world.drain().await, 0, "the lane is held");
    for unrelated in [json!({"name": "x"}), json!({"rate_limit_per_second": 1}), json!({"max_in_flight": 2})] {
        patch(&world, &subscription, unrelated.clone()).await;
        let held = fields(&lane(&world, &subscription).await, &["due_at", "next_token_at", "token_held_until"]);
        assert_eq!(held, json!({"due_at": NEVER, "next_token_at": NEVER, "token_held_until": NEVER}), "{unrelated}");
    }
    patch(&world, &subscription, json!({"rate_limit_per_second": 2})).await;
    let lane_now = lane(&world, &subscription).await;
    assert_eq!((&lane_now["next_token_at"], &lane_now["token_held_until"]), (&Value::Null, &Value::Null));
    assert!(is_due(&world, &subscription).await);
    assert_eq!(world.drain().await, 1);
    assert_eq!(world.delivery(&delivery).await["status"], "succeeded");

    set(&world, &subscription, &format!("due_at = '{NEVER}', full_until = '{NEVER}'")).await;
    patch(&world, &subscription, json!({"rate_limit_per_second": 3})).await;
    assert_eq!(lane(&world, &subscription).await["due_at"], NEVER);
    patch(&world, &subscription, json!({"max_in_flight": null})).await;
    assert_eq!(lane(&world, &subscription).await["full_until"], Value::Null);
    assert!(is_due(&world, &subscription).await);

    for (change, effect) in [(json!({"ordering": "fifo"}), true), (json!({"ordering": "fifo"}), false)] {
        set(&world, &subscription, "due_at = 'infinity'").await;
        patch(&world, &subscription, change).await;
        assert_eq!(is_due(&world, &subscription).await, effect);
    }

    // A paused lane gets the new limit, and stays where it is until it is resumed.
    world.post(&format!("/subscriptions/{subscription}/pause")).await;
    set(&world, &subscription, &format!("next_token_at = '{NEVER}', token_held_until = '{NEVER}'")).await;
    patch(&world, &subscription, json!({"rate_limit_per_second": 4})).await;
    let paused = fields(&lane(&world, &subscription).await, &["due_at", "token_held_until", "rate_interval_us"]);
    assert_eq!(paused, json!({"due_at": "infinity", "token_held_until": null, "rate_interval_us": 255_000}));
    world.post(&format!("/subscriptions/{subscription}/resume")).await;
    assert!(is_due(&world, &subscription).await);
    world.finish().await;
}

/// What the lane of a receiver in trouble has noted.
const TROUBLE: [&str; 12] = [
    "circuit_state",
    "open_until",
    "opened_at",
    "cooldown_seconds",
    "failures_in_a_row",
    "window_from",
    "window_attempts",
    "window_failures",
    "probe_successes",
    "failing_since",
    "failing_attempts",
    "failing_warned",
];

/// Opens the circuit of a subscription, whose receiver has failed for some time.
pub async fn open_circuit(world: &World, subscription: &str) {
    let open = format!(
        "circuit_state = 'open', open_until = '{NEVER}', opened_at = now(), cooldown_seconds = 600,
         failures_in_a_row = 12, window_from = now(), window_attempts = 20, window_failures = 19, probe_successes = 1,
         failing_since = now() - interval '1 day', failing_attempts = 30, failing_warned = 50,
         due_at = CASE WHEN is_paused THEN 'infinity' ELSE '{NEVER}'::timestamptz END"
    );
    set(world, subscription, &open).await;
}

#[tokio::test]
async fn an_open_circuit_closes_with_another_target_and_what_else_says_that_the_receiver_is_well() {
    let mut world = World::new().await;
    let subscription = world.subscription("/success").await;
    let path = format!("/subscriptions/{subscription}");
    let well = fields(&lane(&world, &subscription).await, &TROUBLE);
    assert_eq!((&well["circuit_state"], &well["failing_since"]), (&Value::Null, &Value::Null));

    // These leave it open.
    open_circuit(&world, &subscription).await;
    let delivery = world.ingest(&subscription, "x").await;
    let open = fields(&lane(&world, &subscription).await, &TROUBLE);
    for other in [json!({"name": "x"}), json!({"max_in_flight": 5}), json!({"circuit": {"probes": 3}})] {
        patch(&world, &subscription, other.clone()).await;
        assert_eq!(fields(&lane(&world, &subscription).await, &TROUBLE), open, "{other}");
        assert_eq!(lane(&world, &subscription).await["due_at"], NEVER, "{other}");
    }
    patch(&world, &subscription, json!({"disable_after_days": 7})).await;
    assert_eq!(lane(&world, &subscription).await["failing_warned"], Value::Null, "the warnings count anew");
    world.post(&format!("{path}/pause")).await;
    world.post(&format!("{path}/resume")).await;
    let resumed = lane(&world, &subscription).await;
    assert_eq!(resumed["due_at"], NEVER, "the circuit stays open");
    assert_eq!(
        (&resumed["failing_since"], &resumed["failing_attempts"]),
        (&Value::Null, &Value::Null),
        "a pause is no failure"
    );
    assert_eq!(world.delivery(&delivery).await["next_attempt_at"], "2999-01-01T00:00:00+00:00");
    assert_eq!(world.drain().await, 0);

    // These close it.
    patch(&world, &subscription, json!({"target_url": world.receiver.url("/success/other")})).await;
    assert_eq!(fields(&lane(&world, &subscription).await, &TROUBLE), well);
    assert_eq!(world.drain().await, 1);
    open_circuit(&world, &subscription).await;
    patch(&world, &subscription, json!({"circuit": null})).await;
    let off = lane(&world, &subscription).await;
    assert_eq!((&off["circuit_state"], &off["failing_attempts"]), (&Value::Null, &json!(30)));
    assert!(is_due(&world, &subscription).await);
    patch(&world, &subscription, json!({"circuit": {}})).await;
    world.post(&format!("{path}/disable")).await;
    open_circuit(&world, &subscription).await;
    world.post(&format!("{path}/enable")).await;
    assert_eq!(fields(&lane(&world, &subscription).await, &TROUBLE), well);
    assert!(is_due(&world, &subscription).await);

    // What waits behind limits is canceled when the subscription is deleted.
    patch(&world, &subscription, json!({"rate_limit_per_second": 0.01, "max_in_flight": 1})).await;
    open_circuit(&world, &subscription).await;
    set(&world, &subscription, &format!("token_held_until = '{NEVER}', full_until = '{NEVER}'")).await;
    let waiting = world.ingest(&subscription, "x").await;
    world.call(Method::DELETE, &path, None).await.expect(204);
    assert!(is_due(&world, &subscription).await);
    world.worker = worker(&world.env); // one that has not read the subscription before
    while world.drain().await > 0 {}
    assert_eq!(world.delivery(&waiting).await["status"], "canceled");
    world.finish().await;
}
