//! `Idempotency-Key`: the header of every request that creates something, turned into what the core asks for; and
//! answers that were stored, turned into answers again.

use poem_openapi::types::ParseFromJSON;
use postrider_core::{
    Error,
    event::idempotency::{IdempotentRequest, KeyNamespace, fingerprint, key},
};
use serde_json::Value;

use crate::serve::problem::ApiError;

/// The name of the header.
pub const HEADER: &str = "Idempotency-Key";

/// How long keys are remembered.
#[derive(Clone, Copy, Debug)]
pub struct KeyTtl {
    /// Seconds.
    pub seconds: u32,
}

impl KeyTtl {
    /// A creation that is to happen once, if a key came with it. `route` and `body` are what is asked.
    ///
    /// # Errors
    /// Unprocessable where the key is not valid.
    pub fn request(
        self,
        header: Option<&str>,
        tenant_id: &str,
        route: &str,
        body: &[u8],
    ) -> Result<Option<IdempotentRequest>, ApiError> {
        let Some(text) = header else { return Ok(None) };
        let key = key(KeyNamespace::Header, text).map_err(|why| ApiError::invalid(HEADER, why))?;
        let fingerprint = fingerprint([route.as_bytes(), body]);
        Ok(Some(IdempotentRequest { tenant_id: tenant_id.to_owned(), key, fingerprint, ttl_seconds: self.seconds }))
    }
}

/// The answer that was kept.
///
/// # Errors
/// Internal, where it is not one.
pub fn stored_answer<T: ParseFromJSON>(answer: &[u8]) -> Result<T, ApiError> {
    let value: Value = serde_json::from_slice(answer).map_err(Error::internal)?;
    let parsed = T::parse_from_json(Some(value)).map_err(|error| Error::internal(error.into_message()))?;
    Ok(parsed)
}
