//! What happens to a failed response once the next attempt has begun.

use std::future::{Future, Ready};

use crate::budget::RetryBudget;
use crate::outcome::Outcome;

/// What happens to a failed response once the next attempt has begun: it is dropped (`()`), or read to its end beside that
/// attempt, so that its connection can be used again (`http::Drain`).
pub trait Discard<Res> {
    /// Reads what is left of a response.
    type Discarding: Future<Output = ()>;

    /// The response is nobody's any more. `None`: it is gone.
    ///
    /// What is returned is polled beside the next attempts, and dropped when the call ends or when another response
    /// follows.
    fn discard(&self, response: Res) -> Option<Self::Discarding>;

    /// Hands the budget of a call to its response, if the response has succeeded with this `head` but its outcome is known
    /// only when its body ends, as in gRPC. Returns whether it did; if not, the retry layer deposits at once.
    fn deposit_later(&self, response: &Res, head: &Outcome, budget: &RetryBudget) -> bool {
        let _ = (response, head, budget);
        false
    }
}

/// A failed response is dropped.
impl<Res> Discard<Res> for () {
    type Discarding = Ready<()>;

    fn discard(&self, response: Res) -> Option<Ready<()>> {
        drop(response);
        None
    }
}
