//! The future of [`Retry`](super::Retry): attempt, wait, become ready, attempt.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;
use tower_service::Service;

use super::attempt::{Attempt, Judging};
use super::discard::Discard;
use super::machine::Refusal;
use super::progress::Progress;
use super::replay::ReplayPolicy;
use super::terms::Inner;
use super::wait::Between;
use crate::budget::RetryBudget;
use crate::call::{Call, Marks};
use crate::error::CallError;
use crate::event::RetryStop;
use crate::outcome::{Classify, Executed, Kind, Outcome, judge_error};

/// The future of [`Retry`](super::Retry).
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct RetryFuture<S, R, C, K, Req, D = ()>
where
    R: ReplayPolicy<Req>,
    S: Service<R::Attempt>,
    D: Discard<S::Response>,
{
    shared: Arc<Inner<R, C, K, D>>,
    progress: Progress,
    /// The budget of this request's key, if the layer's own budget does not pay.
    budget: Option<RetryBudget>,
    /// `None` if no further attempt is possible.
    further: Option<Further<S, R::Saved>>,
    #[pin]
    state: State<S::Future, Result<S::Response, S::Error>>,
    /// Reads the rest of the failed response before the last one.
    #[pin]
    discarding: Option<D::Discarding>,
}

/// The service and the saved request for further attempts.
pub(super) struct Further<S, Saved> {
    pub(super) service: S,
    pub(super) saved: Saved,
}

#[pin_project(project = StateNow)]
enum State<F, T> {
    Trying(#[pin] Attempt<F>),
    /// Boxed, because it has room for a whole response and most calls never need it.
    Between(Pin<Box<Between<T>>>),
}

impl<S, R, C, K, Req, D> RetryFuture<S, R, C, K, Req, D>
where
    R: ReplayPolicy<Req>,
    S: Service<R::Attempt>,
    D: Discard<S::Response>,
{
    #[inline]
    pub(super) const fn new(
        shared: Arc<Inner<R, C, K, D>>,
        progress: Progress,
        budget: Option<RetryBudget>,
        first: Attempt<S::Future>,
        further: Option<Further<S, R::Saved>>,
    ) -> Self {
        Self {
            shared,
            progress,
            budget,
            further,
            state: State::Trying(first),
            discarding: None,
        }
    }
}

impl<S, R, C, K, Req, D> Future for RetryFuture<S, R, C, K, Req, D>
where
    R: ReplayPolicy<Req>,
    S: Service<R::Attempt>,
    S::Error: CallError,
    C: Classify<S::Response, S::Error>,
    D: Discard<S::Response>,
{
    type Output = Result<S::Response, S::Error>;

    // The path of a call whose first attempt succeeds is inlined. Everything else is in cold functions.
    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            if self.discarding.is_some() {
                self.as_mut().poll_discarding(cx);
            }
            let this = self.as_mut().project();
            let shared = &**this.shared;
            let next = match this.state.project() {
                StateNow::Between(_) => self.as_mut().poll_next(cx, None),
                StateNow::Trying(attempt) => match attempt.poll(cx) {
                    Poll::Pending => {
                        this.progress.polled();
                        return Poll::Pending;
                    }
                    // Destructured at once: moving the whole `Result` would also copy the unused room of the error.
                    Poll::Ready((Ok(response), judging)) => {
                        let outcome = shared.classify.classify(Ok(&response));
                        drop(judging);
                        if outcome.kind == Kind::Success {
                            let rules = shared.terms.rules(this.budget.as_ref());
                            let later = rules.budget.is_some_and(|budget| {
                                shared.discard.deposit_later(&response, &outcome, budget)
                            });
                            this.progress.end(rules, !later);
                            if this.discarding.is_some() {
                                self.project().discarding.set(None);
                            }
                            return Poll::Ready(Ok(response));
                        }
                        self.as_mut().poll_next(cx, Some((Ok(response), outcome)))
                    }
                    Poll::Ready((Err(error), judging)) => {
                        self.as_mut().poll_failed(cx, error, judging)
                    }
                },
            };
            if let Some(result) = ready!(next) {
                self.project().discarding.set(None);
                return Poll::Ready(result);
            }
        }
    }
}

/// The result of a call of a service.
type Of<S, Req> = Result<<S as Service<Req>>::Response, <S as Service<Req>>::Error>;

