//! The cost of the same call through other crates: the rows of `benches/overhead.rs`, side by side in one run and by the same
//! loops, around services that respond immediately.
//!
//! `cargo run --release --manifest-path benches/peers/Cargo.toml` prints a table and writes `benches/peers/target/peers.json`;
//! `-- breaker` takes only the rows with that word. `benches/README.md` explains the setup of each crate.

#[path = "../../support/mod.rs"]
mod support;

use std::fmt;
use std::future::{Ready, ready};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use buttress::breaker::{Breaker, BreakerConfig, BreakerLayer};
use buttress::gate::{KeyedConfig, by};
use buttress::retry::{RetryConfig, RetryLayer, by_clone};
use buttress::{ErrorIsTransient, Outcome};
use buttress::timeout::TimeoutLayer;
use failsafe::backoff;
use failsafe::futures::CircuitBreaker as _;
use layered::{Execute, Service as _, Stack as _};
use recloser::{AsyncRecloser, Recloser};
use seatbelt::breaker::{Breaker as SeatbeltBreaker, BreakerId};
use seatbelt::retry::Retry as SeatbeltRetry;
use seatbelt::timeout::Timeout as SeatbeltTimeout;
use seatbelt::{RecoveryInfo, ResilienceContext};
use support::{Noop, Table, block_on, call};
use tower::limit::ConcurrencyLimitLayer;
use tower::retry::budget::{Budget, TpsBudget};
use tower::retry::{Policy, RetryLayer as TowerRetryLayer};
use tower::timeout::TimeoutLayer as TowerTimeoutLayer;
use tower::{Layer, Service};
use tower_resilience_bulkhead::BulkheadLayer;
use tower_resilience_circuitbreaker::{
    CircuitBreakerError, CircuitBreakerLayer, SlidingWindowType,
};
use tower_resilience_retry::{RetryBudgetBuilder, RetryLayer as ResilienceRetryLayer};
use tower_resilience_timelimiter::{TimeLimiterError, TimeLimiterLayer};

const BUTTRESS: &str = "buttress";
const FAILSAFE: &str = "failsafe 1.3";
const RECLOSER: &str = "recloser 1.4";
const SEATBELT: &str = "seatbelt 0.11";
/// Without tower, its futures need no box.
const SEATBELT_ALONE: &str = "seatbelt 0.11, without tower";
const TOWER: &str = "tower 0.5.3";
const RESILIENCE: &str = "tower-resilience 0.14";

const LIMIT: Duration = Duration::from_secs(1);
const WINDOW: Duration = Duration::from_secs(10);
/// A circuit that is to stay open.
const LONG: Duration = Duration::from_secs(600);
const KEYS: u64 = 10_000;

fn main() {
    let mut table = Table::new();
    table.row("clock alone", || {
        || {
            black_box(std::time::Instant::now());
        }
    });
    table.service_around::<Plain, _>("bare service", || Plain);
    timeout(&mut table);
    consecutive_failures(&mut table);
    window(&mut table);
    rejecting(&mut table);
    retry(&mut table);
    stack(&mut table);
    stack_rejecting(&mut table);
    keyed(&mut table);
    bulkhead(&mut table);
    table.finish("peers.json");
}

/// The error of everything around which other crates are put: it allocates nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    Service,
    TimedOut,
    Refused,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Failure {}

/// A service that responds immediately, like [`Noop`], with an error that other crates can be put around.
#[derive(Clone, Copy, Debug)]
struct Plain;

impl Service<u64> for Plain {
    type Response = u64;
    type Error = Failure;
    type Future = Ready<Result<u64, Failure>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: u64) -> Self::Future {
        ready(Ok(request))
    }
}

/// The same without tower.
async fn plain(request: u64) -> Result<u64, Failure> {
    Ok(request)
}

/// A service that fails, to open circuits with; it counts who reaches it.
#[derive(Clone, Debug, Default)]
struct Broken {
    calls: Arc<AtomicU64>,
}

impl Broken {
    fn fail(&self) -> Result<u64, Failure> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        Err(Failure::Service)
    }

    /// Calls until the circuit is open, and makes sure that it is.
    fn open(&self, mut call: impl FnMut()) {
        (0..10_000).for_each(|_| call());
        let reached = self.calls.load(Ordering::Relaxed);
        (0..1000).for_each(|_| call());
        assert_eq!(
            self.calls.load(Ordering::Relaxed),
            reached,
            "the circuit is not open"
        );
    }

    /// The service around this one, its circuit open.
    fn opened<S: Service<u64>>(&self, mut service: S) -> S {
        self.open(|| call(&mut service, 7));
        service
    }
}

impl Service<u64> for Broken {
    type Response = u64;
    type Error = Failure;
    type Future = Ready<Result<u64, Failure>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: u64) -> Self::Future {
        ready(self.fail())
    }
}

