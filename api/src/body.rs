//! Request bodies: read up to a limit, parsed by serde so that a mistake is told with the path of the field, and
//! described in the `OpenAPI` document by the same type.

use std::marker::PhantomData;

use poem::{Body, Request, RequestBody, error::ReadBodyError};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    registry::{MetaMediaType, MetaRequest, Registry},
    types::Type,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::problem::ApiError;

/// Bytes of a JSON body of the management API, at most.
pub const JSON_BYTES_MAX: usize = 256 * 1024;

/// A JSON body as a `T`. Its media type is not looked at: whatever parses is JSON.
#[derive(Debug)]
pub struct JsonBody<T>(pub T);

/// A JSON merge patch (RFC 7396), described as a `T` whose fields are all optional.
#[derive(Debug)]
pub struct MergePatch<T>(pub Value, PhantomData<T>);

/// The bytes of a body, of any type and at most `bytes_max` long.
///
/// # Errors
/// Too large, or broken off.
pub async fn read(body: Body, bytes_max: usize) -> Result<bytes::Bytes, ApiError> {
    body.into_bytes_limit(bytes_max).await.map_err(|error| match error {
        ReadBodyError::PayloadTooLarge => ApiError::payload_too_large(bytes_max),
        _ => ApiError::bad_request("the body broke off"),
    })
}

/// Turns parsed JSON into a `T`, or names the field that does not fit.
///
/// # Errors
/// Unprocessable.
pub fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, ApiError> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let message = error.inner().to_string();
        let field = field_of(&error.path().to_string(), &message);
        ApiError::invalid(&field, message)
    })
}

/// The path of the field that is meant: for a field that is missing or unknown, serde names its parent and tells the
/// field's own name in the message only.
fn field_of(path: &str, message: &str) -> String {
    let parent = if path == "." { "" } else { path };
    let named = ["missing field `", "unknown field `"].iter().find_map(|start| message.strip_prefix(start));
    match named.and_then(|rest| rest.split('`').next()) {
        Some(name) if parent.is_empty() => name.to_owned(),
        Some(name) if parent.ends_with(name) => parent.to_owned(),
        Some(name) => format!("{parent}.{name}"),
        None if parent.is_empty() => "(body)".to_owned(),
        None => parent.to_owned(),
    }
}

async fn parse(body: &mut RequestBody) -> Result<Value, ApiError> {
    let body = body.take().map_err(|_| ApiError::bad_request("there is no body"))?;
    let bytes = read(body, JSON_BYTES_MAX).await?;
    serde_json::from_slice(&bytes).map_err(|error| ApiError::bad_request(format!("the body is not JSON: {error}")))
}

fn request_meta<T: Type>(content_type: &'static str) -> MetaRequest {
    let content = vec![MetaMediaType { content_type, schema: T::schema_ref() }];
    MetaRequest { description: None, content, required: true }
}

impl<'a, T: Type + DeserializeOwned> ApiExtractor<'a> for JsonBody<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        Some(request_meta::<T>("application/json"))
    }

    async fn from_request(_: &'a Request, body: &mut RequestBody, _: ExtractParamOptions<()>) -> poem::Result<Self> {
        Ok(Self(from_value(parse(body).await?)?))
    }
}

impl<'a, T: Type> ApiExtractor<'a> for MergePatch<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        Some(request_meta::<T>("application/json"))
    }

    async fn from_request(_: &'a Request, body: &mut RequestBody, _: ExtractParamOptions<()>) -> poem::Result<Self> {
        Ok(Self(parse(body).await?, PhantomData))
    }
}

impl<T> MergePatch<T> {
    /// Applies the patch.
    #[must_use]
    pub fn apply(&self, mut target: Value) -> Value {
        merge(&mut target, self.0.clone());
        target
    }

    /// Whether it says anything of this field.
    #[must_use]
    pub fn touches(&self, field: &str) -> bool {
        self.0.get(field).is_some()
    }
}

/// RFC 7396 §2: null removes, an object merges, anything else replaces.
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let fields = target.as_object_mut().expect("just made sure");
    for (name, value) in patch {
        if value.is_null() {
            fields.remove(&name);
        } else {
            merge(fields.entry(name).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The examples of RFC 7396, appendix A.
    #[test]
    fn merge_patch() {
        let cases = [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ];
        for (target, patch, expected) in cases {
            assert_eq!(
                MergePatch::<()>(patch.clone(), PhantomData).apply(target.clone()),
                expected,
                "{target} {patch}"
            );
        }
    }

    #[test]
    fn the_field_is_named() {
        let cases = [
            (".", "missing field `target_url`", "target_url"),
            ("colour", "unknown field `colour`, expected one of", "colour"),
            ("retry_policy.colour", "unknown field `colour`, expected one of", "retry_policy.colour"),
            ("retry_policy", "missing field `factor`", "retry_policy.factor"),
            ("event_types[1]", "invalid type: integer `1`, expected a string", "event_types[1]"),
            (".", "invalid type: sequence, expected struct", "(body)"),
        ];
        for (path, message, field) in cases {
            assert_eq!(field_of(path, message), field);
        }
    }
}
