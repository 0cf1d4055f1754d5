//! Whether and where spans are exported: the standard variables of OpenTelemetry, read like the rest of the
//! configuration. <https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/> and
//! <https://opentelemetry.io/docs/specs/otel/protocol/exporter/> define them. Unlike there, a wrong value is an error,
//! and there are no traces unless an endpoint is named.

use std::{collections::HashMap, fmt, time::Duration};

use opentelemetry_otlp::Compression;
use opentelemetry_sdk::trace::Sampler;
use percent_encoding::percent_decode_str;
use postrider_core::process::config::Environment;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use url::Url;

/// The path that is appended to the endpoint for all signals.
const TRACES_PATH: &str = "/v1/traces";

/// Where spans go, and which. It holds secrets, so its `Debug` form shows little of it.
#[derive(Clone)]
pub struct Config {
    /// The URL to which spans are posted.
    pub endpoint: Url,
    /// Headers that go with them, such as a key of the collector.
    pub headers: HashMap<String, String>,
    /// How requests are packed; `None` means that they are not.
    pub compression: Option<Compression>,
    /// How long exporting one batch may take, with its retries.
    pub timeout: Duration,
    /// Certificate authorities that are trusted besides those of the machine.
    pub authorities: Vec<CertificateDer<'static>>,
    /// What the collector is told of this process: names and values, `service.name` among them.
    pub resource: Vec<(String, String)>,
    /// Decides which spans are recorded.
    pub sampler: Sampler,
    /// Spans that wait to be exported, at most; further ones are dropped.
    pub waiting_max: usize,
    /// Spans in one request, at most.
    pub batch_max: usize,
    /// How long a span waits for others to go with it, at most.
    pub delay: Duration,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("endpoint", &self.endpoint.host_str())
            .field("sampler", &self.sampler)
            .finish_non_exhaustive()
    }
}

/// Whether spans are exported.
#[derive(Clone, Debug)]
pub enum Export {
    /// No span is made, and nothing is connected to.
    Off,
    /// Spans are made and go there.
    To(Box<Config>),
}

impl Export {
    /// Reads the configuration of a process; `None` where a value is wrong. `service` is the name of the service where
    /// none is set.
    pub fn read(env: &mut Environment, service: &str) -> Option<Self> {
        let own = env.get::<String>("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "")?;
        let general = env.get::<String>("OTEL_EXPORTER_OTLP_ENDPOINT", "")?;
        let is_disabled = env.get::<String>("OTEL_SDK_DISABLED", "false")?.eq_ignore_ascii_case("true");
        if is_disabled || (own.is_empty() && general.is_empty()) {
            return Some(Self::Off);
        }
        let exporter = env.parse("OTEL_TRACES_EXPORTER", "otlp", |text| match text {
            "otlp" => Ok(Exporter::Otlp),
            "none" => Ok(Exporter::None),
            _ => Err("must be `otlp` or `none`".to_owned()),
        });
        if exporter? == Exporter::None {
            return Some(Self::Off);
        }
        // Everything is read before the first mistake ends it, so that all mistakes are reported together.
        let endpoint = endpoint(env, &own);
        let protocol = otlp(env, "PROTOCOL", "http/protobuf", |text| match text {
            "http/protobuf" => Ok(()),
            _ => Err("must be `http/protobuf`; no other protocol is spoken".to_owned()),
        });
        let headers = otlp(env, "HEADERS", "", parse_headers);
        let compression = otlp(env, "COMPRESSION", "none", |text| match text {
            "none" => Ok(None),
            "gzip" => Ok(Some(Compression::Gzip)),
            _ => Err("must be `none` or `gzip`".to_owned()),
        });
        let timeout = otlp(env, "TIMEOUT", "10000", |text| {
            let millis = text.parse().ok().filter(|millis| (1..=600_000).contains(millis));
            millis.map(Duration::from_millis).ok_or_else(|| "must be milliseconds from 1 to 600000".to_owned())
        });
        let authorities = otlp(env, "CERTIFICATE", "", read_authorities);
        let resource = resource(env, service);
        let sampler = sampler(env);
        let waiting_max = env.number("OTEL_BSP_MAX_QUEUE_SIZE", "2048", 1..=1_000_000);
        let batch_max = env.number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "512", 1..=65_536);
        let delay = env.number("OTEL_BSP_SCHEDULE_DELAY", "5000", 1..=600_000);
        protocol?;
        Some(Self::To(Box::new(Config {
            endpoint: endpoint?,
            headers: headers?,
            compression: compression?,
            timeout: timeout?,
            authorities: authorities?,
            resource: resource?,
            sampler: sampler?,
            waiting_max: waiting_max? as usize,
            batch_max: batch_max? as usize,
            delay: Duration::from_millis(delay?.into()),
        })))
    }
}

