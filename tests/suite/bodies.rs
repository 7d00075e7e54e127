//! Callers who leave, and bodies that stall, take long, or end without a status.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use buttress::breaker::{Abandoned, Breaker, BreakerConfig, BreakerLayer, BreakerState};
use buttress::budget::BudgetConfig;
use buttress::event::{Event, subscribe};
use buttress::http::{AtBodyEnd, ByGrpcStatus, ByStatus, ClientConfig, client, grpc};
use buttress::retry::RetryConfig;
use buttress::timeout::DeadlineLayer;
use buttress::{CallOptions, Error, ErrorIsTransient, Kind, Outcome};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use tokio::time::{advance, sleep, timeout};
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};

use crate::client::Broken;
use crate::common::{MS, SECOND, breaker, three_in_a_row};

// ── bodies ──

/// The next step of a body.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    /// A frame, after this time.
    Data(Duration),
    /// gRPC trailers, after this time.
    Status(&'static str, Duration),
    Stall,
    Fail,
    Panic,
}

/// A body that follows a script.
#[derive(Debug)]
pub(crate) struct Parts {
    left: VecDeque<Part>,
    timer: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Parts {
    pub(crate) fn of(parts: impl IntoIterator<Item = Part>) -> Self {
        Self {
            left: parts.into_iter().collect(),
            timer: None,
        }
    }
}

impl Body for Parts {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let after = match self.left.front() {
            None => return Poll::Ready(None),
            Some(Part::Stall) => return Poll::Pending,
            Some(Part::Panic) => panic!("scripted panic"),
            Some(Part::Fail) => Duration::ZERO,
            Some(Part::Data(after) | Part::Status(_, after)) => *after,
        };
        if !after.is_zero() {
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(after)));
            ready!(timer.as_mut().poll(cx));
        }
        self.timer = None;
        let frame = match self.left.pop_front() {
            Some(Part::Fail) => return Poll::Ready(Some(Err(Broken))),
            Some(Part::Status(status, _)) => {
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static(status));
                Frame::trailers(trailers)
            }
            _ => Frame::data(Bytes::from_static(b"part")),
        };
        Poll::Ready(Some(Ok(frame)))
    }
}

type Server = BoxCloneSyncService<Request<String>, Response<Parts>, Infallible>;

/// A server whose responses have this content type and these bodies.
fn serves<P>(
    content_type: &'static str,
    body: impl Fn() -> P + Clone + Send + Sync + 'static,
) -> Server
where
    P: IntoIterator<Item = Part>,
{
    BoxCloneSyncService::new(service_fn(move |_| {
        let response = Response::builder().header("content-type", content_type);
        std::future::ready(Ok(response.body(Parts::of(body())).unwrap()))
    }))
}

fn get() -> Request<String> {
    Request::new(String::new())
}

/// Reads the whole response, for at most this time.
async fn reads<B>(response: Response<B>, patience: Duration) -> bool
where
    B: Body<Error: std::fmt::Debug>,
{
    timeout(patience, response.into_body().collect())
        .await
        .is_ok_and(|read| read.is_ok())
}

fn half_open_config() -> BreakerConfig {
    three_in_a_row().consecutive_failures(Some(1)).probes(3)
}

/// A breaker that has opened and may probe.
async fn half_open(name: &'static str, config: BreakerConfig) -> Breaker {
    let breaker = breaker(name, config);
    breaker.try_acquire().unwrap().settle(Outcome::TRANSIENT);
    advance(config.open_for).await;
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    breaker
}

// ── callers who leave before the head ──

/// Callers that arrive at an interval of `every`, and leave after their `patience`.
async fn callers(
    breaker: &Breaker,
    takes: Duration,
    patience: Duration,
    every: Duration,
    n: usize,
) {
    let service = BreakerLayer::new(breaker.clone(), ErrorIsTransient).layer(service_fn(
        move |()| async move {
            sleep(takes).await;
            Ok::<_, Error<Infallible>>(())
        },
    ));
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..n {
        let call = service.clone().oneshot(());
        callers.spawn(async move { timeout(patience, call).await.is_ok() });
        sleep(every).await;
    }
    callers.join_all().await;
}

