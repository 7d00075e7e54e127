//! The permit of a call until the end of its body.

use super::end::{BodyEnd, ClassifyEnd};
use super::final_outcome::FinalOutcome;
use super::limits::Limits;
use crate::clock::Now;
use crate::gate::Permit;
use crate::outcome::Outcome;

/// A permit on its way to the end of a body.
#[derive(Debug)]
pub(crate) struct Carried<P, C> {
    pub(super) permit: P,
    pub(super) head: Outcome,
    pub(super) classify: C,
    /// Other layers that wait for the outcome if the head leaves it open.
    pub(super) followers: Option<FinalOutcome>,
}

impl<P: Permit, C> Carried<P, C> {
    fn settle(self, outcome: Outcome) {
        let now = Now::unread();
        self.permit.settle(outcome, &now);
        if let Some(followers) = self.followers {
            followers.settle(Some(outcome), &now);
        }
    }
}

/// Settles the permit at this end, unless it is settled already.
pub(super) fn settle<P: Permit, C: ClassifyEnd>(
    call: &mut Option<Carried<P, C>>,
    end: BodyEnd<'_>,
) {
    if let Some(carried) = call.take() {
        let outcome = carried.classify.end(carried.head, end);
        carried.settle(outcome);
    }
}

/// The caller has left while it waited for a frame.
#[cold]
pub(super) fn abandon<P: Permit, C>(call: &mut Option<Carried<P, C>>, limits: Option<&Limits>) {
    if let Some(carried) = call.take() {
        let now = Now::unread();
        let waited = limits.and_then(|limits| limits.waited(&now));
        carried.permit.abandon(waited.unwrap_or_default(), &now);
        if let Some(followers) = carried.followers {
            followers.settle(None, &now);
        }
    }
}

/// The service has failed while its body was read.
pub(super) fn fail<P: Permit, C>(call: &mut Option<Carried<P, C>>) {
    if let Some(carried) = call.take() {
        carried.settle(Outcome::TRANSIENT);
    }
}

/// Settles the permit as a failure when the body's `poll_frame` unwinds. Disarmed when it returns.
pub(super) struct Unwinding<'a, P: Permit, C>(pub(super) &'a mut Option<Carried<P, C>>);

impl<P: Permit, C> Drop for Unwinding<'_, P, C> {
    fn drop(&mut self) {
        fail(self.0);
    }
}
