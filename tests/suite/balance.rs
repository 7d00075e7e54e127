//! A breaker in front of each endpoint of a load balancer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake};

use buttress::breaker::{Breaker, BreakerLayer, BreakerState};
use buttress::{CallError, Error, ErrorIsTransient, Outcome, Reason};
use tokio::time::{advance, sleep, timeout};
use tower::balance::p2c::Balance;
use tower::discover::ServiceList;
use tower::load::{CompleteOnResponse, PendingRequests};
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::common::{MS, SECOND, breaker, poll, three_in_a_row};

type Failure = Error<std::fmt::Error>;
type Endpoint = tower::util::BoxCloneSyncService<(), &'static str, Failure>;

/// An endpoint that responds with its name, or fails while `ill`.
fn endpoint(name: &'static str, breaker: &Breaker, ill: &Arc<AtomicUsize>) -> Endpoint {
    let ill = Arc::clone(ill);
    let inner = service_fn(move |()| {
        let result = match ill.load(Ordering::Relaxed) {
            0 => Ok(name),
            _ => Err(Error::Inner(std::fmt::Error)),
        };
        std::future::ready(result)
    });
    let layer = BreakerLayer::new(breaker.clone(), ErrorIsTransient).not_ready_while_open();
    Endpoint::new(layer.layer(inner))
}

fn balance(
    endpoints: Vec<Endpoint>,
) -> impl Service<(), Response = &'static str, Error = tower::BoxError> {
    let loads = endpoints
        .into_iter()
        .map(|endpoint| PendingRequests::new(endpoint, CompleteOnResponse::default()));
    Balance::new(ServiceList::new::<()>(loads.collect::<Vec<_>>()))
}

/// 0 is healthy, 1 is ill.
fn health(ill: usize) -> Arc<AtomicUsize> {
    Arc::new(AtomicUsize::new(ill))
}

#[tokio::test(start_paused = true)]
async fn a_balancer_sends_its_calls_to_the_endpoint_that_works() {
    let (good, bad) = (
        breaker("good", three_in_a_row()),
        breaker("bad", three_in_a_row()),
    );
    let ill = health(1);
    let mut balance = balance(vec![
        endpoint("good", &good, &health(0)),
        endpoint("bad", &bad, &ill),
    ]);
    let mut succeeded = 0;
    for _ in 0..200 {
        let call = balance.ready().await.unwrap().call(());
        succeeded += usize::from(call.await.is_ok());
        sleep(MS).await;
    }
    // Three failures open the circuit; then the balancer avoids it.
    assert!(succeeded >= 196, "{succeeded} of 200");
    assert_eq!(bad.state(), BreakerState::Open);
    // It recovers, and is used again.
    ill.store(0, Ordering::Relaxed);
    sleep(2 * SECOND).await;
    let mut names = Vec::new();
    for _ in 0..100 {
        names.push(balance.ready().await.unwrap().call(()).await.unwrap());
        sleep(MS).await;
    }
    assert!(names.contains(&"bad") && names.contains(&"good"));
    assert_eq!(bad.state(), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn when_every_endpoint_is_open_callers_wait_for_a_probe() {
    let breakers = ["first", "second"].map(|name| breaker(name, three_in_a_row()));
    let endpoints = breakers.iter().map(|breaker| {
        for _ in 0..3 {
            breaker.try_acquire().unwrap().settle(Outcome::TRANSIENT);
        }
        endpoint("recovered", breaker, &health(0))
    });
    let mut balance = balance(endpoints.collect());
    timeout(1_999 * MS, balance.ready())
        .await
        .map(drop)
        .unwrap_err();
    let call = timeout(2 * MS, balance.ready())
        .await
        .unwrap()
        .unwrap()
        .call(());
    assert_eq!(call.await.unwrap(), "recovered");
}

/// Counts how often it wakes.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_is_pending_without_being_polled_again_until_it_may_be_probed() {
    let breaker = breaker("pending", three_in_a_row().open_for(60 * SECOND));
    let mut service = endpoint("pending", &breaker, &health(0));
    let woken = Arc::new(Woken::default());
    let waker = Arc::clone(&woken).into();
    let mut cx = Context::from_waker(&waker);
    let mut is_ready = |service: &mut Endpoint| service.poll_ready(&mut cx).is_ready();
    let wakes = || woken.0.swap(0, Ordering::Relaxed);
    assert!(is_ready(&mut service));
    for _ in 0..3 {
        breaker.try_acquire().unwrap().settle(Outcome::TRANSIENT);
    }
    assert!(!is_ready(&mut service));
    advance(59 * SECOND).await;
    assert_eq!(wakes(), 0);
    advance(SECOND + MS).await;
    assert_eq!(wakes(), 1);
    assert!(is_ready(&mut service));
    // Another takes the only place: it is pending until that comes back.
    let probe = breaker.try_acquire().unwrap();
    assert!(!is_ready(&mut service));
    drop(probe);
    assert_eq!(wakes(), 1);
    assert!(is_ready(&mut service));
    breaker.isolate();
    assert!(!is_ready(&mut service));
    advance(86_400 * SECOND).await;
    assert_eq!(wakes(), 0);
    breaker.release();
    assert_eq!(wakes(), 1);
    assert!(is_ready(&mut service));
    breaker.force_open(SECOND);
    assert!(!is_ready(&mut service));
    advance(SECOND + MS).await;
    assert!(is_ready(&mut service));
}

#[tokio::test(start_paused = true)]
async fn a_lost_probe_does_not_leave_an_endpoint_pending() {
    let config = three_in_a_row();
    let breaker = breaker("leaked-probe", config);
    for _ in 0..3 {
        breaker.try_acquire().unwrap().settle(Outcome::TRANSIENT);
    }
    advance(config.open_for).await;
    std::mem::forget(breaker.try_acquire().unwrap());
    let mut service = endpoint("leaked-probe", &breaker, &health(0));
    assert!(timeout(9_999 * MS, service.ready()).await.is_err());
    let called = timeout(config.open_for + SECOND, service.ready())
        .await
        .unwrap();
    assert_eq!(called.unwrap().call(()).await.unwrap(), "leaked-probe");
}

#[tokio::test(start_paused = true)]
async fn a_call_without_a_place_is_still_rejected() {
    let breaker = breaker("raced", three_in_a_row());
    let mut service = endpoint("raced", &breaker, &health(0));
    service.ready().await.unwrap();
    breaker.isolate();
    let error = service.call(()).await.unwrap_err();
    assert_eq!(error.rejected().unwrap().reason, Reason::CircuitIsolated);
}

#[tokio::test(start_paused = true)]
async fn a_clone_of_an_endpoint_waits_for_itself() {
    let breaker = breaker("cloned-endpoint", three_in_a_row());
    let layer = BreakerLayer::new(breaker.clone(), ErrorIsTransient).not_ready_while_open();
    let inner = service_fn(|()| std::future::ready(Ok::<_, Failure>("good")));
    let mut service = layer.layer(inner);
    breaker.isolate();
    let ready = std::pin::pin!(service.ready());
    assert!(poll(ready).is_pending());
    let mut clone = service.clone();
    breaker.reset();
    assert!(matches!(
        poll(std::pin::pin!(clone.ready())),
        Poll::Ready(Ok(_))
    ));
}
