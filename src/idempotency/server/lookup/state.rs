//! The state of an operation, as a look-up finds it.

use std::fmt;
use std::str::FromStr;

/// The state of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OperationState {
    /// A handler is at work: its lease is in force.
    Running,
    /// The last run stopped without a result. The next request runs the operation again, or is refused as `Unknown`, by
    /// [`AfterCrash`](crate::idempotency::AfterCrash).
    Stopped,
    /// Done: the response is stored, and retries get it.
    Stored,
    /// Done, but without a stored response: it was too large. Retries get 409.
    NotStored,
    /// Whether the operation was executed is unknown. Retries get 409.
    Unknown,
    /// The handler failed, and may have acted before. Retries get 500.
    Failed,
    /// This version cannot read the result. Retries get 503.
    Unreadable,
}

impl OperationState {
    /// All states.
    pub const ALL: [Self; 7] = [
        Self::Running,
        Self::Stopped,
        Self::Stored,
        Self::NotStored,
        Self::Unknown,
        Self::Failed,
        Self::Unreadable,
    ];

    /// The name of the state, which [`FromStr`] reads back.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Stored => "stored",
            Self::NotStored => "not_stored",
            Self::Unknown => "unknown",
            Self::Failed => "failed",
            Self::Unreadable => "unreadable",
        }
    }
}

impl fmt::Display for OperationState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for OperationState {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|state| state.as_str() == word);
        found.ok_or_else(|| {
            let states = Self::ALL.map(Self::as_str).join(", ");
            format!("`{word}` is not a state of an operation; use one of {states}")
        })
    }
}