/// A row of a call that is no tower service.
macro_rules! plain_row {
    ($table:expr, $name:expr, $handle:expr, |$shared:ident, $request:ident| $call:expr) => {{
        let handle = $handle;
        // The future's size is that of an expression; no trait names it.
        let bytes = {
            let ($shared, $request) = (&handle, 7_u64);
            size_of_val(&$call).saturating_sub(size_of::<Ready<Result<u64, Failure>>>())
        };
        $table.sized($name, Some(bytes), || {
            let $shared = black_box(handle.clone());
            move || {
                let $request = black_box(7);
                black_box(block_on($call).ok());
            }
        });
    }};
}

// ── How each crate is set up ──

fn buttress_breaker(config: BreakerConfig) -> BreakerLayer<ErrorIsTransient> {
    let breaker = Breaker::new("bench", config).expect("a good configuration");
    BreakerLayer::new(breaker, ErrorIsTransient)
}

fn buttress_open() -> BreakerLayer<ErrorIsTransient> {
    let config = BreakerConfig::default().open_for(LONG);
    let breaker = Breaker::new("bench", config).expect("a good configuration");
    while let Ok(permit) = breaker.try_acquire() {
        permit.settle(Outcome::TRANSIENT);
    }
    BreakerLayer::new(breaker, ErrorIsTransient)
}

fn buttress_retry() -> RetryLayer {
    RetryLayer::new("bench", RetryConfig::default(), by_clone())
        .expect("a good configuration")
}

fn context(table: &Table) -> ResilienceContext<u64, Result<u64, Failure>> {
    let _runtime = table.enter();
    ResilienceContext::new(tick::Clock::new_tokio()).name("bench")
}

/// Retries failures, but not rejections of an open circuit.
fn recovery(result: &Result<u64, Failure>) -> RecoveryInfo {
    match result {
        Ok(_) | Err(Failure::Refused) => RecoveryInfo::never(),
        Err(_) => RecoveryInfo::retry(),
    }
}

macro_rules! seatbelt_timeout {
    ($context:expr) => {
        SeatbeltTimeout::layer("timeout", $context)
            .timeout(LIMIT)
            .timeout_error(|_| Failure::TimedOut)
    };
}

macro_rules! seatbelt_breaker {
    ($context:expr) => {
        SeatbeltBreaker::layer("breaker", $context)
            .recovery_with(|result, _| recovery(result))
            .rejected_input_error(|_, _| Failure::Refused)
            .sampling_duration(WINDOW)
            .break_duration(LONG)
    };
}

macro_rules! seatbelt_retry {
    ($context:expr) => {
        SeatbeltRetry::layer("retry", $context)
            .clone_input()
            .recovery_with(|result, _| recovery(result))
            .max_retry_attempts(2)
    };
}

macro_rules! resilience_breaker {
    () => {
        CircuitBreakerLayer::builder()
            .failure_rate_threshold(0.5)
            .wait_duration_in_open(LONG)
    };
}

macro_rules! resilience_retry {
    ($error:ty) => {
        ResilienceRetryLayer::<u64, u64, $error>::builder()
            .max_attempts(3)
            .exponential_backoff(Duration::from_millis(50))
            .budget(
                RetryBudgetBuilder::new()
                    .token_bucket()
                    .build()
                    .expect("a good configuration"),
            )
    };
}

/// tower's own example of a policy with a budget, with a limit of attempts.
#[derive(Clone, Debug)]
struct Budgeted {
    budget: Arc<TpsBudget>,
    left: u32,
}

impl<E> Policy<u64, u64, E> for Budgeted {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut u64, result: &mut Result<u64, E>) -> Option<Ready<()>> {
        if result.is_ok() {
            self.budget.deposit();
            return None;
        }
        if self.left == 0 || !self.budget.withdraw() {
            return None;
        }
        self.left -= 1;
        Some(ready(()))
    }

    fn clone_request(&mut self, request: &u64) -> Option<u64> {
        Some(*request)
    }
}

// ── The rows ──

fn timeout(table: &mut Table) {
    table.group("timeout");
    let layer = TimeoutLayer::new("bench", LIMIT);
    table.service(BUTTRESS, || layer.layer(Noop));
    let layer = TowerTimeoutLayer::new(LIMIT);
    table.service_around::<Plain, _>(TOWER, || layer.layer(Plain));
    let context = context(table);
    let service = seatbelt_timeout!(&context).layer(Plain);
    table.service_around::<Plain, _>(SEATBELT, || service.clone());
    let service = (seatbelt_timeout!(&context), Execute::new(plain)).into_service();
    plain_row!(table, SEATBELT_ALONE, service, |shared, request| shared
        .execute(request));
    let service = TimeLimiterLayer::fast().build().layer(Plain);
    table.service_around::<Plain, _>(RESILIENCE, || service.clone());
}

