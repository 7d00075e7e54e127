//! Why a call to a store failed.

use std::fmt;

use crate::error::BoxError;

/// Why a call to a store failed.
///
/// The message of [`Unavailable`](Self::Unavailable) includes the message of its cause, so
/// [`source`](std::error::Error::source) returns the source of the cause.
#[derive(Debug)]
#[non_exhaustive]
pub enum StoreError {
    /// The store cannot be reached, did not respond in time, or failed.
    Unavailable(BoxError),
    /// The store has no room for the record or response.
    Full(String),
    /// The record of this key was written by another program or by a newer version.
    Unreadable(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(cause) => write!(f, "idempotency store unavailable: {cause}"),
            Self::Full(why) => write!(f, "idempotency store full: {why}"),
            Self::Unreadable(why) => write!(f, "idempotency record unreadable: {why}"),
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            // The message includes the cause itself.
            Self::Unavailable(cause) => cause.source(),
            Self::Full(_) | Self::Unreadable(_) => None,
        }
    }
}

impl StoreError {
    /// [`Unavailable`](Self::Unavailable) with this cause.
    pub fn unavailable(source: impl Into<BoxError>) -> Self {
        Self::Unavailable(source.into())
    }

    /// The error of [`Store::list`](super::Store::list) for a cursor that the store cannot read.
    pub fn invalid_cursor(cursor: &str) -> Self {
        Self::unavailable(format!(
            "`{cursor}` is not a cursor of this store; start the scan again without one"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::chain;

    #[test]
    fn an_error_chain_prints_the_cause_once() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let error = StoreError::unavailable(refused);
        assert_eq!(
            chain(&error),
            ["idempotency store unavailable: connection refused"]
        );
        let deeper = StoreError::unavailable(crate::Error::<std::io::Error>::Rejected(
            crate::Rejected::new(crate::Reason::CircuitOpen, "records"),
        ));
        assert_eq!(
            chain(&deeper),
            [
                "idempotency store unavailable: call rejected by circuit breaker `records`",
                "circuit breaker `records` is open"
            ]
        );
    }
}
