//! The service.

use std::sync::Arc;
use std::task::{Context, Poll};

use tower_service::Service;

use super::attempt::Attempt;
use super::budgets::Budgets;
use super::discard::Discard;
use super::future::{Further, RetryFuture};
use super::progress::Progress;
use super::replay::ReplayPolicy;
use super::terms::Inner;
use crate::error::CallError;
use crate::outcome::{Classify, ErrorIsTransient};

/// Retries the failed calls of a service. Made by a [`RetryLayer`](super::RetryLayer).
#[derive(Debug)]
pub struct Retry<S, R, C = ErrorIsTransient, K = (), D = ()> {
    inner: S,
    shared: Arc<Inner<R, C, K, D>>,
}

impl<S, R, C, K, D> Retry<S, R, C, K, D> {
    pub(super) const fn new(inner: S, shared: Arc<Inner<R, C, K, D>>) -> Self {
        Self { inner, shared }
    }
}

impl<S: Clone, R, C, K, D> Clone for Retry<S, R, C, K, D> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            shared: self.shared.clone(),
        }
    }
}

impl<S, R, C, K, D, Req> Service<Req> for Retry<S, R, C, K, D>
where
    R: ReplayPolicy<Req>,
    S: Service<R::Attempt> + Clone,
    S::Error: CallError,
    C: Classify<S::Response, S::Error>,
    K: Budgets<Req>,
    D: Discard<S::Response>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = RetryFuture<S, R, C, K, Req, D>;

    #[inline(always)]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline(always)]
    fn call(&mut self, request: Req) -> Self::Future {
        let budget = self.shared.budgets.budget(&request);
        let (first, saved) = if self.shared.terms.enabled {
            self.shared.replay.first(request)
        } else {
            (self.shared.replay.only(request), None)
        };
        let rules = self.shared.terms.rules(budget.as_ref());
        let mut progress = Progress::new(rules);
        let call = progress.begin(rules, saved.is_some());
        // The instance that was polled ready is called. The call takes a clone, which holds no readiness, for further attempts.
        let attempt = Attempt::new(call, || self.inner.call(first));
        let further = saved.map(|saved| Further {
            service: self.inner.clone(),
            saved,
        });
        RetryFuture::new(self.shared.clone(), progress, budget, attempt, further)
    }
}