fn consecutive_failures(table: &mut Table) {
    table.group("breaker, consecutive");
    let layer = buttress_breaker(BreakerConfig::default().failure_rate(None));
    table.service(BUTTRESS, || layer.layer(Noop));
    let policy = failsafe::failure_policy::consecutive_failures(5, backoff::constant(LONG));
    let breaker = failsafe::Config::new().failure_policy(policy).build();
    plain_row!(table, FAILSAFE, breaker, |shared, request| shared
        .call(Plain.call(request)));
    let breaker = AsyncRecloser::from(Recloser::default());
    plain_row!(table, RECLOSER, breaker, |shared, request| shared
        .call(Plain.call(request)));
    let layer = resilience_breaker!().consecutive_failures(5).build();
    let service = layer.expect("a good configuration").layer(Plain);
    table.service_around::<Plain, _>(RESILIENCE, || service.clone());
}

fn window(table: &mut Table) {
    table.group("breaker, time window");
    let layer = buttress_breaker(BreakerConfig::default());
    table.service(BUTTRESS, || layer.layer(Noop));
    let policy = failsafe::failure_policy::success_rate_over_time_window(
        0.5,
        10,
        WINDOW,
        backoff::constant(LONG),
    );
    let breaker = failsafe::Config::new().failure_policy(policy).build();
    plain_row!(table, FAILSAFE, breaker, |shared, request| shared
        .call(Plain.call(request)));
    let context = context(table);
    let service = seatbelt_breaker!(&context).layer(Plain);
    table.service_around::<Plain, _>(SEATBELT, || service.clone());
    let service = (seatbelt_breaker!(&context), Execute::new(plain)).into_service();
    plain_row!(table, SEATBELT_ALONE, service, |shared, request| shared
        .execute(request));
    let layer = resilience_breaker!().sliding_window_size(100).build();
    let service = layer.expect("a good configuration").layer(Plain);
    table.service_around::<Plain, _>("tower-resilience 0.14, 100 calls", || service.clone());
    let layer = resilience_breaker!()
        .sliding_window_type(SlidingWindowType::TimeBased)
        .sliding_window_duration(WINDOW)
        .minimum_number_of_calls(10)
        .build();
    let service = layer.expect("a good configuration").layer(Plain);
    table.service_around::<Plain, _>(RESILIENCE, || service.clone());
}

fn rejecting(table: &mut Table) {
    table.group("breaker, rejecting");
    let layer = buttress_open();
    table.service(BUTTRESS, || layer.layer(Noop));
    let policy = failsafe::failure_policy::consecutive_failures(5, backoff::constant(LONG));
    let breaker = failsafe::Config::new().failure_policy(policy).build();
    // This breaker takes a future, which is created in any case, so a call count does not show whether it is open.
    for _ in 0..100 {
        block_on(breaker.call(ready(Err::<u64, _>(Failure::Service)))).ok();
    }
    let refused = block_on(breaker.call(Plain.call(7)));
    assert!(matches!(refused, Err(failsafe::Error::Rejected)));
    plain_row!(table, FAILSAFE, breaker, |shared, request| shared
        .call(Plain.call(request)));
    let breaker = AsyncRecloser::from(Recloser::custom().open_wait(LONG).build());
    for _ in 0..1000 {
        block_on(breaker.call(ready(Err::<u64, _>(Failure::Service)))).ok();
    }
    let refused = block_on(breaker.call(Plain.call(7)));
    assert!(matches!(refused, Err(recloser::Error::Rejected)));
    plain_row!(table, RECLOSER, breaker, |shared, request| shared
        .call(Plain.call(request)));
    let context = context(table);
    let broken = Broken::default();
    let service = broken.opened(seatbelt_breaker!(&context).layer(broken.clone()));
    table.service_around::<Plain, _>(SEATBELT, || service.clone());
    let broken = Broken::default();
    let inner = broken.clone();
    let fail = move |_: u64| ready(inner.fail());
    let service = (seatbelt_breaker!(&context), Execute::new(fail)).into_service();
    broken.open(|| {
        block_on(service.execute(7)).ok();
    });
    plain_row!(table, SEATBELT_ALONE, service, |shared, request| shared
        .execute(request));
    let layer = resilience_breaker!().build().expect("a good configuration");
    let broken = Broken::default();
    let service = broken.opened(layer.layer(broken.clone()));
    table.service_around::<Plain, _>(RESILIENCE, || service.clone());
}

