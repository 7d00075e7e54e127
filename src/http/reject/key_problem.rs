//! The problem responses of rejected idempotency keys.

use crate::key_problem::KeyProblem;

impl KeyProblem {
    const fn response(&self) -> (u16, &'static str) {
        match self {
            Self::Missing => (400, "Idempotency key missing"),
            Self::Malformed(_) => (400, "Idempotency key malformed"),
            Self::NoTenant => (403, "Idempotency key owner unknown"),
            Self::Incomplete => (400, "Request incomplete"),
            Self::TooSlow => (408, "Request too slow"),
            Self::TooLarge(_) => (413, "Request too large"),
            Self::SecondCall => (500, "Idempotency key used by another call"),
            Self::Reused => (422, "Idempotency key used for another request"),
            Self::InProgress => (409, "Operation in progress"),
            Self::NotStored => (409, "Response not stored"),
            Self::Unknown => (409, "Outcome unknown"),
            Self::Failed => (500, "Operation failed"),
            Self::NotExecuted => (503, "Operation not executed"),
            Self::TooManyOperations => (503, "Too many operations in progress"),
            Self::StoreUnavailable => (503, "Idempotency store unavailable"),
        }
    }

    /// The `type` of the problem: the address of its variant's documentation.
    pub fn uri(&self) -> String {
        let name = format!("{self:?}");
        let name = name.split('(').next().unwrap_or_default();
        format!("https://docs.rs/buttress/latest/buttress/enum.KeyProblem.html#variant.{name}")
    }

    /// The status of the response (from draft-ietf-httpapi-idempotency-key-header §2.7 where it defines one).
    pub const fn status(&self) -> u16 {
        self.response().0
    }

    /// The title of the problem, which is constant per variant.
    pub const fn title(&self) -> &'static str {
        self.response().1
    }
}
