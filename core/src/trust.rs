//! What keeps strangers out and secrets in: signatures in both directions, secrets sealed at rest, and the policy that
//! decides which addresses a delivery may be sent to.

pub mod dns;
pub mod inbound_signature;
pub mod ingest_auth;
pub mod rekey;
pub mod seal;
pub mod signature;
pub mod signing_secret;
pub mod target_policy;
pub mod target_url;
