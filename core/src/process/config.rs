//! Reads configuration from the environment, and from nowhere else. Every mistake is collected, so that a person can
//! mend all of them at once. What each variable means stands where it is read and in docs/configuration.md.

use std::{
    collections::BTreeMap,
    fmt::Display,
    net::{Ipv4Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    access::tenancy::check_tenant,
    database::{DatabaseConfig, Servers},
    event::operational::OPERATOR_TENANT_DEFAULT,
    trust::{dns::Dns, seal::Keyring, target_policy::TargetPolicy},
};

type Lookup = dyn Fn(&str) -> Option<String>;

/// The environment variables of this process, with a list of what is wrong with them.
pub struct Environment {
    lookup: Box<Lookup>,
    problems: Vec<String>,
    settings: Settings,
}

/// Settings in force, by the names of their variables.
pub type Settings = BTreeMap<String, Setting>;

/// A setting as it may be shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// The text of the value; `None` where it is, or may hold, a secret.
    pub value: Option<String>,
    /// Whether the variable is set; if not, the value is the default.
    pub is_set: bool,
}

/// The ends of names of variables whose values are, or may hold, secrets.
const SECRET_NAMES: [&str; 6] = ["_KEY", "_KEYS", "_SECRET", "_TOKEN", "_HEADERS", "_URL"];

impl Setting {
    /// What may be shown of a setting. A value with an `@` may be a URL with a password in it.
    fn shown(name: &str, text: Option<&str>, default: &str) -> Self {
        let value = text.unwrap_or(default);
        let is_secret = SECRET_NAMES.iter().any(|end| name.ends_with(end)) || value.contains('@');
        Self { value: (!is_secret).then(|| value.to_owned()), is_set: text.is_some() }
    }
}

/// The key that stands in the project's `.env`.
const EXAMPLE_ENCRYPTION_KEY: &str = "cG9zdHJpZGVyLWRldmVsb3BtZW50LWtleS0zMi1ieXQ=";

/// Whether this process serves people or a developer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// `POSTRIDER_ENVIRONMENT=development`: known example secrets are accepted.
    Development,
    /// Anything else, and the default.
    Production,
}

impl Environment {
    /// The process's own environment, after a `.env` file in the working directory or above it, if there is one, has
    /// filled in what is not set.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is where the environment is read")]
    pub fn of_process() -> Self {
        let loaded = dotenvy::dotenv();
        let mut env = Self::new(|name| std::env::var(name).ok());
        match loaded {
            Err(error) if !error.not_found() => env.problem(format!(".env: {error}")),
            _ => {}
        }
        env
    }

    /// Any other source of values.
    pub fn new(lookup: impl Fn(&str) -> Option<String> + 'static) -> Self {
        Self { lookup: Box::new(lookup), problems: Vec::new(), settings: Settings::new() }
    }

    /// A value, or its default where the variable is unset or empty.
    pub fn get<T: FromStr<Err: Display>>(&mut self, name: &str, default: &str) -> Option<T> {
        self.parse(name, default, |text| text.parse().map_err(|error: T::Err| error.to_string()))
    }

    /// Like [`Self::get`], with a parser of the caller's.
    pub fn parse<T>(&mut self, name: &str, default: &str, parser: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let text = self.text(name);
        self.settings.insert(name.to_owned(), Setting::shown(name, text.as_deref(), default));
        let text = text.unwrap_or_else(|| default.to_owned());
        parser(&text).map_err(|error| self.problems.push(format!("{name}: {error}"))).ok()
    }

    /// A value that has no default.
    pub fn required<T>(&mut self, name: &str, parser: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let Some(text) = self.text(name) else {
            self.problems.push(format!("{name}: must be set"));
            return None;
        };
        // What has no default is a secret, or holds one.
        self.settings.insert(name.to_owned(), Setting { value: None, is_set: true });
        parser(&text).map_err(|error| self.problems.push(format!("{name}: {error}"))).ok()
    }

