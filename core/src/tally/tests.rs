//! What is counted, and for whom.

use super::*;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).expect("in range")
}

/// An id of that moment.
fn id_at(seconds: i64, salt: u128) -> Uuid {
    let millis = u128::try_from(at(seconds).timestamp_millis()).expect("after 1970");
    Uuid::from_u128(millis << 80 | salt)
}

fn attempt(class: Class, number: i32, started_at: DateTime<Utc>) -> ObservedAttempt {
    let status_code = (class == Class::Succeeded).then_some(200);
    let (duration_ms, deliver_at) = (Some(40), None);
    ObservedAttempt { class, number, started_at, duration_ms, status_code, deliver_at, payload_bytes: 7 }
}

#[test]
fn an_outcome_is_counted_for_its_subscription_its_tenant_and_all() {
    let (subscription, delivery_id) = (Uuid::from_u128(5), id_at(0, 1));
    let mut sums = Sums::default();
    let observed = |attempt, end| Observed {
        tenant_id: Some("acme"),
        subscription_id: Some(subscription),
        delivery_id,
        attempt: Some(attempt),
        end,
        now: at(0),
    };
    sums.add(&observed(attempt(Class::Timeout, 1, at(2)), None));
    sums.add(&observed(attempt(Class::Succeeded, 2, at(3)), None));
    sums.add(&observed(attempt(Class::Timeout, 3, at(61)), Some(Class::DeadLetter)));
    sums.add(&Observed {
        tenant_id: None,
        subscription_id: None,
        attempt: None,
        ..observed(attempt(Class::Dns, 1, at(1)), Some(Class::Canceled))
    });
    let [of_all, of_acme] = ["", "acme"].map(|tenant| &sums.outcomes[tenant]);
    let first = &of_acme[&(subscription, at(0))];
    assert_eq!(first.outcomes[Class::Timeout.place()], 1);
    assert_eq!(first.outcomes[Class::Succeeded.place()], 1);
    // The first attempt began after two seconds, the success ended after three and a bit.
    assert_eq!((first.waits[5], first.waits.iter().sum::<i32>()), (1, 1));
    assert_eq!((first.latencies[8], first.latencies.iter().sum::<i32>()), (1, 1));
    assert_eq!((first.durations[5], first.bytes), (2, 7));
    assert_eq!(of_acme[&(subscription, at(60))].outcomes[Class::DeadLetter.place()], 1);
    assert_eq!(of_acme[&(WHOLE_TENANT, at(0))], *first);
    let mut everything = first.clone();
    everything.outcomes[Class::Canceled.place()] += 1;
    assert_eq!(of_all[&(WHOLE_TENANT, at(0))], everything);
    let causes: Vec<_> = sums.causes.iter().collect();
    let [((tenant, of, moment, cause), found)] = causes.as_slice() else { panic!("{causes:?}") };
    assert_eq!((tenant.as_str(), *of, *moment, *cause), ("acme", subscription, at(0), "timeout"));
    assert_eq!((found.count, found.first_at, found.last_at, found.delivery_id), (2, at(2), at(61), delivery_id));
}

#[test]
fn times_are_counted_from_when_a_delivery_was_due_first() {
    let observed = |deliver_at| Observed {
        tenant_id: Some("acme"),
        subscription_id: None,
        delivery_id: id_at(0, 1),
        attempt: Some(ObservedAttempt { deliver_at, ..attempt(Class::Succeeded, 1, at(100)) }),
        end: None,
        now: at(0),
    };
    let times = |deliver_at| {
        let one = observed(deliver_at).addend();
        (one.wait, one.latency)
    };
    assert_eq!(times(None), (Some(100_000), Some(100_040)));
    assert_eq!(times(Some(at(99))), (Some(1_000), Some(1_040)));
    assert_eq!(times(Some(at(-9))), (Some(100_000), Some(100_040)), "it is due when it is made, not before");
    assert_eq!(times(Some(at(200))), (Some(0), Some(0)), "clocks may differ");
}

#[test]
fn types_beyond_the_bound_are_counted_together_until_old_ones_are_forgotten() {
    let mut sums = Sums::default();
    for number in 0..TYPES_PER_TENANT_MAX + 5 {
        sums.accept(id_at(0, 1), "acme", &format!("type{number}"), 3);
    }
    sums.accept(id_at(0, 1), "acme", "type0", 3);
    let of = |sums: &Sums, event_type: &str, seconds| {
        let key = ("acme".to_owned(), event_type.to_owned(), floor(at(seconds), TimeDelta::minutes(1)));
        sums.accepted.get(&key).map(|accepted| (accepted.events, accepted.bytes))
    };
    assert_eq!(of(&sums, "type0", 0), Some((2, 6)));
    assert_eq!(of(&sums, OTHER_TYPES, 0), Some((5, 15)));
    assert_eq!(of(&sums, ALL_TYPES, 0), Some((206, 618)));
    assert_eq!(sums.accepted.len(), 2 * (TYPES_PER_TENANT_MAX + 2), "of the tenant and of all");
    assert_eq!(sums.take().accepted.len(), 2 * (TYPES_PER_TENANT_MAX + 2));
    sums.accept(id_at(3_600, 1), "acme", "new", 1);
    assert_eq!(of(&sums, OTHER_TYPES, 3_600), Some((1, 1)), "what is known survives a flush");
    sums.accept(id_at(3_601, 1), "acme", "new", 1);
    assert_eq!(of(&sums, "new", 3_601), Some((1, 1)));
}

#[test]
fn sums_in_memory_are_bounded() {
    let mut sums = Sums::default();
    let count = SUMS_MAX + 10;
    for number in 0..count {
        sums.add(&Observed {
            tenant_id: Some("acme"),
            subscription_id: Some(Uuid::from_u128(number as u128 + 1)),
            delivery_id: id_at(0, 1),
            attempt: Some(attempt(Class::Succeeded, 1, at(0))),
            end: None,
            now: at(0),
        });
    }
    assert_eq!(sums.size, SUMS_MAX);
    let whole = &sums.outcomes["acme"][&(WHOLE_TENANT, at(0))];
    assert_eq!(usize::try_from(whole.outcomes[0]), Ok(count), "the tenant's sums go on");
    let mut again = Sums::default();
    again.merge(sums.take());
    assert_eq!((again.size, sums.size, sums.outcomes.len()), (SUMS_MAX, 0, 0));
}
