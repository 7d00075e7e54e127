//! Why a request with or without an idempotency key is rejected.

use std::fmt;

use crate::executed::Executed;

/// Why an [`IdempotencyLayer`](crate::idempotency::IdempotencyLayer) rejects a request.
///
/// [`handle_rejections`](crate::http::handle_rejections) turns each variant into a problem response (RFC 9457). The `type` of the
/// problem is the address of the variant on this page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyProblem {
    /// 400. The operation requires a key, and the request has none. Send a key, and the same key with every retry.
    Missing,
    /// 400. The key is malformed, too short or too long. Nothing was executed. Correct the key.
    Malformed(KeyFault),
    /// 403. The owner of the key cannot be determined.
    NoTenant,
    /// 400. The request's body ended early. Nothing was executed. Send the request again.
    Incomplete,
    /// 408. The body of the request exceeded a time limit in front of this service. Nothing was executed. Send the request again.
    TooSlow,
    /// 413. The body of the request exceeds this many bytes or, if `None`, the limit of an outer layer. Nothing was executed.
    TooLarge(Option<usize>),
    /// 500, from a handler whose own call was rejected. It was the second call that needs the idempotency key of one
    /// [`CallOptions`](crate::CallOptions) scope. It was not sent. Use a separate scope for each call, or set the header to retry an
    /// operation yourself.
    SecondCall,
    /// 422. The key was used for another request. This request was not executed. Use a new key for a new operation.
    Reused,
    /// 409, with `Retry-After`. The operation is in progress. Send the same request again later to get its response.
    InProgress,
    /// 409. The operation was executed, but its response was too large to store. It is not executed again.
    NotStored,
    /// 409. The operation was interrupted, and it is unknown whether it was executed. It is not executed again for this key.
    Unknown,
    /// 500. The handler failed partway. The operation is not executed again for this key unless the storage policy releases it.
    Failed,
    /// 503, with `Retry-After`. The handler panicked or its response ended early, and the operation had no effect: its transaction was
    /// rolled back, or the handler reported it. Send the same request again; the key is free.
    NotExecuted,
    /// 503, with `Retry-After`. The service has reached its limit of operations in progress. This request was not executed. Send it
    /// again later.
    TooManyOperations,
    /// 503. The store of the keys is unavailable. Nothing was executed.
    StoreUnavailable,
}

impl KeyProblem {
    /// The problem as a label of metrics and logs.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Missing => "key_missing",
            Self::Malformed(_) => "key_malformed",
            Self::NoTenant => "key_no_tenant",
            Self::Incomplete => "key_body_incomplete",
            Self::TooSlow => "key_body_too_slow",
            Self::TooLarge(_) => "key_body_too_large",
            Self::SecondCall => "key_second_call",
            Self::Reused => "key_reused",
            Self::InProgress => "key_in_progress",
            Self::NotStored => "key_response_not_stored",
            Self::Unknown => "key_outcome_unknown",
            Self::Failed => "key_failed",
            Self::NotExecuted => "key_not_executed",
            Self::TooManyOperations => "key_too_many_operations",
            Self::StoreUnavailable => "key_store_unavailable",
        }
    }

    /// Whether the operation of the key may have been executed.
    pub const fn executed(&self) -> Executed {
        match self {
            Self::Missing
            | Self::Malformed(_)
            | Self::NoTenant
            | Self::Incomplete
            | Self::TooSlow
            | Self::TooLarge(_)
            | Self::SecondCall
            | Self::Reused
            | Self::NotExecuted
            | Self::TooManyOperations
            | Self::StoreUnavailable => Executed::No,
            Self::InProgress | Self::NotStored | Self::Unknown | Self::Failed => Executed::Maybe,
        }
    }
}

