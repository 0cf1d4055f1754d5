//! An emitter as somebody asks for it, and how that becomes a [`NewEmitter`], with every broken rule reported.

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::{
    Error, Result,
    accept::sample::{SAMPLE_TYPE_DEFAULT, type_of},
    emitter::{
        schedule::Rate,
        template::{Filling, Template},
    },
    event::{event_type::EventType, json},
    id::SubscriptionId,
    subscription::{State, Subscription},
    validation::Problems,
};

/// Seconds for which an emitter runs where nothing else is asked for: five minutes.
pub const DURATION_SECONDS_DEFAULT: u32 = 300;
/// Seconds for which an emitter may run, at most: one day.
pub const DURATION_SECONDS_MAX: u32 = 24 * 3600;

/// Who gets the events of an emitter.
#[derive(Clone, Copy, Debug)]
pub enum To<'a> {
    /// This subscription, whatever its patterns and filters say.
    Subscription(&'a Subscription),
    /// Every subscription of this tenant that wants them.
    Tenant(&'a str),
}

/// An emitter as somebody asks for it, before it is checked. An absent field means the default.
#[derive(Clone, Debug)]
pub struct EmitterInput {
    /// The type of the events; where absent, the first one that the subscription names, where it names whole types
    /// only, or else [`SAMPLE_TYPE_DEFAULT`].
    pub event_type: Option<String>,
    /// Events a second.
    pub rate_per_second: f64,
    /// Seconds until it ends by itself.
    pub duration_seconds: Option<u32>,
    /// What the payloads are made of.
    pub template: Option<Value>,
}

/// A checked emitter that is about to be started.
#[derive(Clone, Debug)]
pub struct NewEmitter {
    /// The tenant to which the emitter and its events belong.
    pub tenant_id: String,
    /// The subscription that gets the events; `None` for all of the tenant that want them.
    pub subscription_id: Option<SubscriptionId>,
    /// The type of the events.
    pub event_type: EventType,
    /// Events a second.
    pub rate: Rate,
    /// Seconds until it ends by itself.
    pub duration_seconds: u32,
    /// What the payloads are made of.
    pub template: Template,
}

impl EmitterInput {
    /// Checks all fields at once. A payload may have `payload_bytes_max` bytes.
    ///
    /// # Errors
    /// Every broken rule; a conflict where the subscription is disabled.
    pub fn parse(self, to: To<'_>, payload_bytes_max: usize, now: DateTime<Utc>) -> Result<NewEmitter> {
        let (tenant_id, subscription) = match to {
            To::Subscription(subscription) => (subscription.tenant_id.as_str(), Some(subscription)),
            To::Tenant(tenant_id) => (tenant_id, None),
        };
        if subscription.is_some_and(|subscription| subscription.state == State::Disabled) {
            return Err(Error::Conflict("the subscription is disabled; enable it first".to_owned()));
        }
        let mut problems = Problems::default();
        let event_type = self.event_type.unwrap_or_else(|| {
            let named = subscription.map(|subscription| type_of(&subscription.settings.event_types));
            named.unwrap_or_else(|| SAMPLE_TYPE_DEFAULT.to_owned())
        });
        let event_type = problems.take("event_type", event_type.parse::<EventType>());
        let rate = problems.take("rate_per_second", Rate::parse(self.rate_per_second));
        let duration_seconds = self.duration_seconds.unwrap_or(DURATION_SECONDS_DEFAULT);
        let duration = format!("must be from 1 to {DURATION_SECONDS_MAX}");
        problems.require((1..=DURATION_SECONDS_MAX).contains(&duration_seconds), "duration_seconds", duration);
        let template = self.template.map_or_else(|| Ok(Template::default()), Template::parse);
        let template = template.and_then(|template| {
            let payload = template.fill(Filling::new(1, now));
            if payload.len() > payload_bytes_max {
                return Err(format!("makes payloads that are longer than {payload_bytes_max} bytes"));
            }
            json::check(&payload).map_err(|why| format!("makes payloads that filters cannot read: {why}"))?;
            Ok(template)
        });
        let template = problems.take("template", template);
        let (Some(event_type), Some(rate), Some(template)) = (event_type, rate, template) else {
            return Err(problems.into());
        };
        let new = NewEmitter {
            tenant_id: tenant_id.to_owned(),
            subscription_id: subscription.map(|subscription| subscription.id),
            event_type,
            rate,
            duration_seconds,
            template,
        };
        Ok(problems.none_or(new)?)
    }
}
