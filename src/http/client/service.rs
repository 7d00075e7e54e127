//! The service.

use std::fmt;
use std::task::{Context, Poll};

use ::http::Extensions;
use tower_service::Service;

use crate::breaker::Breaker;
use crate::budget::RetryBudget;
use crate::call::{self, CallScope};
use crate::deadline::Deadline;
use crate::gate::{self, Gate};
use crate::http::client::stack_error::IntoStackError;
use crate::http::deadline::{PropagateDeadline, PropagateDeadlineLayer};
use crate::http::{
    AtBodyEnd, AtFinalOutcome, Authority, ByAuthority, ByStatus, Drain, HttpRequest, Replay,
};
use crate::idempotency::client::IdempotencyKey;
use crate::retry::Retry;
use crate::telemetry::Observed;
use crate::timeout::{DeadlineService, Timeout};

/// The parts, outermost first.
pub(super) type Stack<S, R, C, M> = Observing<DeadlineService<Keyed<Retried<S, R, C, M>>>, C>;
type Keyed<S> = IdempotencyKey<S, Replay>;
pub(super) type Breakers = gate::Keyed<Authority, ByAuthority, Breaker>;
pub(super) type Budgets = gate::Keyed<Authority, ByAuthority, RetryBudget>;
type Retried<S, R, C, M> = Retry<Guarded<S, C, M>, R, C, Option<Budgets>, Drain>;
type Guarded<S, C, M> = Gate<Attempted<S, C, M>, Option<Breakers>, C, AtBodyEnd>;
#[cfg(feature = "tracing")]
type Attempted<S, C, M> = Observing<crate::http::attempt_span::AttemptSpan<Limited<S, M>, C>, C>;
#[cfg(not(feature = "tracing"))]
type Attempted<S, C, M> = Observing<Limited<S, M>, C>;
type Limited<S, M> = Timeout<PropagateDeadline<IntoStackError<S, M>>>;
type Observing<S, C> = Gate<S, Option<Observed>, C, AtFinalOutcome>;

/// A client behind the standard stack. Made by [`ClientLayer`](crate::http::ClientLayer).
pub struct ClientService<S, R = Replay, C = ByStatus, M = C> {
    stack: Stack<S, R, C, M>,
    /// Where the caller's deadline is found in a request.
    out: PropagateDeadlineLayer,
}

/// Not derived: the replay policy need not be `Clone`.
impl<S: Clone, R, C: Clone, M> Clone for ClientService<S, R, C, M> {
    fn clone(&self) -> Self {
        Self::new(self.stack.clone(), self.out.clone())
    }
}

impl<S, R, C, M> ClientService<S, R, C, M> {
    pub(super) const fn new(stack: Stack<S, R, C, M>, out: PropagateDeadlineLayer) -> Self {
        Self { stack, out }
    }
}

impl<S, R, C, M> fmt::Debug for ClientService<S, R, C, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientService").finish_non_exhaustive()
    }
}

impl<S, R, C, M, Req> Service<Req> for ClientService<S, R, C, M>
where
    Stack<S, R, C, M>: Service<Req>,
    Req: HttpRequest,
{
    type Response = <Stack<S, R, C, M> as Service<Req>>::Response;
    type Error = <Stack<S, R, C, M> as Service<Req>>::Error;
    type Future = CallScope<<Stack<S, R, C, M> as Service<Req>>::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.stack.poll_ready(cx)
    }

    fn call(&mut self, mut request: Req) -> Self::Future {
        // A handler may forward its request: a rejection here must not count as one in front of the handler.
        #[cfg(feature = "idempotency")]
        crate::idempotency::remove_ticket(request.extensions_mut());
        // Removed, so that an in-process server that forwards the request does not apply them to its own call.
        let options = request.extensions_mut().and_then(Extensions::remove);
        let deadline = self.out.callers_deadline(&request);
        let _entered = deadline.map(Deadline::enter);
        call::with(options, || self.stack.call(request))
    }
}