fn retry(table: &mut Table) {
    table.group("retry + budget");
    let layer = buttress_retry();
    table.service(BUTTRESS, || layer.layer(Noop));
    let layer = TowerRetryLayer::new(Budgeted {
        budget: Arc::new(TpsBudget::default()),
        left: 2,
    });
    table.service_around::<Plain, _>(TOWER, || layer.layer(Plain));
    let context = context(table);
    let service = seatbelt_retry!(&context).layer(Plain);
    table.service_around::<Plain, _>("seatbelt 0.11, which has no budget", || service.clone());
    let service = (seatbelt_retry!(&context), Execute::new(plain)).into_service();
    plain_row!(
        table,
        "seatbelt 0.11, without tower, no budget",
        service,
        |shared, request| shared.execute(request)
    );
    let service = resilience_retry!(Failure).build().layer(Plain);
    table.service_around::<Plain, _>(RESILIENCE, || service.clone());
}

fn stack(table: &mut Table) {
    table.group("retry + breaker + timeout");
    let (retry, timeout) = (buttress_retry(), TimeoutLayer::new("bench", LIMIT));
    let breaker = buttress_breaker(BreakerConfig::default());
    table.service(BUTTRESS, || retry.layer(breaker.layer(timeout.layer(Noop))));
    let context = context(table);
    let service = seatbelt_retry!(&context)
        .layer(seatbelt_breaker!(&context).layer(seatbelt_timeout!(&context).layer(Plain)));
    table.service_around::<Plain, _>(SEATBELT, || service.clone());
    let service = (
        seatbelt_retry!(&context),
        seatbelt_breaker!(&context),
        seatbelt_timeout!(&context),
        Execute::new(plain),
    )
        .into_service();
    plain_row!(table, SEATBELT_ALONE, service, |shared, request| shared
        .execute(request));
    let breaker = resilience_breaker!().build().expect("a good configuration");
    let timeout = TimeLimiterLayer::fast().build();
    let retry = resilience_retry!(CircuitBreakerError<TimeLimiterError<Failure>>).build();
    let service = retry.layer(breaker.layer(timeout.layer(Plain)));
    table.service_around::<Plain, _>(RESILIENCE, || service.clone());
}

fn stack_rejecting(table: &mut Table) {
    table.group("retry + breaker + timeout, rejecting");
    let (retry, timeout) = (buttress_retry(), TimeoutLayer::new("bench", LIMIT));
    let breaker = buttress_open();
    table.service(BUTTRESS, || retry.layer(breaker.layer(timeout.layer(Noop))));
    let context = context(table);
    let broken = Broken::default();
    let inner = seatbelt_timeout!(&context).layer(broken.clone());
    let breaker = {
        let _runtime = table.enter();
        broken.opened(seatbelt_breaker!(&context).layer(inner))
    };
    let service = seatbelt_retry!(&context).layer(breaker);
    table.service_around::<Plain, _>(SEATBELT, || service.clone());
    let broken = Broken::default();
    let inner = TimeLimiterLayer::fast().build().layer(broken.clone());
    let breaker = resilience_breaker!().build().expect("a good configuration");
    let breaker = {
        let _runtime = table.enter();
        broken.opened(breaker.layer(inner))
    };
    // By default it would wait and call the open circuit again.
    let retry = resilience_retry!(CircuitBreakerError<TimeLimiterError<Failure>>)
        .retry_on(|error| !matches!(error, CircuitBreakerError::OpenCircuit))
        .build();
    let service = retry.layer(breaker);
    table.service_around::<Plain, _>(RESILIENCE, || service.clone());
}

fn keyed(table: &mut Table) {
    table.group("keyed breaker, 10 000 keys");
    let keys = KeyedConfig::default().max_keys(20_000);
    let by_request = by(|request: &u64| *request);
    let breaker = Breaker::keyed("bench", BreakerConfig::default(), keys, by_request);
    let layer = BreakerLayer::new(breaker.expect("a good configuration"), ErrorIsTransient);
    table.row(BUTTRESS, || each_key(layer.layer(Noop)));
    let context = context(table);
    let service = seatbelt_breaker!(&context)
        .breaker_id(|request: &u64| BreakerId::from(*request))
        .layer(Plain);
    table.row(SEATBELT, || each_key(service.clone()));
}

/// Calls with one key after the other, all of which are known.
fn each_key<S: Service<u64, Response = u64>>(service: S) -> impl FnMut() {
    let mut service = black_box(service);
    (0..KEYS).for_each(|key| call(&mut service, key));
    let mut key = 0;
    move || {
        key = (key + 7919) % KEYS;
        call(&mut service, key);
    }
}

fn bulkhead(table: &mut Table) {
    table.group("bulkhead");
    let service = ConcurrencyLimitLayer::new(1000).layer(Plain);
    table.service_around::<Plain, _>(TOWER, || service.clone());
    let layer = BulkheadLayer::builder().max_concurrent_calls(1000).build();
    let service = layer.expect("a good configuration").layer(Plain);
    table.service_around::<Plain, _>(RESILIENCE, || service.clone());
}
