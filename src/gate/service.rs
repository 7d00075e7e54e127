//! The service of every gate pattern.

use std::task::{Context, Poll};

use tower_service::Service;

use super::future::{GateFuture, Unwinding};
use super::{Finish, Policy};
use crate::clock::Now;
use crate::error::{CallError, Rejected};
use crate::refused::drop_refused;

/// A service behind a [`Policy`]. Made by [`GateLayer`](super::GateLayer).
#[derive(Debug)]
pub struct Gate<S, P, C, H> {
    inner: S,
    policy: P,
    classify: C,
    finish: H,
    /// The rejection that `poll_ready` found. The inner service was not polled then, so the next call gets this rejection,
    /// even if the policy would admit it by that time.
    rejection: Option<Rejected>,
    /// Whether the inner service was polled ready since the last call: it may hold a place for the next one.
    polled: bool,
}

impl<S, P, C, H> Gate<S, P, C, H> {
    pub(super) const fn new(inner: S, policy: P, classify: C, finish: H) -> Self {
        Self {
            inner,
            policy,
            classify,
            finish,
            rejection: None,
            polled: false,
        }
    }
}

/// A clone was not polled ready, so it has no rejection either.
impl<S: Clone, P: Clone, C: Clone, H: Clone> Clone for Gate<S, P, C, H> {
    fn clone(&self) -> Self {
        Self::new(
            self.inner.clone(),
            self.policy.clone(),
            self.classify.clone(),
            self.finish.clone(),
        )
    }
}

impl<S, Req, P, C, H> Service<Req> for Gate<S, P, C, H>
where
    S: Service<Req> + Clone,
    S::Error: CallError,
    P: Policy<Req>,
    C: Clone,
    H: Finish<S::Response, S::Error, P::Permit, C> + Clone,
{
    type Response = H::Response;
    type Error = S::Error;
    type Future = GateFuture<S::Future, P::Permit, C, H>;

    #[inline(always)]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // Not `self.rejection = …`: that would drop and write on every call.
        match self.policy.refuse(&Now::unread()) {
            None => {
                if self.rejection.is_some() {
                    self.rejection = None;
                }
                self.polled = true;
                self.inner.poll_ready(cx)
            }
            refused => {
                self.give_readiness_back();
                self.rejection = refused;
                Poll::Ready(Ok(()))
            }
        }
    }

    #[inline(always)]
    fn call(&mut self, request: Req) -> Self::Future {
        if self.rejection.is_some() {
            drop_refused(request);
            return self.reject_saved::<Req, S::Future>();
        }
        match self.policy.admit(&request, &Now::unread()) {
            Ok(permit) => {
                self.polled = false;
                let mut permit = Some(permit);
                let unwinding = Unwinding(&mut permit);
                let future = self.inner.call(request);
                std::mem::forget(unwinding);
                GateFuture::running(future, permit, self.classify.clone(), self.finish.clone())
            }
            Err(rejected) => {
                self.give_readiness_back();
                drop_refused(request);
                GateFuture::refused(rejected)
            }
        }
    }
}

impl<S: Clone, P, C, H> Gate<S, P, C, H> {
    /// A service that was polled ready, or is still waiting to be, may hold a place of a limit. A clone holds none.
    #[inline(always)]
    fn give_readiness_back(&mut self) {
        if self.polled {
            self.replace_inner();
        }
    }

    #[cold]
    fn replace_inner(&mut self) {
        self.polled = false;
        self.inner = self.inner.clone();
    }
}

impl<S, P, C, H> Gate<S, P, C, H> {
    #[cold]
    fn reject_saved<Req, F>(&mut self) -> GateFuture<F, P::Permit, C, H>
    where
        P: Policy<Req>,
    {
        let rejected = self.rejection.take().expect("`call` has checked it");
        self.policy.refused(&rejected);
        GateFuture::refused(rejected)
    }
}
