//! Request bodies: read up to a limit, and parsed by serde so that a mistake is reported with the path of its field.
//! The type that is parsed also describes the body in the `OpenAPI` document.

use std::marker::PhantomData;

use bytes::Bytes;
use poem::{
    Request, RequestBody,
    http::{HeaderValue, header::CONTENT_ENCODING},
};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    registry::{MetaMediaType, MetaRequest, Registry},
    types::{MaybeUndefined, Type},
};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, IgnoredAny, MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::{Value, error::Category};

use crate::serve::{
    body_room::{Caller, read},
    problem::ApiError,
};

/// A JSON body that brings settings has at most this many bytes.
pub const JSON_BYTES_MAX: usize = 256 * 1024;
/// A JSON body that brings one payload may have this many bytes beyond the payload.
const EVENT_BYTES_BESIDES: usize = 64 * 1024;
/// A JSON body that brings many payloads has at most this many bytes, or as many as one payload of the largest size
/// needs.
pub const BATCH_BYTES_MAX: usize = 5 << 20;

/// What a body brings. It decides how many bytes the body may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Brings {
    /// Settings, such as those of a subscription.
    Settings,
    /// One event with its payload.
    Payload,
    /// Many events with their payloads.
    Payloads,
}

/// A type that is parsed from a JSON body.
pub trait Input: Type + DeserializeOwned {
    /// What the body brings, which decides how many bytes it may have.
    const BRINGS: Brings = Brings::Settings;
    /// Whether an empty body means the same as `{}`.
    const MAY_BE_EMPTY: bool = false;
}

/// An event's payload has at most this many bytes. The routes carry this value of the configuration to the bodies.
#[derive(Clone, Copy, Debug)]
pub struct PayloadBytesMax(pub usize);

impl Brings {
    fn bytes_max(self, request: &Request) -> usize {
        let PayloadBytesMax(payload) = *request.data().expect("the routes carry the limit");
        match self {
            Self::Settings => JSON_BYTES_MAX,
            Self::Payload => payload + EVENT_BYTES_BESIDES,
            Self::Payloads => BATCH_BYTES_MAX.max(payload + EVENT_BYTES_BESIDES),
        }
    }
}

/// A JSON body that was parsed as a `T`. The content type of the request is ignored: whatever parses as JSON is JSON.
#[derive(Debug)]
pub struct JsonBody<T> {
    /// The parsed value.
    pub value: T,
    /// The bytes as they arrived, which payloads point into and which an idempotency key is compared by.
    pub bytes: Bytes,
}

/// A JSON merge patch (RFC 7396). The `OpenAPI` document describes it as a `T`, whose fields are all optional.
#[derive(Debug)]
pub struct MergePatch<T>(pub Value, PhantomData<T>);

/// Turns parsed JSON into a `T`.
///
/// # Errors
/// Unprocessable, with the path of the field that does not fit.
pub fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, ApiError> {
    serde_path_to_error::deserialize(value).map_err(unfit)
}

/// Turns a body into a `T`. The error says why the body is not JSON, or names the field that does not fit.
fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let not_json = |error: &serde_json::Error| ApiError::bad_request(format!("the body is not JSON: {error}"));
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        // Serde would take an array for the fields of a struct in their order.
        serde_json::from_slice::<IgnoredAny>(bytes).map_err(|error| not_json(&error))?;
        return Err(ApiError::invalid("(body)", "must be a JSON object"));
    }
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| match error.inner().classify() {
        Category::Data => unfit(error),
        Category::Io | Category::Syntax | Category::Eof => match serde_json::from_slice(bytes) {
            // Serde takes any other value in the place of an enum's word for an error of syntax, and so also a number
            // that is too large. It tells more of a value that was parsed before.
            Ok(value) => from_value::<T>(value).err().unwrap_or_else(|| unfit(error)),
            Err(_) => not_json(error.inner()),
        },
    })?;
    json.end().map_err(|error| not_json(&error))?;
    Ok(value)
}

/// Reads a `T` only from a JSON object, because serde would take an array for the fields of a struct in their order.
struct Named<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = T;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(fields))
            }
        }
        deserializer.deserialize_map(Fields(PhantomData)).map(Named)
    }
}

/// Reads a field that must be an object; for `#[serde(deserialize_with)]`.
pub fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Named::deserialize(deserializer).map(|Named(value)| value)
}

/// Reads a field that must be an object or null; for `#[serde(deserialize_with)]`.
pub fn maybe_object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Option::deserialize(deserializer).map(|value| value.map(|Named(value)| value))
}

/// Reads a field that must be an object or null, where null says something else than an absent field; for
/// `#[serde(deserialize_with)]`.
pub fn object_or_null<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<MaybeUndefined<T>, D::Error> {
    maybe_object(deserializer).map(MaybeUndefined::from_opt_null)
}

/// Reads a field that must be a list of objects; for `#[serde(deserialize_with)]`.
pub fn objects<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let values = Vec::deserialize(deserializer)?;
    Ok(values.into_iter().map(|Named(value)| value).collect())
}

