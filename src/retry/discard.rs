//! Disposal of a failed response after the next attempt has begun.

use std::future::{Future, Ready};

use crate::budget::RetryBudget;
use crate::outcome::Outcome;

/// Disposes of a failed response after the next attempt has begun. `()` drops it. `http::Drain` reads it to its end concurrently
/// with that attempt, which makes its connection reusable.
pub trait Discard<Res> {
    /// Reads the rest of a response.
    type Discarding: Future<Output = ()>;

    /// Disposes of a response. `None`: it was dropped.
    ///
    /// The returned future is polled concurrently with the next attempts. It is dropped when the call ends or another response
    /// follows.
    fn discard(&self, response: Res) -> Option<Self::Discarding>;

    /// Moves the deposit into the budget to the end of the response's body, if the outcome is known only then, as in gRPC. `head`
    /// is the successful outcome so far. Returns `false` if the retry layer is to deposit at once.
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
