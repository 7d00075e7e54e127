//! The outcome at the end of a body, and the permit that waits for it.

use ::http::HeaderMap;

use crate::clock::Now;
use crate::gate::Permit;
use crate::http::body::final_outcome::FinalOutcome;
use crate::http::body::limits::Limits;
use crate::outcome::Outcome;

/// Decides the outcome at the end of a body whose head was a success.
pub trait ClassifyEnd {
    /// The outcome of a response whose head had the outcome `head` and whose body ended this way.
    fn end(&self, head: Outcome, end: BodyEnd<'_>) -> Outcome {
        let _ = end;
        head
    }

    /// Whether the outcome of a response with this head is known only at the end of its body, as in gRPC. Retry budgets and
    /// observers of the standard stack then wait for the end. Default: no.
    fn is_open(&self, head: &Outcome) -> bool {
        let _ = head;
        false
    }
}

/// How the body of a response ended.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum BodyEnd<'a> {
    /// It is complete, with these trailers if it has any.
    Complete(Option<&'a HeaderMap>),
    /// It was dropped before its end, by a caller who was not waiting for the next frame.
    Dropped,
}

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
