//! Keeping strangers out and secrets in: signatures in both directions, the sealing of stored secrets, and the policy
//! for the addresses to which deliveries may be sent.

pub mod dns;
pub mod inbound_challenge;
pub mod inbound_signature;
pub mod ingest_auth;
pub mod provider;
pub mod rekey;
pub mod seal;
pub(crate) mod secret_text;
pub mod signature;
pub mod signing_secret;
pub mod target_policy;
pub mod target_url;
