//! Cancellation at any point, and panics: nothing stays held.

use std::cell::RefCell;
use std::pin::Pin;

use buttress::backoff::{Backoff, Jitter};
use buttress::breaker::{Abandoned, Breaker, BreakerConfig, BreakerLayer, BreakerState};
use buttress::budget::{BudgetConfig, RetryBudget};
use buttress::clock::Now;
use buttress::gate::{KeyedConfig, by};
use buttress::idempotency::IdempotencyKeyLayer;
use buttress::retry::{RetryConfig, RetryLayer, by_clone};
use buttress::telemetry::{ObserveLayer, Observed};
use buttress::testing::Step;
use buttress::timeout::{DeadlineLayer, TimeoutLayer};
use buttress::{CallOptions, Error, ErrorIsTransient, Outcome};
use tokio::time::advance;
use tower::limit::ConcurrencyLimit;
use tower::util::BoxCloneSyncService;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};

use crate::common::{
    Failure, Inner, Listener, MS, Reported, SECOND, at_once, bad, breaker, panics, poll, settle,
    three_in_a_row,
};

type Stack = BoxCloneSyncService<(), &'static str, Failure>;
type Call = Pin<Box<dyn Future<Output = Result<&'static str, Failure>>>>;

/// The resources that a stack may hold.
struct Held {
    inner: Inner,
    limit: ConcurrencyLimit<Inner>,
    /// Half-open, with a single probe.
    breakers: Vec<Breaker>,
    budget: RetryBudget,
}

/// Stays half-open after any number of abandoned calls.
fn unchanged() -> BreakerConfig {
    three_in_a_row().abandoned(Abandoned::Ignore)
}

/// A circuit that admits one probe.
async fn probing(name: &'static str, config: BreakerConfig) -> Breaker {
    let breaker = breaker(name, config);
    settle(&breaker, 3, Outcome::TRANSIENT);
    advance(2 * SECOND).await;
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    breaker
}

impl Held {
    async fn new(script: fn(usize) -> Step<&'static str, Failure>) -> Self {
        let inner = Inner::new(script);
        let config = BudgetConfig::new().initial(5).reserve(5);
        Self {
            limit: ConcurrencyLimit::new(inner.clone(), 1),
            inner,
            breakers: vec![probing("cancel", unchanged()).await],
            budget: RetryBudget::new("cancel", config).unwrap(),
        }
    }

    /// Each layer alone, and all layers in one stack.
    async fn stacks(&mut self) -> Vec<(&'static str, Stack)> {
        let observe = ObserveLayer::new(Observed::new("cancel"), ErrorIsTransient);
        let deadline = DeadlineLayer::new("cancel", 60 * SECOND);
        let timeout = TimeoutLayer::new("cancel", 30 * SECOND);
        let wait = Backoff::constant(SECOND).jitter(Jitter::None);
        let retry = RetryLayer::new("cancel", RetryConfig::new().backoff(wait), by_clone());
        let retry = retry.unwrap().budget(self.budget.clone());
        let single = BreakerLayer::new(self.breakers[0].clone(), ErrorIsTransient);

        let keys = KeyedConfig::default();
        let keyed = Breaker::keyed("cancel", unchanged(), keys, by(|(): &()| 7)).unwrap();
        let single_key = keyed.get(&(), &Now::unread());
        settle(&single_key, 3, Outcome::TRANSIENT);
        advance(2 * SECOND).await;
        self.breakers.push((*single_key).clone());
        let keyed = BreakerLayer::new(keyed, ErrorIsTransient);

        let limit = &self.limit;
        let all = ServiceBuilder::new()
            .layer(observe.clone())
            .layer(deadline.clone())
            .layer(retry.clone())
            .layer(single.clone())
            .layer(keyed.clone())
            .layer(timeout.clone());
        vec![
            ("observe", Stack::new(observe.layer(limit.clone()))),
            ("deadline", Stack::new(deadline.layer(limit.clone()))),
            ("timeout", Stack::new(timeout.layer(limit.clone()))),
            ("retry", Stack::new(retry.layer(limit.clone()))),
            ("breaker", Stack::new(single.layer(limit.clone()))),
            ("keyed breaker", Stack::new(keyed.layer(limit.clone()))),
            ("all", Stack::new(all.service(limit.clone()))),
        ]
    }

