//! A crash of the database undoes claims that had not reached the disk. It must neither exceed a limit nor give two
//! leases one token.

use std::collections::{HashMap, HashSet};

use dev::postgres::{Durability, Postgres};
use postrider_core::upkeep;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::{
    flow_races::{Leased, claim},
    world::{KEY, answer, client, database_config, environment, id, serve, uuid},
};

/// Events of each subscription.
const EVENTS: usize = 4;

/// A server of its own, whose claims reach the disk long after they were made unless they wait for it.
async fn server() -> (Postgres, HashMap<String, String>) {
    let server = Postgres::temporary("crashes", Durability::Durable).unwrap();
    let env = environment(&server.url("postgres"));
    upkeep::bring_up_to_date(&database_config(&env)).await.unwrap();
    let pool = pool(&env).await;
    // Whatever writes to the disk for reasons of its own would take the claims along.
    let settings =
        ["wal_writer_delay = '10s'", "wal_writer_flush_after = '1GB'", "full_page_writes = off", "autovacuum = off"];
    for setting in settings {
        let set = sqlx::AssertSqlSafe(format!("ALTER SYSTEM SET {setting}"));
        sqlx::raw_sql(set).execute(&pool).await.unwrap();
    }
    sqlx::raw_sql("SELECT pg_reload_conf()").execute(&pool).await.unwrap();
    pool.close().await;
    (server, env)
}

async fn pool(env: &HashMap<String, String>) -> PgPool {
    let options = database_config(env).options.options([("search_path", "postrider")]);
    PgPool::connect_with(options).await.unwrap()
}

/// Makes subscriptions with these settings, and posts events to each; returns the lane of each.
async fn post(env: &HashMap<String, String>, settings: &[Value]) -> Vec<Uuid> {
    let (base, (stop, serving)) = serve(env).await;
    let client = client();
    let mut lanes = Vec::new();
    for settings in settings {
        let mut body = json!({"target_url": "http://127.0.0.1:10/", "circuit": null});
        body.as_object_mut().unwrap().extend(settings.as_object().cloned().unwrap());
        let made = client.post(format!("{base}/subscriptions")).bearer_auth(KEY).body(body.to_string());
        let subscription = id(&answer(made).await.expect(201));
        for _ in 0..EVENTS {
            let url = format!("{base}/webhooks/ingest/{subscription}");
            answer(client.request(Method::POST, url).bearer_auth(KEY).body("x")).await.expect(202);
        }
        lanes.push(uuid(&subscription));
    }
    stop.cancel();
    serving.await.unwrap();
    lanes
}

/// What two claims lease, between which the database crashes.
async fn claims_around_a_crash(server: &mut Postgres, env: &HashMap<String, String>) -> [Vec<Leased>; 2] {
    let before = pool(env).await;
    let first = claim(&mut before.acquire().await.unwrap()).await;
    server.restart().unwrap();
    let after = pool(env).await;
    let second = claim(&mut after.acquire().await.unwrap()).await;
    after.close().await;
    [first, second]
}

fn of<'l>(leased: &'l [Leased], lane: &Uuid) -> Vec<&'l Leased> {
    leased.iter().filter(|leased| leased.subscription_id == Some(*lane)).collect()
}

#[tokio::test]
async fn a_crash_of_the_database_gives_no_limited_delivery_a_second_lease() {
    let (mut server, env) = server().await;
    let limits = [
        json!({"max_in_flight": 2}),
        json!({"ordering": "fifo"}),
        json!({"rate_limit_per_second": 0.1, "rate_limit_burst": 2}),
    ];
    let lanes = post(&env, &limits).await;
    let [first, second] = claims_around_a_crash(&mut server, &env).await;
    for (lane, (leased, limit)) in lanes.iter().zip([2, 1, 2].into_iter().zip(&limits)) {
        assert_eq!(of(&first, lane).len(), leased, "{limit}");
        assert_eq!(of(&second, lane).len(), 0, "{limit}: the crash has not undone the claim");
    }
}

#[tokio::test]
async fn a_lease_that_a_crash_has_undone_and_its_successor_have_different_tokens() {
    let (mut server, env) = server().await;
    let lanes = post(&env, &[json!({})]).await;
    let [first, second] = claims_around_a_crash(&mut server, &env).await;
    // The claim was undone, which costs no more than a delivery that is made twice.
    assert_eq!((of(&first, &lanes[0]).len(), of(&second, &lanes[0]).len()), (EVENTS, EVENTS));
    let tokens = |leased: &[Leased]| leased.iter().map(|leased| leased.lease_token).collect::<HashSet<_>>();
    assert!(tokens(&first).is_disjoint(&tokens(&second)), "the worker of the first claim may still report");
}
