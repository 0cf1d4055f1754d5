//! The configuration of the api, read from its environment.

use std::time::Duration;

use postrider_core::{
    database::DatabaseConfig,
    process::config::{Environment, Settings, Stage},
    trust::{seal::Keyring, target_policy::TargetPolicy},
};
use traces::config::Export;

use crate::{access::auth::AdminKey, serve::public_url::PublicUrl, ui::environment::EnvironmentName};

/// The admin key of the examples. Its text is public, so it is accepted in development only.
const EXAMPLE_ADMIN_KEY: &str = "pr_dev_admin";
/// An admin key outside development has at least this many characters.
const ADMIN_KEY_CHARACTERS_MIN: usize = 24;

/// Whether the dashboard is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dashboard {
    /// It is at `/ui/`, and `/` leads there.
    On,
    /// There is no such path.
    Off,
}

/// The configuration of the api, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// How to connect to Postgres.
    pub database: DatabaseConfig,
    /// The encryption keys, which seal and open stored secrets.
    pub keyring: Keyring,
    /// Which URLs and addresses a subscription may choose as its target.
    pub target_policy: TargetPolicy,
    /// The address and port to serve on, such as `127.0.0.1:8080`.
    pub listen: String,
    /// The key from the environment, which has every scope for every tenant.
    pub admin_key: AdminKey,
    /// At most this many connections are open at the same time; further ones are refused with 503.
    pub connections_max: usize,
    /// Whether the dashboard is served.
    pub dashboard: Dashboard,
    /// The name of the environment that the dashboard shows; `None` shows none.
    pub environment_name: Option<EnvironmentName>,
    /// The URL at which callers and browsers reach the api; `None` where nobody has told.
    pub public_url: Option<PublicUrl>,
    /// An event's payload has at most this many bytes.
    pub payload_bytes_max: usize,
    /// For how many seconds the answer to an idempotency key is remembered.
    pub idempotency_key_ttl_seconds: u32,
    /// Whether and where spans of requests are exported.
    pub traces: Export,
    /// How long requests under way may take to finish once the api is told to stop.
    pub shutdown_timeout: Duration,
    /// All settings as they may be shown.
    pub settings: Settings,
}

impl Config {
    /// Reads the configuration from the environment.
    ///
    /// # Errors
    /// All mistakes, one sentence each.
    pub fn from(mut env: Environment) -> Result<Self, Vec<String>> {
        let config = Self::read(&mut env);
        env.finish(config)
    }

    fn read(env: &mut Environment) -> Option<Self> {
        // Everything is read before the first mistake ends it, so that all mistakes are reported together.
        let stage = env.stage();
        let database = env.database();
        let keyring = env.keyring(stage);
        let target_policy = env.target_policy();
        let listen = env.get("POSTRIDER_API_LISTEN", "127.0.0.1:8080");
        let admin_key = env.required("POSTRIDER_ADMIN_KEY", |text| check_admin_key(text, stage));
        let connections_max = env.number("POSTRIDER_API_CONNECTIONS_MAX", "4096", 1..=1_000_000);
        let dashboard = env.parse("POSTRIDER_DASHBOARD", "on", parse_dashboard);
        let environment_name = env.parse("POSTRIDER_ENVIRONMENT_NAME", "", EnvironmentName::parse);
        let public_url = env.parse("POSTRIDER_PUBLIC_URL", "", PublicUrl::parse);
        let payload_bytes_max = env.number("POSTRIDER_PAYLOAD_BYTES_MAX", "1048576", 1..=33_554_432);
        let idempotency_key_ttl_hours = env.number("POSTRIDER_IDEMPOTENCY_KEY_TTL_HOURS", "24", 1..=720);
        let shutdown_timeout = env.seconds("POSTRIDER_SHUTDOWN_TIMEOUT_SECONDS", "20", 1..=600);
        let traces = Export::read(env, "postrider-api");
        stage?;
        Some(Self {
            database: database?,
            keyring: keyring?,
            target_policy: target_policy?,
            listen: listen?,
            admin_key: admin_key?,
            connections_max: connections_max? as usize,
            dashboard: dashboard?,
            environment_name: environment_name?,
            public_url: public_url?,
            payload_bytes_max: payload_bytes_max? as usize,
            idempotency_key_ttl_seconds: idempotency_key_ttl_hours? * 3600,
            traces: traces?,
            shutdown_timeout: shutdown_timeout?,
            settings: env.settings(),
        })
    }
}

fn parse_dashboard(text: &str) -> Result<Dashboard, String> {
    match text {
        "on" => Ok(Dashboard::On),
        "off" => Ok(Dashboard::Off),
        _ => Err("must be `on` or `off`".to_owned()),
    }
}

fn check_admin_key(text: &str, stage: Option<Stage>) -> Result<AdminKey, String> {
    let development = stage == Some(Stage::Development);
    if !text.starts_with("pr_") {
        Err("must begin with `pr_`".to_owned())
    } else if text == EXAMPLE_ADMIN_KEY && !development {
        Err("is the example key; choose a secret one (or set POSTRIDER_ENVIRONMENT=development)".to_owned())
    } else if text.len() < ADMIN_KEY_CHARACTERS_MIN && !development {
        Err(format!("must be at least {ADMIN_KEY_CHARACTERS_MIN} characters long"))
    } else {
        Ok(AdminKey::new(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_key_is_for_development() {
        let long = format!("pr_{}", "x".repeat(ADMIN_KEY_CHARACTERS_MIN));
        assert!(check_admin_key(EXAMPLE_ADMIN_KEY, Some(Stage::Development)).is_ok());
        assert!(check_admin_key(EXAMPLE_ADMIN_KEY, Some(Stage::Production)).is_err());
        assert!(check_admin_key("pr_short", Some(Stage::Production)).is_err());
        assert!(check_admin_key(&long[3..], Some(Stage::Production)).is_err());
        assert!(check_admin_key(&long, Some(Stage::Production)).is_ok());
    }
}
