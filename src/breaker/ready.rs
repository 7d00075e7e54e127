//! A breaker that is not ready while it is open, for load balancers.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use tower_layer::Layer;
use tower_service::Service;

use super::Breaker;
#[cfg(doc)]
use super::BreakerLayer;
use crate::clock::{Now, sleep_until};
use crate::gate::{Gate, GateLayer};

impl<C, H> GateLayer<Breaker, C, H> {
    /// Makes the service pending instead of rejecting calls: `poll_ready` is pending while the circuit is open, and until a
    /// half-open circuit has a place for a probe.
    ///
    /// For a load balancer, which sends a call to an endpoint that is ready. One that rejects its calls at once is always
    /// ready and looks idle, so `tower::balance` would send it most of the calls.
    ///
    /// If no endpoint is ready, callers wait in `poll_ready`. Bound that: put a `Buffer` in front of the balancer, and a
    /// deadline in front of the buffer. A call may still be rejected if the circuit opens, or another service of the same
    /// breaker takes the last probe, between `poll_ready` and `call`.
    ///
    /// ```
    /// use buttress::breaker::{Breaker, BreakerConfig, BreakerLayer};
    /// use buttress::ErrorIsTransient;
    ///
    /// // One breaker for each endpoint.
    /// let breaker = Breaker::new("orders/10.0.0.7:80", BreakerConfig::default())?;
    /// let endpoint = BreakerLayer::new(breaker, ErrorIsTransient).not_ready_while_open();
    /// # let _ = endpoint;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn not_ready_while_open(self) -> NotReadyWhileOpenLayer<C, H> {
        NotReadyWhileOpenLayer { gate: self }
    }
}

/// Applies a [`Breaker`] that is not ready while it is open. Made by
/// [`not_ready_while_open`](BreakerLayer::not_ready_while_open).
#[derive(Clone, Debug)]
pub struct NotReadyWhileOpenLayer<C, H> {
    gate: GateLayer<Breaker, C, H>,
}

impl<S, C: Clone, H: Clone> Layer<S> for NotReadyWhileOpenLayer<C, H> {
    type Service = NotReadyWhileOpen<S, C, H>;

    fn layer(&self, inner: S) -> Self::Service {
        NotReadyWhileOpen {
            breaker: self.gate.policy().clone(),
            gate: self.gate.layer(inner),
            waiting: None,
        }
    }
}

/// A service behind a [`Breaker`] that is not ready while it is open. Made by
/// [`not_ready_while_open`](BreakerLayer::not_ready_while_open).
pub struct NotReadyWhileOpen<S, C, H> {
    gate: Gate<S, Breaker, C, H>,
    breaker: Breaker,
    /// Boxed when the circuit is first found open.
    waiting: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
}

impl<S: Clone, C: Clone, H: Clone> Clone for NotReadyWhileOpen<S, C, H> {
    fn clone(&self) -> Self {
        Self {
            gate: self.gate.clone(),
            breaker: self.breaker.clone(),
            waiting: None,
        }
    }
}

impl<S, C, H> fmt::Debug for NotReadyWhileOpen<S, C, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NotReadyWhileOpen")
            .field("breaker", &self.breaker)
            .finish_non_exhaustive()
    }
}

impl<S, C, H, Req> Service<Req> for NotReadyWhileOpen<S, C, H>
where
    Gate<S, Breaker, C, H>: Service<Req>,
{
    type Response = <Gate<S, Breaker, C, H> as Service<Req>>::Response;
    type Error = <Gate<S, Breaker, C, H> as Service<Req>>::Error;
    type Future = <Gate<S, Breaker, C, H> as Service<Req>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        loop {
            if let Some(waiting) = &mut self.waiting {
                ready!(waiting.as_mut().poll(cx));
                self.waiting = None;
            }
            if self.breaker.refuses(&Now::unread()).is_none() {
                return self.gate.poll_ready(cx);
            }
            self.waiting = Some(Box::pin(admits(self.breaker.clone())));
        }
    }

    fn call(&mut self, request: Req) -> Self::Future {
        self.gate.call(request)
    }
}

/// Waits until the breaker admits a call. No timer of the circuit would wake it: this has one of its own.
async fn admits(breaker: Breaker) {
    loop {
        // Registered before the look, so that a transition between the two is not missed.
        let mut transition = pin!(breaker.shared().transition.notified());
        transition.as_mut().enable();
        let Some(rejected) = breaker.refuses(&Now::unread()) else {
            return;
        };
        let Some(wait) = rejected.retry_after else {
            transition.await;
            continue;
        };
        let mut timer = pin!(sleep_until(Now::unread().moment().after(wait)));
        poll_fn(|cx| {
            if transition.as_mut().poll(cx).is_ready() || timer.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
    }
}
