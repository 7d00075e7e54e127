//! The error of a joined transaction.

use std::fmt;

use buttress::BoxError;

/// Why effect and record were not committed, or why that is unknown.
///
/// The message includes the message of the cause, so [`source`](std::error::Error::source) returns the source of the cause.
#[derive(Debug)]
#[non_exhaustive]
pub enum CommitError {
    /// The record was taken over, completed or deleted. The transaction was rolled back.
    Lost,
    /// The response cannot be recorded. The transaction was rolled back.
    Response(BoxError),
    /// The closure of [`joined`](super::PostgresStore::joined) returned this error. The transaction was rolled back.
    Work(BoxError),
    /// The server reported an error, or could not be reached before the commit. The transaction was rolled back.
    RolledBack(BoxError),
    /// The connection was lost during the commit, and the record could not be read afterwards: the transaction may be committed
    /// or not.
    Unknown(BoxError),
}

impl fmt::Display for CommitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost => f.write_str(
                "another run has taken over the operation, so the transaction was rolled back",
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
                "it is unknown whether the transaction was committed: {cause}"
            ),
        }
    }
}

impl std::error::Error for CommitError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Lost => None,
            // The message includes the cause itself.
            Self::Response(cause)
            | Self::Work(cause)
            | Self::RolledBack(cause)
            | Self::Unknown(cause) => cause.source(),
        }
    }
}