    /// A number within bounds.
    pub fn number(&mut self, name: &str, default: &str, bounds: std::ops::RangeInclusive<u32>) -> Option<u32> {
        self.parse(name, default, |text| {
            let number = text.parse().ok().filter(|number| bounds.contains(number));
            number.ok_or_else(|| format!("must be a whole number from {} to {}", bounds.start(), bounds.end()))
        })
    }

    /// Whole seconds within bounds.
    pub fn seconds(&mut self, name: &str, default: &str, bounds: std::ops::RangeInclusive<u32>) -> Option<Duration> {
        self.number(name, default, bounds).map(|seconds| Duration::from_secs(seconds.into()))
    }

    /// Notes a mistake that concerns more than one value.
    pub fn problem(&mut self, message: impl Into<String>) {
        self.problems.push(message.into());
    }

    /// All settings that were read so far, without secrets.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.settings.clone()
    }

    /// Hands over the configuration, or every mistake.
    ///
    /// # Errors
    /// The mistakes, one sentence each.
    pub fn finish<T>(self, config: Option<T>) -> Result<T, Vec<String>> {
        match config {
            Some(config) if self.problems.is_empty() => Ok(config),
            _ => Err(self.problems),
        }
    }

    /// `POSTRIDER_ENVIRONMENT`.
    pub fn stage(&mut self) -> Option<Stage> {
        self.parse("POSTRIDER_ENVIRONMENT", "production", |text| match text {
            "development" => Ok(Stage::Development),
            "production" => Ok(Stage::Production),
            _ => Err("must be `development` or `production`".to_owned()),
        })
    }

    /// `DATABASE_URL`, `POSTRIDER_DATABASE_SCHEMA` and `POSTRIDER_OPERATOR_TENANT`.
    pub fn database(&mut self) -> Option<DatabaseConfig> {
        let url = self.required("DATABASE_URL", Servers::parse);
        let schema = self.parse("POSTRIDER_DATABASE_SCHEMA", "postrider", |text| {
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
            let valid = (1..=48).contains(&text.len())
                && text.bytes().all(plain)
                && !text.starts_with(|first: char| first.is_ascii_digit())
                && !text.starts_with("pg_");
            valid.then(|| text.to_owned()).ok_or_else(|| {
                "must be 1 to 48 lower-case letters, digits or `_`, and begin with neither a digit nor `pg_`".to_owned()
            })
        });
        let operator_tenant = self.parse("POSTRIDER_OPERATOR_TENANT", OPERATOR_TENANT_DEFAULT, |text| {
            check_tenant(text).map(|()| text.to_owned())
        });
        let (options, servers) = url?;
        Some(DatabaseConfig { options, servers, schema: schema?, operator_tenant: operator_tenant? })
    }

    /// `POSTRIDER_ENCRYPTION_KEYS`. The example key is for development only.
    pub fn keyring(&mut self, stage: Option<Stage>) -> Option<Keyring> {
        self.required("POSTRIDER_ENCRYPTION_KEYS", |text| {
            if text.contains(EXAMPLE_ENCRYPTION_KEY) && stage != Some(Stage::Development) {
                return Err("is the example key; make one with `openssl rand -base64 32`".to_owned());
            }
            Keyring::parse(text)
        })
    }

    /// `POSTRIDER_ALLOWED_PRIVATE_NETWORKS` and `POSTRIDER_HTTPS_ONLY`; and the demo receivers of this machine, where
    /// `POSTRIDER_DEMO` switches them on at `POSTRIDER_DEMO_PORT`.
    pub fn target_policy(&mut self) -> Option<TargetPolicy> {
        let allowed_private = self.parse("POSTRIDER_ALLOWED_PRIVATE_NETWORKS", "", TargetPolicy::networks);
        let is_https_only = self.parse("POSTRIDER_HTTPS_ONLY", "false", |text| match text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err("must be `true` or `false`".to_owned()),
        });
        let has_demo = self.parse("POSTRIDER_DEMO", "off", |text| match text {
            "on" => Ok(true),
            "off" => Ok(false),
            _ => Err("must be `on` or `off`".to_owned()),
        });
        let port = self.parse("POSTRIDER_DEMO_PORT", "8089", |text| {
            let port = text.parse::<u16>().ok().filter(|port| *port > 0);
            port.ok_or_else(|| "must be a whole number from 1 to 65535".to_owned())
        });
        let (allowed_private, is_https_only) = (allowed_private?, is_https_only?);
        let demo = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port?))).filter(|_| has_demo == Some(true));
        has_demo?;
        Some(TargetPolicy { allowed_private, is_https_only, demo, dns: Dns::default() })
    }

    fn text(&self, name: &str) -> Option<String> {
        (self.lookup)(name).filter(|text| !text.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_is_reported_and_no_secret() {
        let mut env = Environment::new(|name| match name {
            "DATABASE_URL" => Some("postgres//user:hunter2@host".to_owned()),
            "POSTRIDER_DATABASE_SCHEMA" => Some("Robert'); --".to_owned()),
            "POSTRIDER_OPERATOR_TENANT" => Some("x".repeat(65)),
            "POSTRIDER_ALLOWED_PRIVATE_NETWORKS" => Some("here".to_owned()),
            "POSTRIDER_DEMO" => Some("perhaps".to_owned()),
            "POSTRIDER_DEMO_PORT" => Some("0".to_owned()),
            _ => None,
        });
        let parts = (env.database().is_some(), env.keyring(None).is_some(), env.target_policy().is_some());
        assert_eq!(parts, (false, false, false));
        let problems = env.finish(Some(())).expect_err("seven mistakes");
        assert_eq!(problems.len(), 7, "{problems:?}");
        assert!(!problems.join(" ").contains("hunter2"));
    }

    #[test]
    fn the_demo_is_off_unless_it_is_switched_on() {
        for (demo, port, address) in [
            ("", "", None),
            ("off", "9000", None),
            ("on", "", Some("127.0.0.1:8089")),
            ("on", "9000", Some("127.0.0.1:9000")),
        ] {
            let mut env = Environment::new(move |name| match name {
                "POSTRIDER_DEMO" => Some(demo.to_owned()),
                "POSTRIDER_DEMO_PORT" => Some(port.to_owned()),
                _ => None,
            });
            let policy = env.target_policy().expect("valid");
            assert_eq!(policy.demo.map(|address| address.to_string()).as_deref(), address, "{demo} {port}");
        }
    }

    #[test]
    fn settings_are_told_without_secrets() {
        let mut env = Environment::new(|name| match name {
            "POSTRIDER_ENCRYPTION_KEYS" | "OTEL_EXPORTER_OTLP_HEADERS" => Some("hunter2".to_owned()),
            "ENDPOINT" => Some("http://me:hunter2@host/".to_owned()),
            "NUMBER" => Some("7".to_owned()),
            _ => None,
        });
        let _ = env.required("POSTRIDER_ENCRYPTION_KEYS", |_| Ok(()));
        for name in ["OTEL_EXPORTER_OTLP_HEADERS", "ENDPOINT", "OTHER"] {
            let _ = env.get::<String>(name, "none");
        }
        let _ = env.number("NUMBER", "5", 1..=9);
        let settings = env.settings();
        let shown = |name: &str| (settings[name].value.as_deref(), settings[name].is_set);
        assert_eq!(shown("NUMBER"), (Some("7"), true));
        assert_eq!(shown("OTHER"), (Some("none"), false));
        for secret in ["POSTRIDER_ENCRYPTION_KEYS", "OTEL_EXPORTER_OTLP_HEADERS", "ENDPOINT"] {
            assert_eq!(shown(secret), (None, true), "{secret}");
        }
        assert!(!format!("{settings:?}").contains("hunter2"));
    }

    #[test]
    fn bounds() {
        for (text, number) in [("1", Some(1)), ("9", Some(9)), ("0", None), ("10", None), ("x", None), ("", Some(5))] {
            let mut env = Environment::new(move |_| Some(text.to_owned()));
            assert_eq!(env.number("N", "5", 1..=9), number, "{text:?}");
        }
    }
}