/// What spans are exported with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Exporter {
    Otlp,
    None,
}

/// Reads a variable of the exporter: the one for traces, or else the one for all signals.
fn otlp<T>(
    env: &mut Environment,
    name: &str,
    default: &str,
    parser: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    let own = format!("OTEL_EXPORTER_OTLP_TRACES_{name}");
    let is_set = env.get::<String>(&own, "").is_some_and(|text| !text.is_empty());
    let name = if is_set { own } else { format!("OTEL_EXPORTER_OTLP_{name}") };
    env.parse(&name, default, parser)
}

/// The URL for traces. `own` is the variable that names it as a whole; the one for all signals names its beginning.
fn endpoint(env: &mut Environment, own: &str) -> Option<Url> {
    if !own.is_empty() {
        return env.parse("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "", parse_endpoint);
    }
    let mut base = env.parse("OTEL_EXPORTER_OTLP_ENDPOINT", "", parse_endpoint)?;
    let path = format!("{}{TRACES_PATH}", base.path().trim_end_matches('/'));
    base.set_path(&path);
    Some(base)
}

/// The message does not repeat the URL, which may hold a key.
fn parse_endpoint(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).ok().filter(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.fragment().is_none()
    });
    url.ok_or_else(|| "must be an http or https URL without user name and fragment".to_owned())
}

/// Pairs such as `name=value,name=value`, with percent-encoded values. The message does not repeat them: they may be
/// secret.
fn parse_pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=')?;
        let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
        let name = name.trim();
        (!name.is_empty()).then(|| (name.to_owned(), value.into_owned()))
    });
    pairs.collect::<Option<Vec<_>>>().ok_or_else(|| {
        "must be pairs such as `name=value`, separated by commas, with percent-encoded values".to_owned()
    })
}

fn parse_headers(text: &str) -> Result<HashMap<String, String>, String> {
    let pairs = parse_pairs(text)?;
    let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    let is_value = |value: &str| value.bytes().all(|byte| matches!(byte, b'\t' | 0x20..=0x7e));
    if pairs.iter().all(|(name, value)| is_name(name) && is_value(value)) {
        Ok(pairs.into_iter().collect())
    } else {
        Err("must have header names of letters, digits, `-`, `_` and `.`, and values of printable ASCII".to_owned())
    }
}

/// Reads the certificates of a PEM file, those of a collector or of receivers; an empty path means none.
///
/// # Errors
/// When the file cannot be read, or there is no certificate in it.
pub fn read_authorities(path: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    if path.is_empty() {
        return Ok(Vec::new());
    }
    let pem = std::fs::read(path).map_err(|error| format!("{path}: {error}"))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = certificates.map_err(|error| format!("{path}: {error}"))?;
    if certificates.is_empty() { Err(format!("{path}: there is no certificate in it")) } else { Ok(certificates) }
}

