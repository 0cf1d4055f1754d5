//! Logs for the tests of the audit: a healthy run of one subscription, to which a test adds what is wrong.

use std::time::Duration;

use uuid::Uuid;

use super::audit;
use crate::chaos::log::{Answer, At, Attempt, Delivery, Fate, Log, Posted, Request, Subscription};

/// The log of a run with one subscription.
#[derive(Default)]
pub struct Sample {
    /// The settings of the subscription.
    pub subscription: Subscription,
    posted: Vec<Posted>,
    requests: Vec<Request>,
}

/// A moment of the run.
pub fn seconds(seconds: f64) -> At {
    Duration::from_secs_f64(seconds)
}

/// The rules that are broken in a log, each once.
pub fn rules(log: &Log) -> Vec<&'static str> {
    let mut rules: Vec<_> = audit(log).offences.into_iter().map(|offence| offence.rule).collect();
    rules.sort_unstable();
    rules.dedup();
    rules
}

impl Sample {
    /// An event was posted at the second with its number, and answered a tenth later.
    #[expect(clippy::cast_precision_loss, reason = "numbers of a test are small")]
    pub fn post(&mut self, number: u64, answer: Answer) -> &mut Posted {
        let sent = seconds(number as f64);
        let posted = Posted {
            number,
            way: "events",
            key: None,
            wanted_by: vec![0],
            sent,
            answered: sent + Duration::from_millis(100),
            answer,
        };
        self.posted.push(posted);
        self.posted.last_mut().expect("it has just been pushed")
    }

    /// A request arrived then, and was answered a hundredth of a second later.
    pub fn deliver(&mut self, number: u64, attempt: u32, arrived: f64, fate: Fate) -> &mut Request {
        self.requests.push(Request {
            subscription: 0,
            number,
            event: format!("evt_{number}"),
            delivery: Uuid::from_u128(u128::from(number) << 64),
            attempt,
            arrived: seconds(arrived),
            ended: seconds(arrived + 0.01),
            fate,
        });
        self.requests.last_mut().expect("it has just been pushed")
    }

    /// The whole log, in which the database has logged what the receiver has got.
    pub fn log(&self) -> Log {
        let mut log = Log {
            subscriptions: vec![self.subscription.clone()],
            posted: self.posted.clone(),
            requests: self.requests.clone(),
            ..Log::default()
        };
        log.requests.sort_by_key(|request| request.arrived);
        for request in log.requests.clone() {
            if log.deliveries.iter().all(|delivery| delivery.id != request.delivery) {
                log.deliveries.push(Delivery {
                    id: request.delivery,
                    number: request.number,
                    status: "succeeded".to_owned(),
                    finished: Some(request.ended),
                });
            }
            let is_logged = log
                .attempts
                .iter()
                .any(|attempt| (attempt.delivery, attempt.number) == (request.delivery, request.attempt));
            if !is_logged {
                log.attempts.push(Attempt {
                    delivery: request.delivery,
                    number: request.attempt,
                    status: if let Fate::Answered(status) = request.fate { Some(status) } else { None },
                    error: (!request.is_success()).then(|| "http_status".to_owned()),
                });
            }
        }
        log.deliveries.retain(|delivery| {
            log.requests.iter().any(|request| request.delivery == delivery.id && request.is_success())
        });
        log
    }
}
