//! Why a request with an idempotency key, or without one, is not answered by the handler.

use std::fmt;

use crate::outcome::Executed;

/// What an [`IdempotencyLayer`](crate::idempotency::IdempotencyLayer) refuses, and why. As a response, by
/// [`answer`](crate::http::handle_rejections), each is a problem (RFC 9457) whose `type` is the address of its variant on this page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyProblem {
    /// 400. The operation requires a key, and there is none. Send one, the same with every repetition.
    Missing,
    /// 400. The key cannot be read, or is too short or too long. Correct it: nothing was done.
    Malformed(KeyFault),
    /// 403. It cannot be told whose key this is.
    NoTenant,
    /// 400. The request's body broke off. Send it again: nothing was done.
    Incomplete,
    /// 408. The body of the request took longer than a time limit in front of this service allows. Send it again: nothing was done.
    TooSlow,
    /// 413. The body of the request is larger than this many bytes or, if `None`, than a limit further out. Nothing was done.
    TooLarge(Option<usize>),
    /// 500, of a handler whose own call was refused. It was the second call in a scope of [`CallOptions`](crate::CallOptions)
    /// that needs the idempotency key of the scope. It was not sent. Give each call a scope of its own, or set the header
    /// yourself to repeat an operation.
    SecondCall,
    /// 422. The key was used for another request. Nothing was done: a new operation needs a new key.
    Reused,
    /// 409, with `Retry-After`. The operation is under way. Send the same request again later, for its answer.
    InProgress,
    /// 409. The operation is done, but its answer was not kept: it was too large. It will not be done again.
    NotStored,
    /// 409. Whether the operation was done is not known: it was given up half-way. It will not be done again under this key.
    Unknown,
    /// 500. The handler failed, and it is not known how far it came. It is not done again under this key, but by a policy that frees it.
    Failed,
    /// 503, with `Retry-After`. The handler panicked, or its response broke off, but nothing has happened: its transaction was rolled
    /// back, or it has said so. Send the same request again: the key is free.
    NotExecuted,
    /// 503, with `Retry-After`. The service has reached its limit of operations in progress. Send the same request again later:
    /// nothing was done by this request.
    TooManyOperations,
    /// 503. What is known of this key cannot be looked up. Nothing was done.
    StoreUnavailable,
}

impl KeyProblem {
    /// The problem as a word, its status and title, and whether the operation may have been executed.
    const fn facts(&self) -> (&'static str, u16, &'static str, Executed) {
        use Executed::{Maybe, No};
        match self {
            Self::Missing => ("key_missing", 400, "Idempotency key missing", No),
            Self::Malformed(_) => ("key_malformed", 400, "Idempotency key malformed", No),
            Self::NoTenant => (
                "key_no_tenant",
                403,
                "Owner of the idempotency key unknown",
                No,
            ),
            Self::Incomplete => ("key_body_incomplete", 400, "Request incomplete", No),
            Self::TooSlow => ("key_body_too_slow", 408, "Request too slow", No),
            Self::TooLarge(_) => ("key_body_too_large", 413, "Request too large", No),
            Self::SecondCall => (
                "key_second_call",
                500,
                "Idempotency key used by another call",
                No,
            ),
            Self::Reused => (
                "key_reused",
                422,
                "Idempotency key used for another request",
                No,
            ),
            Self::InProgress => ("key_in_progress", 409, "Operation in progress", Maybe),
            Self::NotStored => ("key_response_not_stored", 409, "Answer not kept", Maybe),
            Self::Unknown => ("key_outcome_unknown", 409, "Outcome unknown", Maybe),
            Self::Failed => ("key_failed", 500, "Operation failed", Maybe),
            Self::NotExecuted => ("key_not_executed", 503, "Operation not executed", No),
            Self::TooManyOperations => (
                "key_too_many_operations",
                503,
                "Too many operations in progress",
                No,
            ),
            Self::StoreUnavailable => (
                "key_store_unavailable",
                503,
                "Idempotency store unavailable",
                No,
            ),
        }
    }

    /// The problem as a word.
    pub const fn as_str(&self) -> &'static str {
        self.facts().0
    }

    /// The `type` of the problem: the address of its variant's documentation.
    pub fn uri(&self) -> String {
        let name = format!("{self:?}");
        let name = name.split('(').next().unwrap_or_default();
        format!("https://docs.rs/buttress/latest/buttress/enum.KeyProblem.html#variant.{name}")
    }

    /// The status of its answer (draft-ietf-httpapi-idempotency-key-header §2.7, where it says anything).
    pub const fn status(&self) -> u16 {
        self.facts().1
    }

    /// The problem in a few words, always the same.
    pub const fn title(&self) -> &'static str {
        self.facts().2
    }

    /// Whether the operation that the key stands for may have been executed.
    pub const fn executed(&self) -> Executed {
        self.facts().3
    }
}

impl fmt::Display for KeyProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "an idempotency key is required",
            Self::Malformed(fault) => return fault.fmt(f),
            Self::NoTenant => "it cannot be told whose idempotency key this is",
            Self::Incomplete => "the body of the request broke off",
            Self::TooSlow => "the body of the request took longer than a time limit in front of this service allows",
            Self::TooLarge(Some(max)) => {
                return write!(f, "the body of the request is larger than {max} bytes");
            }
            Self::TooLarge(None) => {
                "the body of the request is larger than a limit in front of this service"
            }
            Self::SecondCall => {
                "another call in this scope has used the idempotency key: \
                 give each call a scope of its own, or set the header yourself to repeat an operation"
            }
            Self::Reused => "this idempotency key was used for another request",
            Self::InProgress => "the operation with this idempotency key is under way",
            Self::NotStored => "the operation is done, but its answer was too large to be kept",
            Self::Unknown => "it is not known whether the operation was done",
            Self::Failed => "the handler failed, and it is not known how far it came",
            Self::NotExecuted => "the handler failed, and nothing has happened",
            Self::TooManyOperations => "too many operations are in progress",
            Self::StoreUnavailable => "what is known of this idempotency key cannot be looked up",
        })
    }
}

/// What is wrong with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyFault {
    /// The header stands there more than once.
    Repeated,
    /// It has bytes that are not printable ASCII.
    NotAscii,
    /// It must stand in double quotes.
    NotQuoted,
    /// It is not one string in double quotes, as RFC 9651 has it.
    NotOneString,
    /// It has fewer characters than this.
    TooShort(u8),
    /// It has more than 255 characters.
    TooLong,
}

impl fmt::Display for KeyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooShort(shortest) => {
                return write!(
                    f,
                    "the idempotency key has fewer than {shortest} characters"
                );
            }
            Self::Repeated => "the idempotency key stands there more than once",
            Self::NotAscii => "the idempotency key is not printable ASCII",
            Self::NotQuoted => "the idempotency key must stand in double quotes (RFC 9651, string)",
            Self::NotOneString => {
                "the idempotency key is not one string in double quotes (RFC 9651)"
            }
            Self::TooLong => "the idempotency key is longer than 255 characters",
        })
    }
}