const HUNG: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn thirty_callers_who_leave_early_do_not_open_the_circuit_of_a_healthy_service() {
    let breaker = breaker("impatient-users", BreakerConfig::default());
    callers(&breaker, 400 * MS, 250 * MS, 100 * MS, 30).await;
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_hung_service_opens_the_circuit_within_eleven_seconds_however_early_callers_leave() {
    for patience in [10 * MS, 300 * MS, 999 * MS] {
        let breaker = breaker("hung-early", BreakerConfig::default());
        let every = 100 * MS;
        callers(&breaker, HUNG, patience, every, 99).await;
        assert_eq!(breaker.state(), BreakerState::Closed, "{patience:?}");
        callers(&breaker, HUNG, patience, every, 2).await;
        assert_eq!(breaker.state(), BreakerState::Open, "{patience:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hung_service_opens_the_circuit_in_a_second_if_callers_are_patient() {
    let breaker = breaker("hung-late", BreakerConfig::default());
    callers(&breaker, HUNG, SECOND, 55 * MS, 20).await;
    assert_eq!(breaker.state(), BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_a_short_call_is_a_setting_and_only_detection_reads_it() {
    for (config, state) in [
        (
            BreakerConfig::default().abandoned_after(200 * MS),
            BreakerState::Open,
        ),
        (
            BreakerConfig::default().abandoned(Abandoned::Failure),
            BreakerState::Open,
        ),
        (
            BreakerConfig::default().abandoned(Abandoned::Ignore),
            BreakerState::Closed,
        ),
    ] {
        let breaker = breaker("patience", config);
        callers(&breaker, HUNG, 250 * MS, 60 * MS, 25).await;
        assert_eq!(breaker.state(), state, "{:?}", config.abandoned);
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_call_rule_does_not_change_how_abandoned_calls_count() {
    let config = BreakerConfig::default().slow_rate(Some(0.5));
    let early = breaker("slow-early", config);
    callers(&early, 400 * MS, 250 * MS, 100 * MS, 30).await;
    assert_eq!(early.state(), BreakerState::Closed);
    let late = breaker("slow-late", config);
    callers(&late, HUNG, SECOND, 55 * MS, 20).await;
    assert_eq!(late.state(), BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_permit_without_tower_measures_how_long_its_caller_waited() {
    for (waited, state) in [
        (999 * MS, BreakerState::Closed),
        (SECOND, BreakerState::Open),
    ] {
        let breaker = breaker("by-permit", BreakerConfig::default().min_calls(2));
        for _ in 0..2 {
            let permit = breaker.try_acquire().unwrap();
            advance(waited).await;
            drop(permit);
        }
        advance(SECOND).await;
        let permit = breaker.try_acquire();
        assert_eq!(permit.is_ok(), state == BreakerState::Closed, "{waited:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_abandoned_late_has_failed_and_one_abandoned_early_is_released() {
    let late = half_open("late-probe", half_open_config()).await;
    callers(&late, HUNG, SECOND, MS, 1).await;
    assert_eq!(late.state(), BreakerState::Open);
    let early = half_open("early-probe", half_open_config()).await;
    callers(&early, HUNG, 999 * MS, SECOND, 10).await;
    assert_eq!(early.state(), BreakerState::HalfOpen);
    callers(&early, HUNG, 999 * MS, SECOND, 2).await;
    assert_eq!(
        early.state(),
        BreakerState::Open,
        "nothing came back for 10 s"
    );
}

// ── bodies that stall ──

#[tokio::test(start_paused = true)]
async fn a_server_that_stalls_after_the_head_opens_the_circuit_though_every_caller_leaves() {
    let server = serves("text/plain", || [Part::Data(MS), Part::Stall]);
    let layer = client("stalls", ClientConfig::default()).unwrap();
    let stack = layer.layer(server);
    let mut refused = 0;
    for _ in 0..60 {
        // Five seconds of patience, less than every limit of the stack.
        match stack.clone().oneshot(get()).await {
            Ok(response) => {
                let stack = stack.clone();
                tokio::spawn(async move {
                    drop(stack);
                    assert!(!reads(response, 5 * SECOND).await);
                });
            }
            Err(_) => refused += 1,
        }
        sleep(250 * MS).await;
    }
    assert!(refused > 0, "the circuit never opened");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stalls_opens_the_circuit_though_every_caller_has_a_deadline() {
    for (patience, calls) in [(300 * MS, 101), (5 * SECOND, 25)] {
        let breaker = breaker("stalls-deadline", BreakerConfig::default());
        let server = serves("text/plain", || [Part::Stall]);
        let stack = ServiceBuilder::new()
            .layer(DeadlineLayer::new("total", patience))
            .layer(
                BreakerLayer::new(breaker.clone(), ByStatus::new())
                    .finish(AtBodyEnd::new("stalls", 10 * SECOND)),
            )
            .map_err(Error::Inner)
            .service(server);
        for _ in 0..calls {
            let Ok(response) = stack.clone().oneshot(get()).await else {
                break;
            };
            tokio::spawn(reads(response, HUNG));
            sleep(100 * MS).await;
        }
        sleep(patience).await;
        assert_eq!(breaker.state(), BreakerState::Open, "{patience:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_dropped_between_frames_settles_the_call_with_its_heads_outcome() {
    let breaker = half_open("between-frames", half_open_config().probes(1)).await;
    let server = serves("text/plain", || [Part::Data(MS), Part::Stall]);
    let stack = BreakerLayer::new(breaker.clone(), ByStatus::new())
        .finish(AtBodyEnd::new("between", 10 * SECOND))
        .layer(server.map_err(Error::Inner));
    let mut body = stack.oneshot(get()).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    sleep(5 * SECOND).await;
    drop(body);
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_waits_between_two_frames_is_as_patient_as_its_last_wait() {
    // A healthy download, which users stop early.
    let parts = || std::iter::repeat_n(Part::Data(300 * MS), 100);
    let breaker = breaker("stopped", BreakerConfig::default());
    let stack = BreakerLayer::new(breaker.clone(), ByStatus::new())
        .finish(AtBodyEnd::new("stopped", 10 * SECOND))
        .layer(serves("text/plain", parts).map_err(Error::Inner));
    for _ in 0..30 {
        let response = stack.clone().oneshot(get()).await.unwrap();
        tokio::spawn(reads(response, 5 * SECOND));
        sleep(200 * MS).await;
    }
    assert_eq!(breaker.state(), BreakerState::Closed);
}

// ── bodies that take long ──

#[tokio::test(start_paused = true)]
async fn a_half_open_circuit_in_front_of_healthy_long_downloads_closes() {
    let parts = || std::iter::repeat_n(Part::Data(SECOND), 11);
    let fails = Arc::new(Mutex::new(true));
    let failing = Arc::clone(&fails);
    let server = service_fn(move |_: Request<String>| {
        let status = if *failing.lock().unwrap() { 500 } else { 200 };
        let response = Response::builder().status(status);
        let parts = (status == 200).then(parts).into_iter().flatten();
        std::future::ready(Ok::<_, Infallible>(
            response.body(Parts::of(parts)).unwrap(),
        ))
    });
    let config = ClientConfig::default()
        .total(Duration::MAX)
        .retry(None)
        .breaker(half_open_config());
    let layer = client("long", config).unwrap();
    let stack = layer.layer(server);
    stack.clone().oneshot(get()).await.unwrap();
    *fails.lock().unwrap() = false;
    sleep(2 * SECOND).await;
    let mut downloads = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let response = stack.clone().oneshot(get()).await.unwrap();
        downloads.spawn(reads(response, HUNG));
        sleep(100 * MS).await;
    }
    assert_eq!(downloads.join_all().await, [true; 3]);
    let state = layer.breakers().unwrap().entries()[0].1.state();
    assert_eq!(state, BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_never_ends_has_succeeded_one_timeout_after_its_head() {
    let endless = || std::iter::repeat_n(Part::Data(SECOND), 1000);
    for content_type in ["application/grpc-web", "application/grpc"] {
        let breaker = half_open("endless", half_open_config()).await;
        let stack = BreakerLayer::new(breaker.clone(), ByGrpcStatus::new())
            .finish(AtBodyEnd::new("endless", 10 * SECOND))
            .layer(serves(content_type, endless).map_err(Error::Inner));
        let mut streams = tokio::task::JoinSet::new();
        for _ in 0..3 {
            let response = stack.clone().oneshot(get()).await.unwrap();
            streams.spawn(reads(response, HUNG));
        }
        sleep(9 * SECOND).await;
        assert_eq!(breaker.state(), BreakerState::HalfOpen, "{content_type}");
        sleep(2 * SECOND).await;
        assert_eq!(breaker.state(), BreakerState::Closed, "{content_type}");
        // They end with the test and do not count.
        streams.shutdown().await;
        assert_eq!(breaker.snapshot().total, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_whose_body_stalls_is_lost() {
    let breaker = half_open("stalled-probe", half_open_config().open_for(60 * SECOND)).await;
    let parts = || [Part::Data(4 * SECOND), Part::Data(4 * SECOND), Part::Stall];
    let stack = BreakerLayer::new(breaker.clone(), ByStatus::new())
        .finish(AtBodyEnd::new("stalled", Duration::MAX))
        .layer(serves("text/plain", parts).map_err(Error::Inner));
    let response = stack.oneshot(get()).await.unwrap();
    let reading = tokio::spawn(reads(response, HUNG));
    sleep(17 * SECOND).await;
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    // Timers are late by up to a millisecond each.
    sleep(SECOND + 10 * MS).await;
    assert_eq!(breaker.state(), BreakerState::Open);
    reading.abort();
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_streams_is_decided_by_its_head() {
    let breaker = half_open("streaming-probe", half_open_config().probes(1)).await;
    let stack = BreakerLayer::new(breaker.clone(), ByGrpcStatus::new())
        .finish(AtBodyEnd::new("streaming", Duration::MAX))
        .layer(serves("application/grpc", || [Part::Stall]).map_err(Error::Inner));
    let call = CallOptions::new().streams(true).scope(stack.oneshot(get()));
    let _response = call.await.unwrap();
    assert_eq!(breaker.state(), BreakerState::Closed);
}

// ── gRPC ──

const GRPC: &str = "application/grpc";

#[tokio::test(start_paused = true)]
async fn a_grpc_body_that_ends_without_a_status_is_a_failure() {
    let opens = async |content_type, parts: &'static [Part]| {
        let breaker = breaker("no-status", three_in_a_row().consecutive_failures(Some(1)));
        let stack = BreakerLayer::new(breaker.clone(), ByGrpcStatus::new())
            .finish(AtBodyEnd::new("no-status", 10 * SECOND))
            .layer(serves(content_type, || parts.iter().copied()).map_err(Error::Inner));
        assert!(reads(stack.oneshot(get()).await.unwrap(), SECOND).await);
        breaker.state() == BreakerState::Open
    };
    assert!(opens(GRPC, &[]).await);
    assert!(opens(GRPC, &[Part::Data(MS)]).await);
    assert!(opens(GRPC, &[Part::Status("2", MS)]).await);
    assert!(!opens(GRPC, &[Part::Data(MS), Part::Status("0", MS)]).await);
    assert!(!opens("application/grpc-web+proto", &[Part::Data(MS)]).await);
}

#[tokio::test(start_paused = true)]
async fn a_half_open_circuit_opens_again_when_grpc_statuses_are_missing() {
    let breaker = half_open("no-status-probe", half_open_config()).await;
    let stack = BreakerLayer::new(breaker.clone(), ByGrpcStatus::new())
        .finish(AtBodyEnd::new("no-status", 10 * SECOND))
        .layer(serves(GRPC, || [Part::Data(MS)]).map_err(Error::Inner));
    assert!(reads(stack.oneshot(get()).await.unwrap(), SECOND).await);
    assert_eq!(breaker.state(), BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_grpc_body_dropped_between_messages_is_neutral() {
    let breaker = half_open("dropped-grpc", half_open_config().probes(1)).await;
    let stack = BreakerLayer::new(breaker.clone(), ByGrpcStatus::new())
        .finish(AtBodyEnd::new("dropped", 10 * SECOND))
        .layer(serves(GRPC, || [Part::Data(MS), Part::Stall]).map_err(Error::Inner));
    let mut body = stack.oneshot(get()).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    drop(body);
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    breaker.try_acquire().unwrap().settle(Outcome::SUCCESS);
    assert_eq!(breaker.state(), BreakerState::Closed, "its place is free");
}

/// The reported outcomes of a gRPC call and its attempt, what it reads, and the balance of a budget that was empty, in
/// hundredths.
async fn grpc_call(
    name: &'static str,
    parts: &'static [Part],
    read: impl AsyncFnOnce(GrpcResponse) -> (),
) -> (Vec<(String, Option<Kind>)>, i32) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let _subscription = subscribe(move |event: &Event<'_>| {
        let part = event.source().name().strip_prefix(name);
        if let (Event::Finished { outcome, .. }, Some(part)) = (event, part) {
            let kind = outcome.map(|outcome| outcome.kind);
            log.lock().unwrap().push((part.to_owned(), kind));
        }
    });
    let budget = BudgetConfig::throttle(10, 0.5);
    let config = ClientConfig::default()
        .budget(budget)
        .retry(RetryConfig::default());
    let layer = grpc(name, config)
        .unwrap()
        .replay(|_| buttress::retry::by_clone());
    let stack = layer.layer(serves(GRPC, || parts.iter().copied()));
    let response = stack.clone().oneshot(get()).await.unwrap();
    let budget = layer.budgets().unwrap().entries().remove(0).1;
    // As after two failures.
    budget.failed(&Outcome::TRANSIENT);
    budget.failed(&Outcome::TRANSIENT);
    assert_eq!(*seen.lock().unwrap(), [], "the status is yet to come");
    read(response.map(BodyExt::boxed_unsync)).await;
    #[expect(clippy::cast_possible_truncation, reason = "a few tokens")]
    let balance = (budget.balance() * 100.0).round() as i32;
    (std::mem::take(&mut *seen.lock().unwrap()), balance)
}

type GrpcResponse = Response<UnsyncBoxBody<Bytes, Error<Broken>>>;

fn both(kind: Option<Kind>) -> Vec<(String, Option<Kind>)> {
    vec![(".attempt".to_owned(), kind), (".call".to_owned(), kind)]
}

#[tokio::test(start_paused = true)]
async fn a_grpc_call_is_judged_at_its_trailers_by_observers_and_the_budget() {
    let all = async |response| assert!(reads(response, SECOND).await);
    let call = grpc_call("late-ok", &[Part::Data(MS), Part::Status("0", MS)], all).await;
    assert_eq!(call, (both(Some(Kind::Success)), 850));
    let call = grpc_call("late-14", &[Part::Data(MS), Part::Status("14", MS)], all).await;
    assert_eq!(
        call,
        (both(Some(Kind::Transient)), 700),
        "a failure costs a token"
    );
    let call = grpc_call("late-5", &[Part::Data(MS), Part::Status("5", MS)], all).await;
    assert_eq!(call, (both(Some(Kind::Permanent)), 850));
    let call = grpc_call("late-none", &[Part::Data(MS)], all).await;
    assert_eq!(
        call,
        (both(Some(Kind::Transient)), 800),
        "never retried: no token"
    );
}

#[tokio::test(start_paused = true)]
async fn a_grpc_call_that_is_abandoned_has_no_outcome() {
    let leaves = async |response| assert!(!reads(response, SECOND).await);
    let call = grpc_call("abandoned-grpc", &[Part::Data(MS), Part::Stall], leaves).await;
    assert_eq!(call, (both(None), 800));
    let drops = async |response| drop(response);
    let call = grpc_call("dropped-grpc", &[Part::Data(MS), Part::Stall], drops).await;
    assert_eq!(call, (both(Some(Kind::Neutral)), 800));
}

#[tokio::test(start_paused = true)]
async fn a_grpc_stream_is_judged_at_its_head() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let _subscription = subscribe(move |event: &Event<'_>| {
        if let (Event::Finished { outcome, .. }, true) =
            (event, event.source().name().starts_with("grpc-stream."))
        {
            log.lock()
                .unwrap()
                .push(outcome.map(|outcome| outcome.kind));
        }
    });
    let layer = grpc("grpc-stream", ClientConfig::default()).unwrap();
    let layer = layer.replay(|_| buttress::retry::by_clone());
    let stack = layer.layer(serves(GRPC, || [Part::Stall]));
    let call = CallOptions::new().streams(true).scope(stack.oneshot(get()));
    let response = call.await.unwrap();
    assert_eq!(*seen.lock().unwrap(), [Some(Kind::Success); 2]);
    drop(response);
    assert_eq!(seen.lock().unwrap().len(), 2);
}
