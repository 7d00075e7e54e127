//! The handler's part: it runs to its end, and its answer is read.

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

use super::body::StoredBody;
use super::caller::Caller;
use super::config::IdempotencyConfig;
use super::engine::Engine;
use super::operation::Operation;
use crate::deadline::Deadline;
use crate::error::{CallError, Reason, Rejected};
use crate::key_problem::KeyProblem;

/// What the handler came to.
pub(super) enum Came<Res, E> {
    /// An answer, read to its end.
    Answered {
        head: Parts,
        body: Bytes,
        trailers: Option<HeaderMap>,
    },
    /// A response that is passed on and cannot be stored: it streams, or it is too large.
    Unbuffered(Response<StoredBody<Res>>),
    /// It was not called.
    Refused(E),
    /// Its caller left before it was called.
    CallerLeft,
    Failed(E),
    /// No answer: it panicked or its body broke off, or it took too long.
    Problem(KeyProblem),
}

/// Runs the handler, in its own time.
pub(super) async fn handle<S, B, Res>(
    operation: &Operation,
    inner: S,
    request: Request<StoredBody<B>>,
    caller: &mut Caller<Res, S::Error>,
) -> Came<Res, S::Error>
where
    S: Service<Request<StoredBody<B>>, Response = Response<Res>>,
    S::Error: CallError,
    Res: Body<Data = Bytes>,
{
    let shared = operation.shared();
    let called = AtomicBool::new(false);
    let work = answer(operation, inner, request, caller, &called);
    match bounded(&shared.config, work).await {
        Ok(came) => came,
        // It was waited for all the time, and never called.
        Err(KeyProblem::Unknown)
            if !called.load(Ordering::Relaxed) || was_never_taken(operation) =>
        {
            let name = Arc::clone(shared.source.name());
            Came::Refused(Rejected::new(Reason::Deadline, name).into())
        }
        Err(problem) => Came::Problem(problem),
    }
}

/// Runs the handler without a record, in its own time all the same.
pub(super) async fn unprotected<S, B, Res>(
    shared: &Engine,
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
    match bounded(&shared.config, work).await {
        Ok(result) => Ok(result?.map(StoredBody::passing)),
        Err(problem) => Err(shared.refuse(problem).into()),
    }
}

/// Does this within the longest time that a handler may run; else it is dropped, and what it has done is unknown. Failed, if it
/// panics.
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

/// Whether the handler has not acted, because all handlers take their operation and this one has not. It cannot any more.
pub(super) fn was_never_taken(operation: &Operation) -> bool {
    operation.shared().config.handlers_take_operation && operation.revoke()
}

async fn answer<S, B, Res>(
    operation: &Operation,
    mut inner: S,
    request: Request<StoredBody<B>>,
    caller: &mut Caller<Res, S::Error>,
    called: &AtomicBool,
) -> Came<Res, S::Error>
where
    S: Service<Request<StoredBody<B>>, Response = Response<Res>>,
    S::Error: CallError,
    Res: Body<Data = Bytes>,
{
    tokio::select! {
        biased;
        () = caller.left() => return Came::CallerLeft,
        ready = poll_fn(|cx| inner.poll_ready(cx)) => if let Err(error) = ready {
            return Came::Refused(error);
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
        () = left_before_taken => return Came::CallerLeft,
    };
    match result {
        Ok(response) => read(response, operation.shared().config.max_response_body).await,
        Err(error) => Came::Failed(error),
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

/// Reads the answer's body to its end, unless that is too far off.
pub(super) async fn read<Res: Body<Data = Bytes>, E>(
    response: Response<Res>,
    most: usize,
) -> Came<Res, E> {
    if streams(&response) {
        return Came::Unbuffered(response.map(StoredBody::passing));
    }
    let (head, body) = response.into_parts();
    // In a box, because it may have to be handed on half-read.
    let mut body = Box::pin(body);
    let mut data = VecDeque::new();
    let mut length = 0_usize;
    let mut trailers = None;
    while body.size_hint().lower() <= most.saturating_sub(length) as u64 {
        let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await else {
            let body = joined(data, length);
            return Came::Answered {
                head,
                body,
                trailers,
            };
        };
        let Ok(frame) = frame else {
            return Came::Problem(KeyProblem::Failed);
        };
        match frame.into_data() {
            Ok(part) => {
                length = length.saturating_add(part.len());
                data.push_back(part);
                if length > most {
                    break;
                }
            }
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Came::Unbuffered(Response::from_parts(head, StoredBody::resumed(data, body)))
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

/// The future inside has panicked. What it said went to the panic hook.
struct Panicked;

/// A panic ends the future inside, and no more, even one while it is dropped: the operation has to be recorded all the same.
#[pin_project]
struct CatchUnwind<F> {
    /// `None` once it has ended.
    #[pin]
    future: Option<F>,
}

impl<F> CatchUnwind<F> {
    fn end(self: Pin<&mut Self>) {
        let mut future = self.project().future;
        // What it came to stands.
        let _ = catch_unwind(AssertUnwindSafe(|| future.set(None)));
    }
}

impl<F: Future> Future for CatchUnwind<F> {
    type Output = Result<F::Output, Panicked>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(future) = self.as_mut().project().future.as_pin_mut() else {
            return Poll::Pending;
        };
        // After a panic it is not polled again, so nobody sees what it left behind.
        let result = match catch_unwind(AssertUnwindSafe(|| future.poll(cx))) {
            Ok(polled) => Ok(ready!(polled)),
            Err(_) => Err(Panicked),
        };
        self.end();
        Poll::Ready(result)
    }
}
