//! Errors as the CNI specification wants them: a code for the runtime, a line for people, and the remedy.

use penstock_net::NetError;
use serde_json::{Value, json};

/// Codes below 100 are the specification's, the others ours.
pub mod code {
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// The message holds the key and its value.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    pub const INVALID_ENVIRONMENT: u32 = 4;
    pub const IO: u32 = 5;
    pub const DECODE: u32 = 6;
    pub const INVALID_CONFIG: u32 = 7;
    pub const TRY_AGAIN: u32 = 11;
    /// The switch refused, or answered something that makes no sense.
    pub const SWITCH: u32 = 100;
    /// The interface, its name or its address is taken.
    pub const CONFLICT: u32 = 101;
    /// No address is left.
    pub const EXHAUSTED: u32 = 102;
    /// A file of ours does not read as we wrote it.
    pub const CORRUPT: u32 = 103;
    /// A `CHECK` found something that is not as it was made.
    pub const NOT_AS_MADE: u32 = 104;
    /// The kernel refused.
    pub const KERNEL: u32 = 105;
    pub const DEFECT: u32 = 999;
}

/// A failed command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{msg}")]
pub struct CniError {
    /// One of [`code`].
    pub code: u32,
    /// One line: what, and why.
    pub msg: String,
    /// What to do about it; may be empty.
    pub details: String,
}

impl CniError {
    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        CniError { code, msg: msg.into(), details: String::new() }
    }

    pub fn environment(msg: impl Into<String>) -> Self {
        CniError::new(code::INVALID_ENVIRONMENT, msg)
    }

    pub fn config(msg: impl Into<String>) -> Self {
        CniError::new(code::INVALID_CONFIG, msg)
    }

    pub fn io(msg: impl Into<String>) -> Self {
        CniError::new(code::IO, msg)
    }

    #[must_use]
    pub fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// What goes to stdout. A message stays one line whatever it quotes.
    pub fn to_json(&self, cni_version: &str) -> Value {
        let mut error = json!({
            "cniVersion": cni_version,
            "code": self.code,
            "msg": self.msg.replace(['\n', '\r'], " "),
        });
        if !self.details.is_empty() {
            error["details"] = Value::from(self.details.as_str());
        }
        error
    }
}

impl From<NetError> for CniError {
    fn from(error: NetError) -> Self {
        let details = match error.is_permission() {
            true => "the plugin needs root, or CAP_NET_ADMIN and CAP_SYS_ADMIN",
            false => "",
        };
        CniError::new(code::KERNEL, error.to_string()).with_details(details)
    }
}