/// What the collector is told of this process. `OTEL_SERVICE_NAME` comes before a `service.name` among the attributes.
fn resource(env: &mut Environment, service: &str) -> Option<Vec<(String, String)>> {
    let name = env.get::<String>("OTEL_SERVICE_NAME", "");
    let mut resource = env.parse("OTEL_RESOURCE_ATTRIBUTES", "", parse_pairs)?;
    let is_given = |resource: &[(String, String)], name: &str| resource.iter().any(|(known, _)| known == name);
    match name? {
        name if !name.is_empty() => {
            resource.retain(|(known, _)| known != "service.name");
            resource.push(("service.name".to_owned(), name));
        }
        _ if !is_given(&resource, "service.name") => resource.push(("service.name".to_owned(), service.to_owned())),
        _ => {}
    }
    if !is_given(&resource, "service.version") {
        resource.push(("service.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()));
    }
    Some(resource)
}

fn sampler(env: &mut Environment) -> Option<Sampler> {
    let ratio = env.parse("OTEL_TRACES_SAMPLER_ARG", "1", |text| {
        let ratio = text.parse().ok().filter(|ratio: &f64| (0.0..=1.0).contains(ratio));
        ratio.ok_or_else(|| "must be a number from 0 to 1".to_owned())
    });
    let (of_ratio, is_ratio_wrong) = (Sampler::TraceIdRatioBased(ratio.unwrap_or(1.0)), ratio.is_none());
    let parent_based = |root: Sampler| Sampler::ParentBased(Box::new(root));
    let sampler = env.parse("OTEL_TRACES_SAMPLER", "parentbased_always_on", |text| {
        Ok(match text {
            "always_on" => Sampler::AlwaysOn,
            "always_off" => Sampler::AlwaysOff,
            "traceidratio" => of_ratio,
            "parentbased_always_on" => parent_based(Sampler::AlwaysOn),
            "parentbased_always_off" => parent_based(Sampler::AlwaysOff),
            "parentbased_traceidratio" => parent_based(of_ratio),
            _ => {
                return Err(
                    "must be `always_on`, `always_off` or `traceidratio`, or one of these behind `parentbased_`"
                        .to_owned(),
                );
            }
        })
    });
    sampler.filter(|_| !is_ratio_wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The configuration; `None` where traces are off.
    fn read(variables: &[(&str, &str)]) -> Result<Option<Config>, Vec<String>> {
        let variables: HashMap<String, String> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut env = Environment::new(move |name| variables.get(name).cloned());
        let export = Export::read(&mut env, "postrider-test");
        env.finish(export).map(|export| match export {
            Export::Off => None,
            Export::To(config) => Some(*config),
        })
    }

    #[test]
    fn traces_are_on_only_where_an_endpoint_is_named() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
        for off in [
            vec![],
            vec![("OTEL_SERVICE_NAME", "x"), ("OTEL_TRACES_SAMPLER", "nonsense")],
            vec![endpoint, ("OTEL_SDK_DISABLED", "TRUE")],
            vec![endpoint, ("OTEL_TRACES_EXPORTER", "none")],
        ] {
            assert!(read(&off).expect("no mistake").is_none(), "{off:?}");
        }
        assert!(read(&[endpoint, ("OTEL_SDK_DISABLED", "no")]).expect("no mistake").is_some());
    }

    #[test]
    fn the_endpoint_for_traces_is_taken_as_it_is_and_the_general_one_gets_a_path() {
        let (own, general) = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT");
        for (variables, url) in [
            (vec![(general, "http://collector:4318")], "http://collector:4318/v1/traces"),
            (vec![(general, "https://collector/otlp/?k=v")], "https://collector/otlp/v1/traces?k=v"),
            (vec![(own, "http://collector:4318")], "http://collector:4318/"),
            (vec![(own, "http://one/path"), (general, "http://other")], "http://one/path"),
        ] {
            let config = read(&variables).expect("no mistake").expect("traces are on");
            assert_eq!(config.endpoint.as_str(), url);
        }
    }

    #[test]
    fn the_standard_variables_are_read() {
        let config = read(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-lost=1"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "authorization=Basic%20abc%3D, x-scope = a"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "250"),
            ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=eu%2C1,service.name=lost"),
            ("OTEL_SERVICE_NAME", "orders"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
            ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ]);
        let config = config.expect("no mistake").expect("traces are on");
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(config.headers, HashMap::from([pair("authorization", "Basic abc="), pair("x-scope", "a")]));
        assert_eq!(config.timeout, Duration::from_millis(250));
        assert_eq!(config.resource[..2], [pair("deployment.environment.name", "eu,1"), pair("service.name", "orders")]);
        assert_eq!(format!("{:?}", config.sampler), "ParentBased(TraceIdRatioBased(0.25))");
        assert_eq!((config.waiting_max, config.batch_max, config.delay), (2048, 512, Duration::from_millis(50)));
        assert!(!format!("{config:?}").contains("abc="), "{config:?}");
    }

    #[test]
    fn every_mistake_is_reported_and_no_secret() {
        let mistakes = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:hunter2@collector"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "hunter2"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "zip"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.pem"),
            ("OTEL_RESOURCE_ATTRIBUTES", "=x"),
            ("OTEL_TRACES_SAMPLER", "sometimes"),
            ("OTEL_TRACES_SAMPLER_ARG", "2"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ];
        let problems = read(&mistakes).expect_err("ten mistakes");
        assert_eq!(problems.len(), mistakes.len(), "{problems:?}");
        assert!(!problems.join(" ").contains("hunter2"), "{problems:?}");
        let exporter = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector"), ("OTEL_TRACES_EXPORTER", "console")];
        assert_eq!(read(&exporter).expect_err("a mistake"), ["OTEL_TRACES_EXPORTER: must be `otlp` or `none`"]);
    }
}
