//! The caller's side: reads the request, starts a task for the operation, and waits.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use ::http::request::Parts;
use ::http::{HeaderMap, Request, Response};
use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::LengthLimitError;
use pin_project::pin_project;
use tokio::sync::oneshot;
use tower_service::Service;

use crate::detach::detach;
use crate::error::{BoxError, CallError, Reason, Rejected};
use crate::idempotency::record::RecordKey;
use crate::idempotency::server::engine::Engine;
use crate::idempotency::server::execution::caller::Caller;
use crate::idempotency::server::execution::progress::Running;
use crate::idempotency::server::execution::run::run;
use crate::idempotency::server::operation::RunArgs;
use crate::idempotency::server::response::body::StoredBody;
use crate::key_problem::KeyProblem;

/// The future of the service of [`IdempotencyLayer`](crate::idempotency::server::IdempotencyLayer).
///
/// # Cancel safety
///
/// If this is dropped before the request's body was read, nothing has happened. If it is dropped later, the operation
/// continues, and its response is stored for the next request with this key.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct IdempotencyFuture<S, B, Res>
where
    S: Service<Request<StoredBody<B>>>,
{
    #[pin]
    state: State<S, B, Res, S::Future, S::Error>,
}

#[pin_project(project = Projected)]
enum State<S, B, Res, F, E> {
    Passing(#[pin] F),
    /// `None` after completion.
    Refused(Option<Rejected>),
    /// Boxed, because calls that are not guarded should not pay for its size.
    Reading(Pin<Box<Reading<S, B>>>),
    Waiting(
        oneshot::Receiver<Result<Response<StoredBody<Res>>, E>>,
        Arc<Engine>,
    ),
}

#[pin_project]
struct Reading<S, B> {
    #[pin]
    body: B,
    read: BytesMut,
    trailers: Option<HeaderMap>,
    /// `None` after the body was read.
    request: Option<(Arc<Engine>, S, Parts, String, RecordKey, Running)>,
}

impl<S, B, Res> IdempotencyFuture<S, B, Res>
where
    S: Service<Request<StoredBody<B>>>,
{
    pub(in crate::idempotency::server) fn passing(future: S::Future) -> Self {
        let state = State::Passing(future);
        Self { state }
    }

    pub(in crate::idempotency::server) fn refused(rejected: Rejected) -> Self {
        let state = State::Refused(Some(rejected));
        Self { state }
    }

    pub(in crate::idempotency::server) fn reading(
        engine: Arc<Engine>,
        inner: S,
        parts: Parts,
        body: B,
        key: String,
        record: RecordKey,
        running: Running,
    ) -> Self {
        let state = State::Reading(Box::pin(Reading {
            body,
            read: BytesMut::new(),
            trailers: None,
            request: Some((engine, inner, parts, key, record, running)),
        }));
        Self { state }
    }
}

impl<S, B, Res> fmt::Debug for IdempotencyFuture<S, B, Res>
where
    S: Service<Request<StoredBody<B>>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyFuture").finish_non_exhaustive()
    }
}

