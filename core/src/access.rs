//! Who may do what: API keys, portal links and their tenants, sessions of the dashboard, the rate limits of ingest, and
//! the audit log of changes.

pub mod api_key;
pub mod audit;
pub mod ingest_limit;
pub mod portal_link;
pub mod session;
pub mod tenancy;
