//! Whether a call may have been executed.

/// Whether the service may have acted on a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Executed {
    /// It may have: the call reached the service.
    Maybe,
    /// It certainly has not.
    No,
}
