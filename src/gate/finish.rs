//! When the permit of a call is settled.

use super::Permit;
use crate::clock::Now;
use crate::error::CallError;
use crate::outcome::{Classify, judge_error};

/// Settles a permit when the inner future is ready ([`AtResult`]), or hands it to the response's body
/// (`http::AtBodyEnd`).
pub trait Finish<Res, E, P, C> {
    /// What the caller gets.
    type Response;

    /// The inner future is ready.
    ///
    /// # Errors
    ///
    /// The inner service's own, untouched.
    fn finish(&self, result: Result<Res, E>, permit: P, classify: &C) -> Result<Self::Response, E>;
}

/// The permit is settled with the result.
#[derive(Clone, Copy, Debug, Default)]
pub struct AtResult;

impl<Res, E, P, C> Finish<Res, E, P, C> for AtResult
where
    E: CallError,
    P: Permit,
    C: Classify<Res, E>,
{
    type Response = Res;

    #[inline(always)]
    fn finish(&self, result: Result<Res, E>, permit: P, classify: &C) -> Result<Res, E> {
        // Apart, so that a response stays in registers: a whole `Result` would be copied through memory.
        match result {
            Ok(response) => {
                permit.settle(classify.classify(Ok(&response)), &Now::unread());
                Ok(response)
            }
            Err(error) => Err(finish_error(error, permit, classify)),
        }
    }
}

#[cold]
#[inline(never)]
fn finish_error<Res, E, P, C>(error: E, permit: P, classify: &C) -> E
where
    E: CallError,
    P: Permit,
    C: Classify<Res, E>,
{
    match judge_error(&error, classify) {
        Some(outcome) => permit.settle(outcome, &Now::unread()),
        None => drop(permit),
    }
    error
}
