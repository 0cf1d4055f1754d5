//! What the api reads from its environment.

use std::time::Duration;

use postrider_core::{
    database::DatabaseConfig,
    process::config::{Environment, Stage},
    trust::{seal::Keyring, target_policy::TargetPolicy},
};

use crate::access::auth::AdminKey;

/// The key that the examples use; accepted in development only.
const EXAMPLE_ADMIN_KEY: &str = "pr_dev_admin";
/// Characters of an admin key outside development, at least.
const ADMIN_KEY_CHARACTERS_MIN: usize = 24;

/// The api's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The database.
    pub database: DatabaseConfig,
    /// Seals and opens stored secrets.
    pub keyring: Keyring,
    /// Which targets may be chosen.
    pub target_policy: TargetPolicy,
    /// Address to serve on.
    pub listen: String,
    /// Opens every management route.
    pub admin_key: AdminKey,
    /// Connections at a time, at most.
    pub connections_max: usize,
    /// Bytes of an event's payload, at most.
    pub payload_bytes_max: usize,
    /// How long an idempotency key is remembered.
    pub idempotency_key_ttl_seconds: u32,
    /// How long requests may take to finish when the api is told to stop.
    pub shutdown_timeout: Duration,
}

impl Config {
    /// Reads it.
    ///
    /// # Errors
    /// Every mistake, one sentence each.
    pub fn from(mut env: Environment) -> Result<Self, Vec<String>> {
        let config = Self::read(&mut env);
        env.finish(config)
    }

    fn read(env: &mut Environment) -> Option<Self> {
        // Everything is read before anything is given up, so that all mistakes are found.
        let stage = env.stage();
        let database = env.database();
        let keyring = env.keyring(stage);
        let target_policy = env.target_policy();
        let listen = env.get("POSTRIDER_API_LISTEN", "127.0.0.1:8080");
        let admin_key = env.required("POSTRIDER_ADMIN_KEY", |text| check_admin_key(text, stage));
        let connections_max = env.number("POSTRIDER_API_CONNECTIONS_MAX", "4096", 1..=1_000_000);
        let payload_bytes_max = env.number("POSTRIDER_PAYLOAD_BYTES_MAX", "1048576", 1..=33_554_432);
        let idempotency_key_ttl_hours = env.number("POSTRIDER_IDEMPOTENCY_KEY_TTL_HOURS", "24", 1..=720);
        let shutdown_timeout = env.seconds("POSTRIDER_SHUTDOWN_TIMEOUT_SECONDS", "20", 1..=600);
        stage?;
        Some(Self {
            database: database?,
            keyring: keyring?,
            target_policy: target_policy?,
            listen: listen?,
            admin_key: admin_key?,
            connections_max: connections_max? as usize,
            payload_bytes_max: payload_bytes_max? as usize,
            idempotency_key_ttl_seconds: idempotency_key_ttl_hours? * 3600,
            shutdown_timeout: shutdown_timeout?,
        })
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
