//! Why a transaction did not take the record along.

use std::fmt;

use crate::error::BoxError;

/// Why effect and record were not committed, or are not known to be.
///
/// The message includes that of the cause, so the [`source`](std::error::Error::source) is what is behind the cause.
#[derive(Debug)]
#[non_exhaustive]
pub enum CommitError {
    /// The record belongs to another holder by now, or is done, or gone. The transaction was rolled back.
    Lost,
    /// The response cannot be recorded. The transaction was rolled back.
    Response(BoxError),
    /// The closure of [`joined`](super::PostgresStore::joined) returned this error. The transaction was rolled back.
    Work(BoxError),
    /// The server refused, or could not be reached before the commit. The transaction was rolled back.
    RolledBack(BoxError),
    /// The connection was lost during the commit, and the record could not be read since: it may have happened or not.
    Unknown(BoxError),
}

impl fmt::Display for CommitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost => f.write_str(
                "the operation has passed to another run, so the transaction was rolled back",
            ),
            Self::Response(cause) => write!(
                f,
                "the response cannot be recorded, so the transaction was rolled back: {cause}"
            ),
            Self::Work(cause) | Self::RolledBack(cause) => {
                write!(f, "the transaction was rolled back: {cause}")
            }
            Self::Unknown(cause) => write!(
                f,
                "it is not known whether the transaction was committed: {cause}"
            ),
        }
    }
}

impl std::error::Error for CommitError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Lost => None,
            // The message has named the cause itself already.
            Self::Response(cause)
            | Self::Work(cause)
            | Self::RolledBack(cause)
            | Self::Unknown(cause) => cause.source(),
        }
    }
}
