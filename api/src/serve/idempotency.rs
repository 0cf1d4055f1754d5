//! `Idempotency-Key`: turns the header of a request that creates something into what the core asks for, and turns a
//! stored answer back into an answer.

use poem_openapi::types::ParseFromJSON;
use postrider_core::{
    Error,
    accept::KEY_FIELD,
    event::idempotency::{IdempotentRequest, KeyNamespace, fingerprint, key},
};
use serde_json::Value;

use crate::serve::problem::ApiError;

/// The header that brings the key.
pub const HEADER: &str = "Idempotency-Key";

/// The core's name for the key, and the header that brings it: a broken rule is reported by the header's name.
pub const KEY_NAME: (&str, &str) = (KEY_FIELD, HEADER);

/// For how long an idempotency key is remembered.
#[derive(Clone, Copy, Debug)]
pub struct KeyTtl {
    /// The time in seconds.
    pub seconds: u32,
}

impl KeyTtl {
    /// The idempotent request that the core carries out once; `None` where the request has no key. `route` and `body`
    /// make the fingerprint: the same key with another fingerprint is a conflict.
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

/// Parses an answer that was stored with a key.
///
/// # Errors
/// Internal, where the stored bytes are not such an answer.
pub fn stored_answer<T: ParseFromJSON>(answer: &[u8]) -> Result<T, ApiError> {
    let value: Value = serde_json::from_slice(answer).map_err(Error::internal)?;
    let parsed = T::parse_from_json(Some(value)).map_err(|error| Error::internal(error.into_message()))?;
    Ok(parsed)
}
