//! Bodies, paths and texts that nobody should send. Each is refused with a problem and leaves nothing behind, or is
//! legal and delivered as it is. Requests that break HTTP itself stand in [`crate::hostile_callers`].

use reqwest::{Method, header::HeaderValue};
use serde_json::json;

use crate::{
    raw::{all_is_well, ask, last_with_body, refused, request, rows},
    world::{Answer, World, answer, id},
};

/// The beginning of an event that is valid.
const EVENT: &str = r#""event_type":"a.b","payload":1,"#;
/// Values that are no valid text, separated by `|`. `LONG` stands for 200,000 characters.
const TEXT: &str = r#"1|true|[]|{}|""|"\u0000"|"a\u0000b"|"\ud800"|"LONG""#;
/// Values that are no valid list of event types.
const LIST: &str = r#"1|"x"|{}|[1]|[null]|[[]]|[{}]|[""]|["a\u0000b"]|["\ud800"]|["LONG"]"#;
/// Values that are neither valid metadata nor valid headers.
const MAP: &str = r#"1|"x"|[]|[["a","b"]]|{"a":1}|{"a":{}}|{"":"x"}|{"a\u0000b":"x"}|{"a":"x\u0000"}|{"a":"\ud800"}
                     |{"LONG":"x"}|{"a":"LONG"}"#;
/// Values that are no time, or no time that may be stored.
const TIME: &str = r#"1|true|[]|{}|""|"now"|"\u0000"|"2030-01-01"|"2030-01-01T00:00:00"|"2030-02-30T00:00:00Z"
                      |"2030-13-01T00:00:00Z"|"2030-01-01T24:00:00Z"|"2030-01-01T23:59:61Z"
                      |"2030-01-01T00:00:00+24:00"|"10000-01-01T00:00:00Z"|"+10000-01-01T00:00:00Z"
                      |"+262142-12-31T23:59:59Z"|"99999999-01-01T00:00:00Z"|"0000-01-01T00:00:00Z"
                      |"-5000-01-01T00:00:00Z"|"-262143-01-01T00:00:00Z""#;
/// Values that are no valid timeout in milliseconds.
const TIMEOUT: &str = r#""15000"|true|[]|{}|0|999|60001|-1|1.5|15000.0|1e4|4294967296|18446744073709551616|1e400|-1e400
                         |-9223372036854775809|DIGITS"#;
/// Values that are no valid retry policy.
const POLICY: &str = r#"1|"x"|[]|[[5],null,null,null,null,null]|{"x":1}|{"delays_seconds":1}|{"delays_seconds":[-1]}
    |{"delays_seconds":[1.5]}|{"delays_seconds":["1"]}|{"delays_seconds":[604801]}|{"delays_seconds":[4294967296]}
    |{"delays_seconds":[1e400]}|{"delays_seconds":[DIGITS]}|{"delays_seconds":[1],"factor":2}|{"max_attempts":3}
    |{"max_attempts":0,"initial_seconds":1,"factor":2,"max_seconds":60}
    |{"max_attempts":65536,"initial_seconds":1,"factor":2,"max_seconds":60}
    |{"max_attempts":3,"initial_seconds":0,"factor":2,"max_seconds":60}
    |{"max_attempts":3,"initial_seconds":1,"factor":0.99,"max_seconds":60}
    |{"max_attempts":3,"initial_seconds":1,"factor":1e308,"max_seconds":60}|{"max_attempts":9,"factor":1e400}
    |{"max_attempts":3,"initial_seconds":1,"factor":2,"max_seconds":604801}|{"decisions":1}|{"decisions":[]}
    |{"decisions":{"404":1}}|{"decisions":{"404":"x"}}|{"decisions":{"404":{}}}|{"decisions":{"200":"retry"}}
    |{"decisions":{"":"retry"}}|{"decisions":{"4\u0000":"retry"}}|{"decisions":{"LONG":"retry"}}"#;