impl<S, R, C, K, Req, D> RetryFuture<S, R, C, K, Req, D>
where
    R: ReplayPolicy<Req>,
    S: Service<R::Attempt>,
    S::Error: CallError,
    C: Classify<S::Response, S::Error>,
    D: Discard<S::Response>,
{
    /// Runs concurrently with the attempts. The call never waits for it.
    #[cold]
    #[inline(never)]
    fn poll_discarding(self: Pin<&mut Self>, cx: &mut Context<'_>) {
        let mut discarding = self.project().discarding;
        if let Some(rest) = discarding.as_mut().as_pin_mut() {
            if rest.poll(cx).is_ready() {
                discarding.set(None);
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn poll_failed(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        error: S::Error,
        judging: Judging,
    ) -> Poll<Option<Of<S, R::Attempt>>> {
        let this = self.as_mut().project();
        let shared = &**this.shared;
        let judged = judge_error(&error, &shared.classify);
        drop(judging);
        match judged {
            Some(outcome) if outcome.kind != Kind::Success => {
                self.poll_next(cx, Some((Err(error), outcome)))
            }
            // `None`: the deadline ended the attempt. That is no result of the service, and no time is left for another attempt.
            judged => {
                let rules = shared.terms.rules(this.budget.as_ref());
                this.progress.end(rules, judged.is_some());
                Poll::Ready(Some(Err(error)))
            }
        }
    }

    /// Continues after an attempt that `failed`, or after the wait. `None`: the next attempt has begun. `Some`: the call's result.
    #[cold]
    #[inline(never)]
    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        failed: Option<(Of<S, R::Attempt>, Outcome)>,
    ) -> Poll<Option<Of<S, R::Attempt>>> {
        let mut this = self.project();
        let Inner {
            terms,
            replay,
            discard,
            ..
        } = &**this.shared;
        let rules = terms.rules(this.budget.as_ref());
        if let Some((result, outcome)) = failed {
            let marks = match this.state.as_mut().project() {
                StateNow::Trying(attempt) => attempt.marks(),
                StateNow::Between(_) => Marks::default(),
            };
            let mut outcome = outcome.heeding(marks);
            if let (Executed::No, Some(further)) = (outcome.executed, &*this.further) {
                let refused = result.as_ref().err().and_then(CallError::rejected);
                if refused.and_then(Refusal::of).is_none()
                    && !replay.trusts_not_executed(&further.saved)
                {
                    outcome.executed = Executed::Maybe;
                }
            }
            let barred = match this.further {
                // A request that was not executed may always be sent again, if it is replayable.
                Some(Further { saved, .. })
                    if outcome.executed == Executed::No || replay.is_safe(saved, &outcome) =>
                {
                    (!replay.is_replayable(saved)).then_some(RetryStop::BodyNotReplayable)
                }
                _ => Some(RetryStop::NotRetryable),
            };
            let progress = &mut *this.progress;
            match progress.failed(rules, outcome, &result, marks, barred) {
                None => return Poll::Ready(Some(progress.claim(result))),
                Some(wait) => {
                    let between = Box::pin(Between::new(wait, result));
                    this.state.set(State::Between(between));
                }
            }
        }
        let (StateNow::Between(between), Some(Further { service, saved })) =
            (this.state.as_mut().project(), this.further.as_mut())
        else {
            panic!("`RetryFuture` polled after completion");
        };
        let deadline = this.progress.deadline();
        let ready = ready!(between.as_mut().poll_ready(cx, deadline, service));
        let again = |()| {
            // The request may carry the number of its attempt.
            let _entered = this.progress.upcoming(rules).map(Call::enter);
            replay.again(saved)
        };
        match ready.map(again) {
            Ok(Some(attempt)) => {
                let call = this.progress.begin(rules, true);
                let next = Attempt::new(call, || service.call(attempt));
                // The result of the previous attempt is released only here.
                let last = between.as_mut().project().last.take();
                this.state.set(State::Trying(next));
                if let Some(Ok(response)) = last {
                    this.discarding.set(discard.discard(response));
                }
                Poll::Ready(None)
            }
            stopped => {
                let why = match stopped {
                    Err(why) => why,
                    Ok(_) if !replay.is_replayable(saved) => RetryStop::BodyNotReplayable,
                    Ok(_) => RetryStop::NotRetryable,
                };
                // Drops the service at once, to release a readiness that is not used.
                *this.further = None;
                let last = between.as_mut().project().last.take();
                let last = last.expect("`RetryFuture` polled after completion");
                Poll::Ready(Some(this.progress.give_up(rules, why, last)))
            }
        }
    }
}

impl<S, R, C, K, Req, D> fmt::Debug for RetryFuture<S, R, C, K, Req, D>
where
    R: ReplayPolicy<Req>,
    S: Service<R::Attempt>,
    D: Discard<S::Response>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryFuture")
            .field("name", self.shared.terms.source.name())
            .finish_non_exhaustive()
    }
}