impl<S, B, Res> Future for IdempotencyFuture<S, B, Res>
where
    S: Service<Request<StoredBody<B>>, Response = Response<Res>> + Send + 'static,
    S::Error: CallError + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    Res: Body<Data = Bytes> + Send + 'static,
{
    type Output = Result<Response<StoredBody<Res>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                Projected::Passing(future) => {
                    let result = ready!(future.poll(cx));
                    state.set(State::Refused(None));
                    return Poll::Ready(result.map(|response| response.map(StoredBody::passing)));
                }
                Projected::Refused(rejected) => {
                    let rejected = rejected.take();
                    let rejected = rejected.expect("`IdempotencyFuture` polled after completion");
                    return Poll::Ready(Err(rejected.into()));
                }
                Projected::Reading(reading) => {
                    let reading = reading.as_mut().project();
                    let (read, trailers) = (reading.read, reading.trailers);
                    let max = match reading.request {
                        Some((engine, ..)) => engine.config.max_request_body,
                        None => return Poll::Pending,
                    };
                    let whole = ready!(poll_whole(reading.body, read, trailers, max, cx));
                    let Some((engine, inner, mut parts, key, record, running)) =
                        reading.request.take()
                    else {
                        return Poll::Pending;
                    };
                    let next = match whole {
                        Ok(()) => {
                            let (caller, result) = oneshot::channel();
                            let data = std::mem::take(read).freeze();
                            let args = RunArgs {
                                key,
                                record,
                                fingerprint: engine.fingerprint(&mut parts, &data),
                                storage: engine.config.storage,
                                fail_open: engine.config.fail_open,
                            };
                            let body = StoredBody::whole(data, trailers.take());
                            let request = Request::from_parts(parts, body);
                            let caller = Caller::new(caller);
                            let engine_of_run = Arc::clone(&engine);
                            detach(run(engine_of_run, inner, request, args, running, caller));
                            State::Waiting(result, engine)
                        }
                        Err(problem) => State::Refused(Some(engine.refuse(problem))),
                    };
                    state.set(next);
                }
                Projected::Waiting(result, engine) => {
                    let result = ready!(Pin::new(result).poll(cx));
                    // Without a result, the runtime is shutting down, or a store has panicked.
                    let result = result
                        .unwrap_or_else(|_| Err(engine.refuse(KeyProblem::InProgress).into()));
                    state.set(State::Refused(None));
                    return Poll::Ready(result);
                }
            }
        }
    }
}

/// Reads the whole body.
fn poll_whole<B: Body<Data = Bytes, Error: Into<BoxError>>>(
    mut body: Pin<&mut B>,
    read: &mut BytesMut,
    trailers: &mut Option<HeaderMap>,
    max: usize,
    cx: &mut Context<'_>,
) -> Poll<Result<(), KeyProblem>> {
    let too_large = Poll::Ready(Err(KeyProblem::TooLarge(Some(max))));
    loop {
        let left = max.saturating_sub(read.len());
        // A body that declares a larger size is not read at all.
        if body.size_hint().lower() > left as u64 {
            return too_large;
        }
        let Some(frame) = ready!(body.as_mut().poll_frame(cx)) else {
            return Poll::Ready(Ok(()));
        };
        match frame.map_err(body_problem)?.into_data() {
            Ok(data) if data.len() > left => return too_large,
            Ok(data) => read.extend_from_slice(&data),
            Err(frame) => *trailers = frame.into_trailers().ok(),
        }
    }
}

/// The problem of a request whose body failed.
fn body_problem(error: impl Into<BoxError>) -> KeyProblem {
    let error = error.into();
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(&*error);
    while let Some(error) = next {
        if error.is::<LengthLimitError>() {
            return KeyProblem::TooLarge(None);
        }
        if is_time_limit(error) {
            return KeyProblem::TooSlow;
        }
        // `io::Error::source` skips the error that it wraps.
        let held = error.downcast_ref().and_then(io::Error::get_ref);
        next = match held {
            Some(held) => Some(held),
            None => error.source(),
        };
    }
    KeyProblem::Incomplete
}

/// The message of `tower_http::timeout::TimeoutBody`'s error. Naming its type needs a dependency, so a test checks the text.
const TOWER_HTTP: &str = "data was not received within the designated timeout";

fn is_time_limit(error: &(dyn std::error::Error + 'static)) -> bool {
    let is_idle = |rejected: &Rejected| matches!(rejected.reason, Reason::BodyIdle { .. });
    let timed_out = |error: &io::Error| error.kind() == io::ErrorKind::TimedOut;
    error.is::<tokio::time::error::Elapsed>()
        || error.downcast_ref().is_some_and(is_idle)
        || error.downcast_ref().is_some_and(timed_out)
        || error.to_string() == TOWER_HTTP
}
