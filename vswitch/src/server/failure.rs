//! What a client is told when its request failed: a code for programs, a sentence for people.

use penstock_api::message::{ErrorCode, Response};
use std::fmt;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    pub(crate) code: ErrorCode,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(code: ErrorCode, message: impl fmt::Display) -> Self {
        Failure { code, message: message.to_string() }
    }

    pub(crate) fn invalid(message: impl fmt::Display) -> Self {
        Failure::new(ErrorCode::Invalid, message)
    }

    pub(crate) fn conflict(message: impl fmt::Display) -> Self {
        Failure::new(ErrorCode::Conflict, message)
    }
}

impl From<Failure> for Response {
    fn from(failure: Failure) -> Response {
        Response::Error { code: failure.code, message: failure.message }
    }
}
