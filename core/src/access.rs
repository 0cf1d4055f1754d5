//! Who may do what: API keys and their tenants, the rate limits of the way in, and the audit log of what they changed.

pub mod api_key;
pub mod audit;
pub mod ingest_limit;
pub mod tenancy;
