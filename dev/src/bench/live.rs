//! Measures what the live feed costs: the same load with three viewers and without, in turn, in one run.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use http_body_util::BodyExt;
use hyper::{Request, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpStream, task::JoinSet};

use super::{
    load::{self, Until},
    system::System,
};
use crate::{
    postgres::Postgres,
    receiver::{Keep, Receiver},
};

/// Rounds of each kind; the medians are compared.
const ROUNDS: usize = 7;
/// Events of one round, and the connections that post them.
const EVENTS: u64 = 10_000;
const CONNECTIONS: usize = 64;
/// Those who watch everything.
const VIEWERS: usize = 3;
/// What the viewers may cost.
const COST_MAX: f64 = 0.01;
/// How long a watched system is watched before it is measured, and one that is watched no more is left alone: so long
/// goes a process on reporting after the last question.
const SETTLED_AFTER: Duration = Duration::from_secs(30);

/// Measures throughput and CPU time with viewers and without.
///
/// # Errors
/// When something does not start, or the viewers cost more than they may.
pub async fn live(server: &Postgres) -> Result<Value> {
    let system = System::start(server).await?;
    let receiver = Receiver::start("127.0.0.1:0", Keep::Count).await?;
    let subscription = system.subscribe(&receiver.url("/success")).await?;
    let target = system.target(&subscription);
    load::flood(&target, CONNECTIONS, Until::Events(EVENTS)).await?;
    let mut received = EVENTS;
    receiver.wait_for(received, Duration::from_secs(60)).await?;

    let (mut alone, mut watched) = (Vec::new(), Vec::new());
    for round in 0..2 * ROUNDS {
        let viewers = if round % 2 == 0 { None } else { Some(watch(&system).await?) };
        tokio::time::sleep(if round == 0 { Duration::ZERO } else { SETTLED_AFTER }).await;
        let (cpu, started) = (system.cpu(), Instant::now());
        load::flood(&target, CONNECTIONS, Until::Events(EVENTS)).await?;
        received += EVENTS;
        receiver.wait_for(received, Duration::from_secs(60)).await?;
        let rate = EVENTS as f64 / started.elapsed().as_secs_f64();
        let used = system.cpu().per_thousand(&cpu, EVENTS).iter().take(3).sum::<f64>();
        match viewers {
            None => alone.push((rate, used)),
            Some(mut viewers) => {
                ensure!(viewers.try_join_next().is_none(), "a stream ended before it was closed");
                watched.push((rate, used));
            }
        }
    }
    let median = |rounds: &[(f64, f64)], which: fn(&(f64, f64)) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(which).collect();
        values.sort_unstable_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let rates = [median(&alone, |round| round.0), median(&watched, |round| round.0)];
    let used = [median(&alone, |round| round.1), median(&watched, |round| round.1)];
    let cost = used[1] / used[0] - 1.0;
    println!("live feed:      {:>7.0} deliveries/s, {:.3} CPU s per 1000 while nobody watches", rates[0], used[0]);
    println!("                {:>7.0} deliveries/s, {:.3} CPU s per 1000 with {VIEWERS} viewers", rates[1], used[1]);
    println!("                {:>7.1} % more CPU time", cost * 100.0);
    system.stop().await?;
    ensure!(cost <= COST_MAX, "viewers may cost no more than {} %", COST_MAX * 100.0);
    Ok(json!({"alone": {"deliveries_per_second": rates[0], "cpu_seconds_per_1000": used[0]},
              "watched": {"deliveries_per_second": rates[1], "cpu_seconds_per_1000": used[1]}, "cost": cost}))
}

/// Opens streams and reads them until they are dropped.
async fn watch(system: &System) -> Result<JoinSet<Result<()>>> {
    let mut viewers = JoinSet::new();
    for _ in 0..VIEWERS {
        let address = system.address();
        let stream = TcpStream::connect(&address).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::get("/live")
            .header(header::HOST, &address)
            .header(header::AUTHORIZATION, format!("Bearer {}", system.key))
            .body(http_body_util::Empty::<bytes::Bytes>::new())?;
        let answer = sender.send_request(request).await?;
        ensure!(answer.status().is_success(), "the stream is answered with {}", answer.status());
        let mut body = answer.into_body();
        viewers.spawn(async move {
            // The connection is closed when its sender is dropped.
            let _sender = sender;
            while let Some(frame) = body.frame().await {
                frame?;
            }
            Ok(())
        });
    }
    Ok(viewers)
}
