//! The service.

use std::fmt;
use std::task::{Context, Poll};

use ::http::Extensions;
use tower_service::Service;

use super::layer::{Breakers, Budgets};
use crate::call_scope::{self, CallScope};
use crate::deadline::Deadline;
use crate::gate::Gate;
use crate::http::deadline::{PropagateDeadline, PropagateDeadlineLayer};
use crate::http::lift::Lift;
use crate::http::{AtBodyEnd, AtFinalOutcome, ByStatus, Drain, HttpRequest, Replay};
use crate::idempotency::client::IdempotencyKey;
use crate::retry::Retry;
use crate::telemetry::Observed;
use crate::timeout::{DeadlineService, Timeout};

/// The parts, outermost first.
pub(super) type Stack<S, R, C, M> = Watched<DeadlineService<Keyed<Repeated<S, R, C, M>>>, C>;
type Keyed<S> = IdempotencyKey<S, Replay>;
type Repeated<S, R, C, M> = Retry<Guarded<S, C, M>, R, C, Option<Budgets>, Drain>;
type Guarded<S, C, M> = Gate<Attempted<S, C, M>, Option<Breakers>, C, AtBodyEnd>;
#[cfg(feature = "tracing")]
type Attempted<S, C, M> = Watched<crate::http::span::AttemptSpan<Limited<S, M>, C>, C>;
#[cfg(not(feature = "tracing"))]
type Attempted<S, C, M> = Watched<Limited<S, M>, C>;
type Limited<S, M> = Timeout<PropagateDeadline<Lift<S, M>>>;
type Watched<S, C> = Gate<S, Option<Observed>, C, AtFinalOutcome>;

/// A client behind the standard stack. Made by [`ClientLayer`](crate::http::ClientLayer).
#[derive(Clone)]
pub struct ClientService<S, R = Replay, C = ByStatus, M = C> {
    stack: Stack<S, R, C, M>,
    /// Where the caller's deadline is found in a request.
    out: PropagateDeadlineLayer,
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
        // A handler that forwards its request: what is refused here was not refused in front of the handler.
        #[cfg(feature = "idempotency")]
        crate::idempotency::remove_ticket(request.extensions_mut());
        // Taken out: they are the options of this call, and not of one that its server makes with what it was sent.
        let options = request.extensions_mut().and_then(Extensions::remove);
        let deadline = self.out.callers_deadline(&request);
        let _entered = deadline.map(Deadline::enter);
        call_scope::with(options, || self.stack.call(request))
    }
}
