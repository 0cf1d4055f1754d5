//! What `GET` and `HEAD /webhooks/ingest/{subscription_id}` answer to providers when the URL is registered with them.
//! The rules for that stand in [`postrider_core::trust::inbound_challenge`].

use poem_openapi::{
    ApiResponse, Object, ResponseContent,
    payload::{Json, PlainText},
};
use postrider_core::trust::inbound_challenge::Answer;

use crate::serve::problem::ApiError;

/// The answer to a provider's question by GET.
#[derive(Debug, ApiResponse)]
pub enum ChallengeResponse {
    /// The provider's challenge, as text for `meta` and `dropbox`, and as JSON for `okta` and `x`. Nothing is stored.
    #[oai(status = 200)]
    Answered(ChallengeContent),
}

/// The two forms of an answer.
#[derive(Debug, ResponseContent)]
pub enum ChallengeContent {
    /// The challenge itself.
    Text(PlainText<String>),
    /// The challenge, or what is made of it, in an object.
    Object(Json<ChallengeAnswer>),
}

/// The answer to a provider that wants JSON.
#[derive(Debug, Default, Object)]
#[oai(skip_serializing_if_is_none)]
pub struct ChallengeAnswer {
    /// The challenge that `okta` has sent.
    verification: Option<String>,
    /// `sha256=` and the base64 HMAC-SHA256 of the token that `x` has sent, made with the first of the secrets.
    response_token: Option<String>,
}

/// The answer to a provider's question by HEAD.
#[derive(Debug, ApiResponse)]
pub enum HeadResponse {
    /// There is such an ingest, and its provider asks by HEAD. Nothing is stored.
    #[oai(status = 200)]
    Exists,
}

impl From<Answer> for ChallengeResponse {
    fn from(answer: Answer) -> Self {
        Self::Answered(match answer {
            Answer::Echo(text) => ChallengeContent::Text(PlainText(text)),
            Answer::Verification(text) => {
                ChallengeContent::Object(Json(ChallengeAnswer { verification: Some(text), response_token: None }))
            }
            Answer::ResponseToken(text) => {
                ChallengeContent::Object(Json(ChallengeAnswer { verification: None, response_token: Some(text) }))
            }
        })
    }
}

/// The same answer whether there is no such subscription, its provider does not ask so, or the question is wrong:
/// whoever asks needs no key.
#[must_use]
pub fn unanswered() -> ApiError {
    ApiError::not_found("challenge, or none that this URL answers")
}