fn unfit(error: serde_path_to_error::Error<serde_json::Error>) -> ApiError {
    let message = error.inner().to_string();
    // Serde appends the line and column, which help less than the path of the field does.
    let message = message.split(" at line ").next().unwrap_or(&message);
    let message = &without_value(message);
    ApiError::invalid(&field_of(&error.path().to_string(), message), message)
}

/// A message of serde's without the text that serde quotes, because that text may be a secret in the wrong field.
fn without_value(message: &str) -> String {
    let cut = message.split_once(": string \"").zip(message.rsplit_once("\", expected"));
    cut.map_or_else(|| message.to_owned(), |((before, _), (_, after))| format!("{before}: string, expected{after}"))
}

/// The full path of the field that a message is about. For a missing or an unknown field, serde gives the path of the
/// parent and names the field itself only in the message.
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

async fn take(request: &Request, body: &mut RequestBody, bytes_max: usize) -> Result<Bytes, ApiError> {
    let encoding = request.headers().get(CONTENT_ENCODING).map(HeaderValue::as_bytes).unwrap_or_default();
    if !encoding.is_empty() && !encoding.eq_ignore_ascii_case(b"identity") {
        return Err(ApiError::packed());
    }
    let body = body.take().map_err(|_| ApiError::bad_request("there is no body"))?;
    read(request, body, bytes_max, Caller::Key).await
}

fn request_meta<T: Type>(required: bool) -> MetaRequest {
    let content = vec![MetaMediaType { content_type: "application/json", schema: T::schema_ref() }];
    MetaRequest { description: None, content, required }
}

impl<'a, T: Input> ApiExtractor<'a> for JsonBody<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        Some(request_meta::<T>(!T::MAY_BE_EMPTY))
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let bytes = take(request, body, T::BRINGS.bytes_max(request)).await?;
        let said: &[u8] = if T::MAY_BE_EMPTY && bytes.is_empty() { b"{}" } else { &bytes };
        Ok(Self { value: from_bytes(said)?, bytes })
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
        Some(request_meta::<T>(true))
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        Ok(Self(from_bytes(&take(request, body, JSON_BYTES_MAX).await?)?, PhantomData))
    }
}

impl<T> MergePatch<T> {
    /// Returns `target` with the patch applied.
    #[must_use]
    pub fn apply(&self, mut target: Value) -> Value {
        merge(&mut target, self.0.clone());
        target
    }

    /// Refuses a field that `I` does not know and that the patch sets to null. Applying the patch would drop such a
    /// field in silence; an unknown field with a value is refused when the result is parsed.
    ///
    /// # Errors
    /// Unprocessable, with the name of the field.
    pub fn check_fields<I: DeserializeOwned>(&self) -> Result<(), ApiError> {
        let nulls = self.0.as_object().into_iter().flatten().filter(|(_, value)| value.is_null());
        for (name, _) in nulls {
            let probe = Value::Object(serde_json::Map::from_iter([(name.clone(), Value::Null)]));
            let told = serde_json::from_value::<I>(probe).err().map(|error| error.to_string()).unwrap_or_default();
            if told.starts_with("unknown field") {
                return Err(ApiError::invalid(name, told));
            }
        }
        Ok(())
    }

    /// The value that the patch has for a field; `None` where the field is absent from the patch.
    #[must_use]
    pub fn says(&self, field: &str) -> Option<&Value> {
        self.0.get(field)
    }
}

/// Applies a patch by RFC 7396 §2: null removes a member, an object is merged, and any other value replaces.
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

    /// The test cases of RFC 7396, appendix A.
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
    fn what_is_json_and_does_not_fit_is_told_by_its_field() {
        #[derive(Debug, PartialEq, Deserialize)]
        enum Word {
            Yes,
        }
        #[derive(Debug, Deserialize)]
        struct Body {
            word: Word,
            factor: f64,
        }
        for (text, status) in [
            (r#"{"word":true,"factor":1}"#, 422),
            (r#"{"word":"No","factor":1}"#, 422),
            (r#"{"word":"Yes","factor":1e400}"#, 422),
            (r#"{"word":true,"factor":}"#, 400),
            (r#"{"word":true,"factor":1} x"#, 400),
            (r#"{"word":true"#, 400),
        ] {
            let refused = from_bytes::<Body>(text.as_bytes()).expect_err(text);
            assert_eq!(matches!(refused, ApiError::Unprocessable(_)), status == 422, "{text}: {refused:?}");
        }
        let body = from_bytes::<Body>(br#"{"word":"Yes","factor":1.5}"#).expect("it fits");
        assert!(body.word == Word::Yes && body.factor > 1.0);
    }

    #[test]
    fn a_text_that_was_not_expected_is_not_repeated() {
        for (message, told) in [
            (r#"invalid type: string "hunter2", expected a sequence"#, "invalid type: string, expected a sequence"),
            (r#"invalid type: string "a", expected b", expected u32"#, "invalid type: string, expected u32"),
            ("invalid type: integer `1`, expected a string", "invalid type: integer `1`, expected a string"),
        ] {
            assert_eq!(without_value(message), told);
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