    /// Nothing is held: no future, no permit of the limit, no probe.
    fn check(&self, at: &str) {
        assert_eq!(self.inner.live(), 0, "{at}: a future lives");
        let mut limit = self.limit.clone();
        let ready = poll(std::pin::pin!(std::future::poll_fn(|cx| {
            Service::<()>::poll_ready(&mut limit, cx)
        })));
        assert!(ready.is_ready(), "{at}: a permit of the limit is held");
        for breaker in &self.breakers {
            assert_eq!(breaker.state(), BreakerState::HalfOpen, "{at}");
            assert!(breaker.try_acquire().is_ok(), "{at}: a probe is held");
        }
    }
}

async fn begin(stack: &Stack) -> Call {
    let mut stack = stack.clone();
    stack.ready().await.unwrap();
    Box::pin(stack.call(()))
}

#[tokio::test(start_paused = true)]
async fn dropped_before_its_first_poll_a_call_holds_nothing() {
    let mut held = Held::new(|_| Step::Hang).await;
    for (name, stack) in held.stacks().await {
        for _ in 0..3 {
            drop(begin(&stack).await);
            held.check(name);
        }
    }
    assert_eq!(held.budget.balance().to_string(), "5");
}

#[tokio::test(start_paused = true)]
async fn dropped_while_the_service_works_a_call_holds_nothing() {
    let mut held = Held::new(|_| Step::After(SECOND, Ok("late"))).await;
    for (name, stack) in held.stacks().await {
        for polls in 1..4 {
            let mut call = begin(&stack).await;
            for _ in 0..polls {
                assert!(poll(call.as_mut()).is_pending(), "{name}");
                advance(250 * MS).await;
            }
            assert_eq!(held.inner.live(), 1);
            drop(call);
            held.check(name);
        }
    }
    assert_eq!(held.budget.balance().to_string(), "5");
}

#[tokio::test(start_paused = true)]
async fn a_ready_stack_that_is_dropped_unused_holds_nothing() {
    let mut held = Held::new(|_| Step::Hang).await;
    for (name, mut stack) in held.stacks().await {
        stack.ready().await.unwrap();
        drop(stack);
        held.check(name);
    }
}

#[tokio::test(start_paused = true)]
async fn dropped_at_every_point_of_a_retry_a_call_holds_nothing() {
    // First attempt, wait, becoming ready, second attempt: dropped 0, 100, 200 … ms after the start.
    for dropped_after in 0..40_u32 {
        let held = Held::new(|call| match call {
            0 => Step::After(SECOND, Err(Error::Inner("bad"))),
            _ => Step::After(SECOND, Ok("good")),
        });
        let held = held.await;
        let wait = Backoff::constant(SECOND).jitter(Jitter::None);
        let retry = RetryLayer::new("points", RetryConfig::new().backoff(wait), by_clone());
        let retry = retry.unwrap().budget(held.budget.clone());
        let stack = Stack::new(retry.layer(held.limit.clone()));
        {
            let mut call = begin(&stack).await;
            let mut done = false;
            for _ in 0..=dropped_after {
                done = done || poll(call.as_mut()).is_ready();
                advance(100 * MS).await;
            }
        }
        held.check(&format!("{dropped_after}00 ms"));
        let started = held.inner.calls() == 2;
        let balance = if started { 4.0 } else { 5.0 };
        let left = held.budget.balance();
        // A call that succeeded has made a deposit.
        assert!((left - balance).abs() < 0.3, "{dropped_after}: {left}");
        assert_eq!(started, dropped_after >= 20, "{dropped_after}");
    }
}

