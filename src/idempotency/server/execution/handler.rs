//! Runs the handler and reads its response.

use std::collections::VecDeque;
use std::future::{Future, pending, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use ::http::header::CONTENT_TYPE;
use ::http::response::Parts;
use ::http::{HeaderMap, Request, Response, StatusCode};
use bytes::{Bytes, BytesMut};
use http_body::Body;
use pin_project::pin_project;
use tokio::time::timeout;
use tower_service::Service;

use crate::deadline::Deadline;
use crate::error::{CallError, Reason, Rejected};
use crate::idempotency::server::config::IdempotencyConfig;
use crate::idempotency::server::engine::Engine;
use crate::idempotency::server::execution::caller::Caller;
use crate::idempotency::server::operation::Operation;
use crate::idempotency::server::response::body::StoredBody;
use crate::key_problem::KeyProblem;

/// The result of the handler.
pub(in crate::idempotency::server) enum HandlerOutcome<Res, E> {
    /// A response whose body was read.
    Response {
        head: Parts,
        body: Bytes,
        trailers: Option<HeaderMap>,
    },
    /// A response that passes through and cannot be stored: it streams, or it is too large.
    Unbuffered(Response<StoredBody<Res>>),
    /// The handler was not called.
    Refused(E),
    /// The caller left before the handler was called.
    CallerLeft,
    Failed(E),
    /// No response: the handler panicked or took too long, or its body failed.
    Problem(KeyProblem),
}

/// Runs the handler, for at most `max_run`.
pub(in crate::idempotency::server) async fn handle<S, B, Res>(
    operation: &Operation,
    inner: S,
    request: Request<StoredBody<B>>,
    caller: &mut Caller<Res, S::Error>,
) -> HandlerOutcome<Res, S::Error>
where
    S: Service<Request<StoredBody<B>>, Response = Response<Res>>,
    S::Error: CallError,
    Res: Body<Data = Bytes>,
{
    let engine = operation.engine();
    let called = AtomicBool::new(false);
    let work = call_handler(operation, inner, request, caller, &called);
    match bounded(&engine.config, work).await {
        Ok(outcome) => outcome,
        // The service was not ready in all this time, so it was not called.
        Err(KeyProblem::Unknown)
            if !called.load(Ordering::Relaxed) || was_never_taken(operation) =>
        {
            let name = Arc::clone(engine.source.name());
            HandlerOutcome::Refused(Rejected::new(Reason::Deadline, name).into())
        }
        Err(problem) => HandlerOutcome::Problem(problem),
    }
}

/// Runs the handler without a record, for at most `max_run`.
pub(in crate::idempotency::server) async fn unprotected<S, B, Res>(
    engine: &Engine,
    mut inner: S,
    request: Request<StoredBody<B>>,
) -> Result<Response<StoredBody<Res>>, S::Error>
where
    S: Service<Request<StoredBody<B>>, Response = Response<Res>>,
    S::Error: CallError,
{
    let work = async {
        poll_fn(|cx| inner.poll_ready(cx)).await?;
        inner.call(request).await
    };
    match bounded(&engine.config, work).await {
        Ok(result) => Ok(result?.map(StoredBody::passing)),
        Err(problem) => Err(engine.refuse(problem).into()),
    }
}

/// Runs this for at most `max_run`. After that it is dropped, and its outcome is unknown. A panic is a failure.
async fn bounded<T>(
    config: &IdempotencyConfig,
    work: impl Future<Output = T>,
) -> Result<T, KeyProblem> {
    let limit = config.max_run;
    let future = Some(Deadline::after(limit).scope(work));
    let mut caught = pin!(CatchUnwind { future });
    if let Ok(result) = timeout(limit, caught.as_mut()).await {
        return result.map_err(|Panicked| KeyProblem::Failed);
    }
    caught.end();
    Err(KeyProblem::Unknown)
}

/// Whether the handler has certainly not acted, because all handlers take their operation and this one has not. It cannot take
/// it after this.
pub(in crate::idempotency::server) fn was_never_taken(operation: &Operation) -> bool {
    operation.engine().config.handlers_take_operation && operation.revoke()
}

async fn call_handler<S, B, Res>(
    operation: &Operation,
    mut inner: S,
    request: Request<StoredBody<B>>,
    caller: &mut Caller<Res, S::Error>,
    called: &AtomicBool,
) -> HandlerOutcome<Res, S::Error>
where
    S: Service<Request<StoredBody<B>>, Response = Response<Res>>,
    S::Error: CallError,
    Res: Body<Data = Bytes>,
{
    tokio::select! {
        biased;
        () = caller.left() => return HandlerOutcome::CallerLeft,
        ready = poll_fn(|cx| inner.poll_ready(cx)) => if let Err(error) = ready {
            return HandlerOutcome::Refused(error);
        },
    }
    called.store(true, Ordering::Relaxed);
    let left_before_taken = async {
        caller.left().await;
        if !was_never_taken(operation) {
            pending::<()>().await;
        }
    };
    let result = tokio::select! {
        biased;
        result = inner.call(request) => result,
        () = left_before_taken => return HandlerOutcome::CallerLeft,
    };
    match result {
        Ok(response) => read(response, operation.engine().config.max_response_body).await,
        Err(error) => HandlerOutcome::Failed(error),
    }
}

/// Whether the body of a response is meant to be consumed while it is produced.
fn streams<B>(response: &Response<B>) -> bool {
    let kind = response.headers().get(CONTENT_TYPE);
    let is_event_stream = kind.is_some_and(|kind| {
        let kind = kind.as_bytes().split(|byte| *byte == b';').next();
        kind.is_some_and(|kind| kind.trim_ascii().eq_ignore_ascii_case(b"text/event-stream"))
    });
    is_event_stream || response.status() == StatusCode::SWITCHING_PROTOCOLS
}

/// Reads the response's body, unless it streams or is larger than `max`.
pub(in crate::idempotency::server) async fn read<Res: Body<Data = Bytes>, E>(
    response: Response<Res>,
    max: usize,
) -> HandlerOutcome<Res, E> {
    if streams(&response) {
        return HandlerOutcome::Unbuffered(response.map(StoredBody::passing));
    }
    let (head, body) = response.into_parts();
    // Boxed, because a body that is too large is passed on after it was partly read.
    let mut body = Box::pin(body);
    let mut data = VecDeque::new();
    let mut length = 0_usize;
    let mut trailers = None;
    while body.size_hint().lower() <= max.saturating_sub(length) as u64 {
        let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await else {
            let body = joined(data, length);
            return HandlerOutcome::Response {
                head,
                body,
                trailers,
            };
        };
        let Ok(frame) = frame else {
            return HandlerOutcome::Problem(KeyProblem::Failed);
        };
        match frame.into_data() {
            Ok(part) => {
                length = length.saturating_add(part.len());
                data.push_back(part);
                if length > max {
                    break;
                }
            }
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    HandlerOutcome::Unbuffered(Response::from_parts(head, StoredBody::resumed(data, body)))
}

fn joined(mut parts: VecDeque<Bytes>, length: usize) -> Bytes {
    if parts.len() <= 1 {
        return parts.pop_front().unwrap_or_default();
    }
    let mut whole = BytesMut::with_capacity(length);
    for part in parts {
        whole.extend_from_slice(&part);
    }
    whole.freeze()
}

/// The inner future has panicked. The panic hook has its message.
struct Panicked;

/// Catches a panic of the inner future, also while it is dropped, because the operation still has to be recorded.
#[pin_project]
struct CatchUnwind<F> {
    /// `None` after completion.
    #[pin]
    future: Option<F>,
}

impl<F> CatchUnwind<F> {
    fn end(self: Pin<&mut Self>) {
        let mut future = self.project().future;
        // A panic during the drop does not change the result.
        let _ = catch_unwind(AssertUnwindSafe(|| future.set(None)));
    }
}

impl<F: Future> Future for CatchUnwind<F> {
    type Output = Result<F::Output, Panicked>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(future) = self.as_mut().project().future.as_pin_mut() else {
            return Poll::Pending;
        };
        // Unwind safe, because the future is not polled again after a panic.
        let result = match catch_unwind(AssertUnwindSafe(|| future.poll(cx))) {
            Ok(polled) => Ok(ready!(polled)),
            Err(_) => Err(Panicked),
        };
        self.end();
        Poll::Ready(result)
    }
}