/// Values that are no valid filters.
const FILTERS: &str = r#"1|"x"|true|[]|[{}]|[{"a":"b"},null]|{"x":1}|{"metadata":[]}|{"metadata":{"a":1}}|{"payload":1}
    |{"metadata":{"a\u0000b":"x"}}|{"metadata":{"a":"\u0000"}}|{"payload":[]}|{"payload":{}}
    |{"payload":{"a":1e9999999999999999999}}|{"payload":{"a":{"$gt":-1e-9999999999999999999}}}|{"payload":{"a":DIGITS}}
    |{"payload":{"a":{"$gt":{}}}}|{"payload":{"a":"\ud800"}}|{"payload":{"a":"LONG"}}"#;
/// Values that are no valid target URL.
const TARGET: &str = r#"" "|"http://"|"http:///"|"https://exa mple.com/"|"http://[::1"|"http://[::g]/"
    |"http://a\u0000b/"|"http://256.256.256.256/"|"http://127.0.0.1:99999/"|"http://127.0.0.1:-1/"|"http://127.0.0.1:x/"
    |"http://a%00b/"|"javascript:alert(1)"|"data:text/html,x"|"file:///etc/passwd"|"gopher://example.com/"
    |"ws://example.com/"|"http://user@example.com/"|"http://:x@example.com/"|"http://example.com/#x"
    |"//example.com/x"|"/x"|"a.b"|"127.0.0.1:80"|"http://10.0.0.1/"|"http://0x0a000001/"|"http://0/"
    |"http://[::ffff:10.0.0.1]/"|"http://[fe80::1]/"|"http://169.254.169.254/"|"http://127.0.0.1/LONG"|"http://LONG/"
    |"\u202ehttp://example.com/""#;

/// Sends a body with the admin key; `line` is a method and a path, such as `POST /events`.
async fn send(world: &World, line: &str, body: impl Into<Vec<u8>>) -> Answer {
    let body = body.into();
    if body.len() > 200_000 {
        // A large body may be refused before all of it was sent, and a client that goes on sending misses that answer.
        return ask(world, &last_with_body(line, &body)).await;
    }
    let (method, path) = line.split_once(' ').unwrap();
    answer(world.request(method.parse().unwrap(), path).body(body)).await
}

/// Every route that takes a JSON body, each as a method and a path.
fn routes(subscription: &str) -> Vec<String> {
    let plain = "POST /subscriptions|POST /events|POST /events/batch|POST /deliveries|POST /api-keys|POST /jobs\
                 |POST /portal-links|POST /dead-letters/retry|POST /dead-letters/purge|PUT IT|PATCH IT|POST IT/replay";
    plain.replace("IT", &format!("/subscriptions/{subscription}")).split('|').map(str::to_owned).collect()
}

/// Asserts that a field is refused with each of these values, while the rest of the body is valid.
async fn values_are_refused(world: &World, line: &str, fine: &str, field: &str, values: &str) {
    let values = values.replace("LONG", &"x".repeat(200_000)).replace("DIGITS", &"9".repeat(100_000));
    for value in values.split('|').map(str::trim) {
        let body = format!(r#"{{{fine}"{field}":{value}}}"#);
        let case = format!("{line} {}", body.chars().take(200).collect::<String>());
        refused(&case, send(world, line, body).await);
    }
}

#[tokio::test]
async fn what_is_no_json_object_is_refused() {
    let world = World::new().await;
    let routes = routes(&world.subscription("/success").await);
    let before = rows(&world).await;
    let texts = r#" |null|true|0|-|"text"|[]|[{}]|[[]]|{|}|{}}|{}x|{}{}|{} {}|{"a"}|{"a":1,}|{a:1}|{'a':1}|NaN|{"a":NaN}
        |{"a":01}|{"a":1e400}|{"a":"\x"}|{"a":"\u00"}|{"\ud800":1}|{"a":"\ud800"}|{} // x|a=b&c=d|<a/>|%7B%7D"#;
    let mut bodies: Vec<Vec<u8>> = texts.split('|').map(|text| text.as_bytes().to_vec()).collect();
    let bytes: [&[u8]; 6] =
        [b"\xef\xbb\xbf{}", b"\xff\xfe{\0}\0", b"\x1f\x8b\x08\0", b"{\"a\":\"\xff\"}", b"{\"\xc0\x80\":1}", b"\0"];
    bodies.extend(bytes.map(<[u8]>::to_vec));
    for depth in [200, 10_000, 100_000] {
        for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
            bodies.push(open.repeat(depth).into_bytes());
            bodies.push(format!("{}1{}", open.repeat(depth), close.repeat(depth)).into_bytes());
        }
    }
    for line in &routes {
        for body in &bodies {
            let case = format!("{line} {}", String::from_utf8_lossy(&body[..body.len().min(50)]));
            refused(&case, send(&world, line, body.as_slice()).await);
        }
        if !line.ends_with("/dead-letters/retry") {
            refused(line, send(&world, line, "").await);
        }
    }
    all_is_well(&world, before).await;
    world.finish().await;
}

