//! The files that hold the environment of api and worker for development, read as the simplest programs read them.

use std::{collections::HashMap, fs};

use api::config::Config as ApiConfig;
use dev::up::variables;
use worker::config::Config as WorkerConfig;

use crate::world::lookup;

/// Asserts that the configurations of api and worker are valid with these variables.
#[track_caller]
fn is_valid(env: &HashMap<String, String>) {
    assert_eq!(ApiConfig::from(lookup(env)).err(), None);
    assert_eq!(WorkerConfig::from(lookup(env)).err(), None);
}

fn read(name: &str) -> String {
    fs::read_to_string(dev::workspace().join(name)).unwrap()
}

fn example() -> HashMap<String, String> {
    variables(&read(".env")).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn the_example_environment_means_the_same_to_every_reader() {
    let env = example();
    is_valid(&env);
    for (name, value) in env {
        // A shell, dotenvy, Docker Compose and `docker run --env-file` read these characters differently.
        let strange = value.find(|character: char| " \t\"'#$`\\".contains(character));
        assert_eq!(strange, None, "{name}={value}");
    }
}

#[test]
fn the_containers_of_the_example_are_configured_rightly() {
    let compose = read("docker-compose.yml");
    assert!(compose.contains("\n  env_file: .env\n"), "the values come from .env");
    let (_, own) = compose.split_once("\nx-environment: &environment\n").unwrap();
    let own = own.lines().take_while(|line| line.starts_with("  ")).filter(|line| !line.trim_start().starts_with('#'));
    let mut env = example();
    let before = env.len();
    for line in own {
        let (name, value) = line.trim().split_once(": ").unwrap();
        assert!(!value.contains(['"', '\'']), "{line}");
        env.insert(name.to_owned(), value.to_owned());
    }
    assert_eq!(env.len(), before, "what differs among containers has a value of its own in .env");
    is_valid(&env);
}