#[tokio::test(start_paused = true)]
async fn dropped_while_it_waits_for_readiness_a_retry_holds_nothing() {
    let held = Held::new(|_| bad()).await;
    let retry = RetryLayer::new("unready", at_once(), by_clone());
    let retry = retry.unwrap().budget(held.budget.clone());
    let mut service = retry.layer(held.inner.clone());
    service.ready().await.unwrap();
    held.inner.pend_once();
    let mut call = Box::pin(service.call(()));
    assert!(poll(call.as_mut()).is_pending());
    drop(call);
    assert_eq!(
        held.budget.balance().to_string(),
        "5",
        "the token came back"
    );
    assert_eq!((held.inner.live(), held.inner.calls()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_call_or_in_poll_leaves_nothing_held() {
    for step in [|_: usize| Step::PanicInCall, |_: usize| Step::Panic] {
        let mut held = Held::new(step).await;
        for (name, mut stack) in held.stacks().await {
            stack.ready().await.unwrap();
            assert!(panics(|| poll(Box::pin(stack.call(())).as_mut())), "{name}");
            drop(stack);
            assert_eq!(held.inner.live(), 0, "{name}");
            for breaker in &held.breakers {
                // A probe that panics has failed: the circuit is open again and admits a probe later.
                if breaker.state() == BreakerState::Open {
                    advance(2 * SECOND).await;
                }
            }
            held.check(name);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_later_attempt_leaves_nothing_held() {
    for step in [|| Step::Panic, || Step::PanicInCall] {
        let inner: Inner = Inner::new(move |call| if call == 0 { bad() } else { step() });
        let budget = RetryBudget::new("later", BudgetConfig::new()).unwrap();
        let retry = RetryLayer::new("later", at_once(), by_clone()).unwrap();
        let limit = ConcurrencyLimit::new(inner.clone(), 1);
        let mut service = retry.budget(budget.clone()).layer(limit.clone());
        service.ready().await.unwrap();
        let mut call = Box::pin(service.call(()));
        assert!(panics(|| poll(call.as_mut())));
        drop(call);
        assert_eq!((inner.live(), inner.calls()), (0, 2));
        assert_eq!(budget.balance().to_string(), "1", "one token is spent");
        let mut limit = limit;
        let ready = poll(std::pin::pin!(std::future::poll_fn(|cx| {
            Service::<()>::poll_ready(&mut limit, cx)
        })));
        assert!(ready.is_ready());
    }
}

/// A service whose calls hang twice, then panic in `call`, then in `poll`.
fn ends<Req>() -> Inner<Req> {
    Inner::new(|call| match call {
        0 | 1 => Step::Hang,
        2 => Step::PanicInCall,
        _ => Step::Panic,
    })
}

/// Drops a call before its first poll and one after it; then one panics in `call`, and one in `poll`.
async fn end_in_four_ways<S: Service<Req>, Req>(mut service: S, request: impl Fn() -> Req)
where
    S::Error: std::fmt::Debug,
{
    drop(service.ready().await.unwrap().call(request()));
    let mut call = Box::pin(service.ready().await.unwrap().call(request()));
    assert!(poll(call.as_mut()).is_pending());
    drop(call);
    for _ in 0..2 {
        let service = service.ready().await.unwrap();
        assert!(panics(|| poll(Box::pin(service.call(request())).as_mut())));
    }
}

#[tokio::test(start_paused = true)]
async fn an_observed_call_is_reported_once() {
    let listener = Listener::new("ends");
    let observe = ObserveLayer::new(Observed::new("ends"), ErrorIsTransient);
    end_in_four_ways(observe.layer(ends()), || ()).await;
    let ends = listener.take().into_iter().map(|reported| match reported {
        Reported::Finished(kind, _) => kind,
        other => panic!("{other:?}"),
    });
    let failed = Some(buttress::Kind::Transient);
    assert_eq!(ends.collect::<Vec<_>>(), [None, None, failed, failed]);
}

#[tokio::test(start_paused = true)]
async fn the_idempotency_key_layer_holds_nothing() {
    let inner = ends();
    let request = || http::Request::post("/").body(()).unwrap();
    end_in_four_ways(IdempotencyKeyLayer::new().layer(inner.clone()), request).await;
    assert_eq!(inner.live(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_passes_drops_the_inner_future_at_once() {
    let held = Held::new(|_| Step::Hang).await;
    let single = BreakerLayer::new(held.breakers[0].clone(), ErrorIsTransient);
    let stack = DeadlineLayer::new("at-once", SECOND).layer(single.layer(held.limit.clone()));
    let mut call = Box::pin(stack.oneshot(()));
    assert!(poll(call.as_mut()).is_pending());
    advance(SECOND + MS).await;
    assert!(poll(call.as_mut()).is_ready());
    // The caller still holds the future.
    held.check("deadline");
    drop(call);
}

#[test]
fn a_call_that_lives_as_long_as_its_thread_is_dropped_without_a_panic() {
    thread_local! {
        static HELD: RefCell<Option<Pin<Box<dyn Future<Output = ()>>>>> = const { RefCell::new(None) };
    }
    let thread = std::thread::spawn(|| {
        // Initialized first, so it is dropped after the crate's own thread-locals.
        HELD.set(None);
        let mut call: Pin<Box<dyn Future<Output = ()>>> = Box::pin(
            CallOptions::new()
                .idempotency_key("k")
                .scope(std::future::pending()),
        );
        assert!(poll(call.as_mut()).is_pending());
        HELD.set(Some(call));
    });
    thread.join().unwrap();
}