#[tokio::test]
async fn every_field_of_a_subscription_has_its_type() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    let before = rows(&world).await;
    let path = format!("/subscriptions/{subscription}");
    let shown = world.get(&path).await;
    let fine = format!(r#""target_url":"{}","#, world.receiver.url("/success"));
    let (put, patch) = (format!("PUT {path}"), format!("PATCH {path}"));
    for (line, fine) in [("POST /subscriptions", fine.as_str()), (put.as_str(), fine.as_str()), (patch.as_str(), "")] {
        for (field, values) in [
            ("event_types", LIST),
            ("filters", FILTERS),
            ("secret", TEXT),
            ("secret", r#""whsec_"|"whsec_%%%"|"whsec_AAAA"|"whsk_AAAA"|"pr_dev_admin""#),
            ("name", TEXT),
            ("tenant_id", TEXT),
            ("headers", MAP),
            ("headers", r#"{"a b":"x"}|{"Host":"x"}|{"webhook-id":"x"}|{"x":"a\r\nY: b"}|{"x":" y"}|{"x":"é"}"#),
            ("metadata", MAP),
            ("retry_policy", POLICY),
            ("timeout_ms", TIMEOUT),
            ("signature_scheme", r#"1|true|[]|{}|""|"Standard"|"a\u0000b"|{"standard":1}"#),
            ("ingest_auth", r#"1|true|[]|{}|""|"everybody"|["none"]|{"none":1}"#),
            ("ingest_signature", r#"1|"github"|[]|{}|{"provider":1}|{"provider":"x"}|["github",["secret"],300]"#),
            ("ingest_rate_limit_per_second", r#"0|-1|1.5|100001|"1"|[]|{}|18446744073709551616|1e400|DIGITS"#),
        ] {
            values_are_refused(&world, line, fine, field, values).await;
        }
        for unknown in ["colour", "__proto__", "constructor", "", "id", "state"] {
            values_are_refused(&world, line, fine, unknown, r#"1|{}|"active""#).await;
        }
        for values in [TEXT, TARGET, "null"] {
            values_are_refused(&world, line, "", "target_url", values).await;
        }
    }
    let twice = format!("{{{fine}{}}}", fine.trim_end_matches(','));
    refused("twice", send(&world, "POST /subscriptions", twice).await);
    assert_eq!(world.get(&path).await, shown, "nothing about it has changed");
    all_is_well(&world, before).await;
    world.finish().await;
}

#[tokio::test]
async fn every_other_field_has_its_type() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    let before = rows(&world).await;
    let delivery: &str = &format!(r#""target_url":"{}","payload":1,"#, world.receiver.url("/success"));
    let batch = r#"1|{}|[]|[1]|[null]|[[]]|[{}]|[["a.b",1,null,{},null,null,null,null]]|[{"event_type":"a.b"}]
                   |[{"event_type":"a.b","payload":1},{"event_type":"","payload":1}]"#;
    let replay = format!("POST /subscriptions/{subscription}/replay");
    let (since, named) = (r#""since":"2026-01-01T00:00:00Z","#, r#""name":"x","scopes":["read"],"#);
    for (line, fine, field, values) in [
        ("POST /events", r#""payload":1,"#, "event_type", TEXT),
        ("POST /events", r#""event_type":"a.b","#, "payload", r#"NaN|01|.5|+1|'a'|"\x"|"a|{"a"}|[1,]|undefined|"#),
        ("POST /events", r#""event_type":"a.b","payload":2,"#, "payload", "1"),
        ("POST /events", EVENT, "tenant_id", TEXT),
        ("POST /events", EVENT, "metadata", MAP),
        ("POST /events", EVENT, "id", TEXT),
        ("POST /events", EVENT, "ordering_key", TEXT),
        ("POST /events", EVENT, "expires_at", TIME),
        (
            "POST /events",
            EVENT,
            "deliver_at",
            r#"1|""|"2030-01-01"|"+10000-01-01T00:00:00Z"|"+262142-01-01T00:00:00Z""#,
        ),
        ("POST /events", EVENT, "__proto__", "{}"),
        ("POST /events/batch", "", "events", batch),
        ("POST /deliveries", r#""payload":1,"#, "target_url", TARGET),
        ("POST /deliveries", r#""payload":1,"#, "target_url", TEXT),
        ("POST /deliveries", delivery, "event_type", TEXT),
        ("POST /deliveries", delivery, "tenant_id", TEXT),
        ("POST /deliveries", delivery, "secret", TEXT),
        ("POST /deliveries", delivery, "headers", MAP),
        ("POST /deliveries", delivery, "metadata", MAP),
        ("POST /deliveries", delivery, "retry_policy", POLICY),
        ("POST /deliveries", delivery, "timeout_ms", TIMEOUT),
        ("POST /deliveries", delivery, "expires_at", TIME),
        ("POST /api-keys", r#""scopes":["read"],"#, "name", TEXT),
        ("POST /api-keys", r#""name":"x","#, "scopes", LIST),
        ("POST /api-keys", r#""name":"x","#, "scopes", r#"[]|["root"]|["READ"]|["read","root"]"#),
        ("POST /api-keys", named, "tenant_id", TEXT),
        ("POST /api-keys", named, "expires_at", TIME),
        ("POST /dead-letters/retry", "", "tenant_id", TEXT),
        ("POST /dead-letters/retry", "", "subscription_id", TEXT),
        ("POST /dead-letters/retry", "", "since", TIME),
        ("POST /dead-letters/retry", "", "include_resolved", r#"0|"true"|[]"#),
        ("POST /dead-letters/purge", "", "until", TIME),
        (replay.as_str(), "", "since", TIME),
        (replay.as_str(), since, "event_types", LIST),
        (replay.as_str(), since, "statuses", LIST),
        (replay.as_str(), since, "rate_per_second", "0|1001|-1|1.5|18446744073709551616|1e400|DIGITS"),
    ] {
        values_are_refused(&world, line, fine, field, values).await;
    }
    all_is_well(&world, before).await;
    world.finish().await;
}

#[tokio::test]
async fn what_is_too_deep_or_too_long_is_refused_briefly() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    let before = rows(&world).await;
    let url = world.receiver.url("/success");
    let list = |item: &str, count: usize| format!("[{}]", vec![item; count].join(","));
    let map =
        |count: usize| format!("{{{}}}", (0..count).map(|n| format!(r#""x{n}":"""#)).collect::<Vec<_>>().join(","));
    let mut values =
        vec![map(10_000), map(100_000), list(r#""""#, 60_000), list("1", 100_000), list(r#""a""#, 100_000)];
    for depth in [200, 10_000, 40_000, 100_000] {
        values.push(format!("{}1{}", "[".repeat(depth), "]".repeat(depth)));
        values.push(format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth)));
    }
    let templates = r#"SUB "event_types":VALUE}|SUB "headers":VALUE}|SUB "metadata":VALUE}|SUB "name":VALUE}
        |SUB "filters":VALUE}|SUB "filters":{"metadata":VALUE}}|SUB "filters":{"payload":VALUE}}
        |SUB "filters":{"payload":{"a":{"$in":VALUE}}}}|SUB "retry_policy":{"delays_seconds":VALUE}}
        |SUB "retry_policy":{"decisions":VALUE}}
        |PATCH {"event_types":VALUE}|PATCH {"metadata":VALUE}|PATCH {"filters":{"payload":VALUE}}|PATCH {"colour":VALUE}
        |EVENT "metadata":VALUE}|EVENT "id":VALUE}|POST /events/batch {"events":VALUE}
        |POST /deliveries {"target_url":"URL","payload":1,"headers":VALUE}|POST /api-keys {"name":"x","scopes":VALUE}
        |REPLAY "event_types":VALUE}|REPLAY "statuses":VALUE}|POST /dead-letters/retry {"tenant_id":VALUE}"#;
    let templates = templates
        .replace("SUB", r#"POST /subscriptions {"target_url":"URL","#)
        .replace("EVENT", r#"POST /events {"event_type":"a.b","payload":1,"#)
        .replace("REPLAY", &format!(r#"POST /subscriptions/{subscription}/replay {{"since":"2026-01-01T00:00:00Z","#))
        .replace("PATCH", &format!("PATCH /subscriptions/{subscription}"))
        .replace("URL", &url);
    for template in templates.split('|').map(str::trim) {
        let (line, body) = template.split_once(" {").unwrap();
        for value in &values {
            let case = format!("{template} with {}", &value[..20]);
            let problem = refused(&case, send(&world, line, format!("{{{body}").replace("VALUE", value)).await);
            assert!(problem.to_string().len() < 64 * 1024, "{case}: an answer many times as long as it should be");
        }
    }
    let event = r#"{"event_type":"a","payload":0}"#;
    let mut last_is_bad = list(event, 999);
    last_is_bad.insert_str(last_is_bad.len() - 1, r#",{"event_type":"","payload":0}"#);
    for events in ["[]", &list(event, 1001), &list(event, 100_000), &list(event, 200_000), &last_is_bad] {
        refused("a batch", send(&world, "POST /events/batch", format!(r#"{{"events":{events}}}"#)).await);
    }
    let long = "x".repeat(1_000_000);
    for (line, body) in [
        ("POST /events", json!({"event_type": long, "payload": 1})),
        ("POST /events", json!({"event_type": "a.b", "payload": 1, "metadata": {&long: ""}})),
        ("POST /events", json!({"event_type": "a.b", "payload": 1, &long: 1})),
        ("POST /events", json!({"event_type": "a.b", "payload": long.repeat(2)})),
        ("POST /events/batch", json!({"events": [{"event_type": "a.b", "payload": long.repeat(2)}]})),
        ("POST /deliveries", json!({"target_url": long, "payload": 1})),
    ] {
        refused(line, send(&world, line, body.to_string()).await);
    }
    all_is_well(&world, before).await;
    world.finish().await;
}

#[tokio::test]
async fn any_json_is_delivered_byte_for_byte() {
    let world = World::new().await;
    world.subscription("/success").await;
    // A second subscription looks into every payload and wants none of them.
    let picky = id(&world.subscribe("/picky", json!({"filters": {"payload": {"no": {"$in": ["such", 1]}}}})).await);
    let texts = r#"null|-0|1.0|1e400|-1e400|18446744073709551616|"\u0000"|{"a\u0000b":"\u0000"}|"\ud800"
        |{"\udfff":"\ud800\ud800"}|{"a":1,"a":2}|{"__proto__":{"a":1},"constructor":null}
        |[ 1 , {  } ]|"\/\u2028é😀"|{"":""}|"</script>""#;
    let mut payloads: Vec<String> = texts.split('|').map(|text| text.trim().to_owned()).collect();
    payloads.push("9".repeat(100_000));
    payloads.push(format!("0.{}", "1".repeat(100_000)));
    payloads.push(format!("\"{}\"", "x".repeat(1_000_000)));
    payloads.push(format!("[{}0]", "0,".repeat(400_000)));
    for depth in [127, 128, 512] {
        payloads.push(format!("{}{}", "[".repeat(depth), "]".repeat(depth)));
        payloads.push(format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth)));
    }
    for payload in payloads {
        let url = world.receiver.url("/inline");
        for (line, more) in [
            ("POST /events", r#""event_type":"a.b""#.to_owned()),
            ("POST /deliveries", format!(r#""target_url":"{url}""#)),
        ] {
            let case = format!("{line} {}", payload.chars().take(50).collect::<String>());
            let accepted = send(&world, line, format!(r#"{{{more},"payload":{payload}}}"#)).await;
            assert_eq!(accepted.status, 202, "{case}: {}", accepted.body);
            assert_eq!(world.drain().await, 1, "{case}");
            assert!(world.receiver.received().pop().unwrap().body == payload, "{case}");
            let event = accepted.body["event_id"].as_str().unwrap();
            let asked = format!("/events/{event}/matches?subscription={picky}");
            assert_eq!(world.get(&asked).await["matches"], false, "{case}");
        }
    }
    world.finish().await;
}

/// Values that are legal and unusual can be read back and changed, and do not harm the requests after them.
#[tokio::test]
async fn what_was_accepted_is_no_trap() {
    let world = World::new().await;
    let url = world.receiver.url("/success");
    let odd =
        json!({"__proto__": "x", "constructor": "y", "a.b": "'; DROP TABLE events; --", "é": "\u{1}\u{7f}\u{202e}"});
    let kept = world.subscribe("/success", json!({"metadata": odd, "name": "😀".repeat(200)})).await;
    assert_eq!(kept["metadata"], odd);
    let mut bodies = vec![json!({"target_url": format!("{url}/{}", "é".repeat(950))})];
    for depth in 115..130 {
        let deep = (0..depth).fold(json!(1), |inner, _| json!([inner]));
        bodies.push(json!({"target_url": url, "filters": {"payload": {"a": deep}}}));
    }
    for body in bodies {
        let answer = world.call(Method::POST, "/subscriptions", Some(body)).await;
        if answer.status == 201 {
            let path = format!("/subscriptions/{}", id(&answer.body));
            world.get(&path).await;
            world.call(Method::PATCH, &path, Some(json!({"name": "renamed"}))).await.expect(200);
        } else {
            refused("a subscription", answer);
        }
    }
    world.get("/subscriptions").await;
    world.get("/audit-log").await;
    world.publish(json!({"event_type": "a.b", "payload": {"a": 1}, "id": "known"})).await;
    let inline = |more: &str| format!(r#"{{"target_url":"{url}","payload":1{more}}}"#);
    let keyed =
        |body: String| world.request(Method::POST, "/deliveries").header("Idempotency-Key", "known-too").body(body);
    answer(keyed(inline(""))).await.expect(202);
    let before = rows(&world).await;
    // A repeated event may bring a time in the past, but it must be a time that can be stored.
    for time in ["-5000-01-01T00:00:00Z", "-262143-01-01T00:00:00Z", "0000-01-01T00:00:00Z"] {
        let again = json!({"event_type": "a.b", "payload": {"a": 1}, "id": "known", "expires_at": time});
        refused(time, world.call(Method::POST, "/events", Some(again)).await);
        refused(time, answer(keyed(inline(&format!(r#","expires_at":"{time}""#)))).await);
    }
    all_is_well(&world, before).await;
    while world.drain().await > 0 {}
    world.finish().await;
}

#[tokio::test]
async fn odd_paths_queries_and_headers_are_refused() {
    let world = World::new().await;
    let ingest = format!("POST /webhooks/ingest/{}", world.subscription("/success").await);
    let before = rows(&world).await;
    let lines = "GET /subscriptions/%00|GET /subscriptions/../api-keys|GET /subscriptions/%2e%2e/api-keys\
        |GET /subscriptions/%|GET /subscriptions/%zz|GET /events/%ff%fe|GET /events/%c0%80|GET /deliveries/%ed%a0%80\
        |GET /events/é|GET /events/evt_{}|GET /subscriptions//secret|GET /events/evt_FFFF|DELETE /api-keys/key_%00\
        |POST /webhooks/ingest/%00|POST /webhooks/ingest/../../subscriptions|GET /subscriptions/sub_%30\
        |DELETE /subscriptions|BREW /health/live|PROPFIND /subscriptions|TRACE /|get /health/live|OPTIONS *|GET *\
        |CONNECT example.com:443|CONNECT /health/live|GET ?limit=99999999999999999999|GET ?limit=-1|GET ?limit=\
        |GET ?limit=1e3|GET ?limit=0x1|GET ?limit=%00|GET ?cursor=|GET ?cursor=%00|GET ?cursor=sub_1\
        |GET ?cursor='%20OR%201=1|GET ?since=yesterday|GET ?since=0000-01-01T00:00:00Z\
        |GET ?until=%2B10000-01-01T00:00:00Z|GET ?since=2024-02-30T00:00:00Z|GET ?metadata=x|GET ?metadata=%00:x\
        |GET ?metadata=x:%00|GET ?metadata=a:b&metadata=a:c|GET ?tenant_id=|GET ?tenant_id=%00|GET ?event_type=%00\
        |GET ?subscription_id=%00|GET /deliveries?status=%00|GET /deliveries?event_id=x|GET /subscriptions?state=gone\
        |GET /dead-letters?include_resolved=x";
    for line in lines.replace("GET ?", "GET /events?").split('|') {
        refused(line, ask(&world, &last_with_body(line, b"")).await);
    }
    // Each of these requests may be refused or find nothing.
    let lines = "GET /audit-log?actor=%00|GET /audit-log?action=%00|GET /audit-log?target_id=%00\
        |GET /audit-log?actor=%ff|GET ?tenant_id=%ff|GET ?limit=1&limit=2|GET ?&&==&%&%zz&a|GET ?cursor=evt_MAX\
        |GET /events/evt_MAX|GET ?since=1970-01-01T00:00:00Z&until=9999-12-31T23:59:59Z\
        |GET /deliveries?event_id=evt_MAX|GET /deliveries/dlv_MAX|GET /subscriptions/sub_MAX/deliveries\
        |GET /jobs?cursor=job_MAX|GET /dead-letters?cursor=dlv_MAX|GET /health/live?%00";
    for line in lines.replace("MAX", &"f".repeat(32)).replace("GET ?", "GET /events?").split('|') {
        let answer = ask(&world, &last_with_body(line, b"")).await;
        assert!(answer.status.is_success() || answer.status.is_client_error(), "{line}: {}", answer.status);
    }
    let headers =
        b"X-Event-Type: caf\xe9|X-Event-Type: caf\xc3\xa9|X-Event-Type: \xff\xfe|X-Event-Type: |X-Event-Type: a\tb\
        |Idempotency-Key: \xff|Idempotency-Key: |Idempotency-Key: a\tb|X-Ordering-Key: \xfe|X-Hub-Signature-256: \xff";
    for header in headers.split(|byte| *byte == b'|') {
        let more = [header, b"\r\nConnection: close\r\nContent-Length: 1\r\n".as_slice()].concat();
        let problem = refused(&String::from_utf8_lossy(header), ask(&world, &request(&ingest, &more, b"x")).await);
        let named = problem["errors"][0]["field"].as_str().unwrap();
        assert!(header.starts_with(named.as_bytes()), "{problem}");
    }
    let keys: [&[u8]; 6] =
        [b"Bearer", b"Bearer ", b"Bearer \xff", b"Basic eDp4", b"Bearer pr_dev_admin\t1", b"pr_dev_admin"];
    for key in keys {
        let key = HeaderValue::from_bytes(key).unwrap();
        answer(world.anonymous(Method::GET, "/subscriptions").header("Authorization", key)).await.problem(401);
    }
    all_is_well(&world, before).await;
    world.finish().await;
}