impl fmt::Display for KeyProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "an idempotency key is required",
            Self::Malformed(fault) => return fault.fmt(f),
            Self::NoTenant => "the owner of the idempotency key cannot be determined",
            Self::Incomplete => "the request body ended early, send the request again",
            Self::TooSlow => "the request body exceeded a time limit in front of this service",
            Self::TooLarge(Some(max)) => {
                return write!(f, "the request body is larger than {max} bytes");
            }
            Self::TooLarge(None) => {
                "the request body is larger than a limit in front of this service"
            }
            Self::SecondCall => {
                "another call in this scope has used the idempotency key: \
                 use a separate scope for each call, or set the header to retry an operation"
            }
            Self::Reused => "the idempotency key was used for another request, use a new key for a new operation",
            Self::InProgress => "the operation with this idempotency key is in progress",
            Self::NotStored => "the operation was executed, but its response was too large to store",
            Self::Unknown => "the operation was interrupted, it is unknown whether it was executed",
            Self::Failed => "the handler failed partway, the operation is not executed again for this key",
            Self::NotExecuted => "the handler failed and the operation had no effect, send the same request again",
            Self::TooManyOperations => "too many operations are in progress",
            Self::StoreUnavailable => "the store of idempotency keys is unavailable",
        })
    }
}

/// Why a key is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyFault {
    /// The header occurs more than once.
    Repeated,
    /// The key has bytes that are not printable ASCII.
    NotAscii,
    /// The key is not in double quotes.
    NotQuoted,
    /// The value is not a single string in double quotes (RFC 9651).
    NotOneString,
    /// The key has fewer characters than this.
    TooShort(u8),
    /// The key has more than 255 characters.
    TooLong,
}

impl fmt::Display for KeyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooShort(min) => {
                return write!(f, "the idempotency key has fewer than {min} characters");
            }
            Self::Repeated => "the idempotency key header occurs more than once",
            Self::NotAscii => "the idempotency key has characters that are not printable ASCII",
            Self::NotQuoted => "the idempotency key must be in double quotes (RFC 9651, string)",
            Self::NotOneString => {
                "the idempotency key must be a single string in double quotes (RFC 9651)"
            }
            Self::TooLong => "the idempotency key is longer than 255 characters",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The name of each variant, which clients may compare. A new variant does not compile until it is listed here.
    const fn name(problem: KeyProblem) -> &'static str {
        match problem {
            KeyProblem::Missing => "Missing",
            KeyProblem::Malformed(_) => "Malformed",
            KeyProblem::NoTenant => "NoTenant",
            KeyProblem::Incomplete => "Incomplete",
            KeyProblem::TooSlow => "TooSlow",
            KeyProblem::TooLarge(_) => "TooLarge",
            KeyProblem::SecondCall => "SecondCall",
            KeyProblem::Reused => "Reused",
            KeyProblem::InProgress => "InProgress",
            KeyProblem::NotStored => "NotStored",
            KeyProblem::Unknown => "Unknown",
            KeyProblem::Failed => "Failed",
            KeyProblem::NotExecuted => "NotExecuted",
            KeyProblem::TooManyOperations => "TooManyOperations",
            KeyProblem::StoreUnavailable => "StoreUnavailable",
        }
    }

    #[test]
    fn the_problem_types_do_not_change() {
        for problem in [
            KeyProblem::Missing,
            KeyProblem::Malformed(KeyFault::TooShort(8)),
            KeyProblem::NoTenant,
            KeyProblem::Incomplete,
            KeyProblem::TooSlow,
            KeyProblem::TooLarge(None),
            KeyProblem::TooLarge(Some(1000)),
            KeyProblem::SecondCall,
            KeyProblem::Reused,
            KeyProblem::InProgress,
            KeyProblem::NotStored,
            KeyProblem::Unknown,
            KeyProblem::Failed,
            KeyProblem::NotExecuted,
            KeyProblem::TooManyOperations,
            KeyProblem::StoreUnavailable,
        ] {
            let page = "https://docs.rs/buttress/latest/buttress/enum.KeyProblem.html";
            assert_eq!(problem.uri(), format!("{page}#variant.{}", name(problem)));
        }
    }
}
