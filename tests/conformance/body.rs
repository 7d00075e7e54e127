//! Rows about bodies that are sent again, over a service in memory that reads them.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use buttress::Error;
use buttress::backoff::{Backoff, Jitter};
use buttress::event::{Event, subscribe};
use buttress::http::{ByStatus, Replay, ReplayBody};
use buttress::retry::{RetryConfig, RetryLayer};
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use serde::Deserialize;
use tower::{Layer, ServiceExt, service_fn};

/// A PUT whose body comes in these pieces, of which at most so many bytes are buffered.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    body: Vec<String>,
    limit: usize,
    /// The status of each response, and how many pieces are read before it; `null`: all.
    responses: Vec<(u16, Option<usize>)>,
    /// What each attempt has sent.
    sent: Vec<String>,
    status: u16,
    /// Why there was no further attempt.
    stopped: Option<String>,
}

struct Pieces(VecDeque<String>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.0.pop_front();
        Poll::Ready(next.map(|piece| Ok(Frame::data(piece.into()))))
    }
}

pub(crate) async fn drive(at: &str, case: Case) {
    static NAMES: AtomicUsize = AtomicUsize::new(0);
    let name = format!("body {}", NAMES.fetch_add(1, Ordering::Relaxed));
    let stopped = Arc::new(Mutex::new(None));
    let (sink, own) = (Arc::clone(&stopped), name.clone());
    let _subscription = subscribe(move |event: &Event<'_>| {
        if let Event::RetryStopped { source, why, .. } = event {
            if **source.name() == *own {
                *sink.lock().unwrap() = Some(why.as_str().to_owned());
            }
        }
    });

    let at_once = Backoff::constant(Duration::ZERO).jitter(Jitter::None);
    let replay = Replay::new()
        .buffer_limit(case.limit)
        .map_request_body(std::convert::identity);
    let retry = RetryLayer::new(name, RetryConfig::new().backoff(at_once), replay)
        .unwrap()
        .classify(ByStatus::new());
    let sent = Arc::new(Mutex::new(Vec::new()));
    let (log, responses) = (Arc::clone(&sent), Arc::new(case.responses));
    let service = service_fn(move |request: Request<ReplayBody<Pieces>>| {
        let (log, responses) = (Arc::clone(&log), Arc::clone(&responses));
        async move {
            let number = log.lock().unwrap().len();
            let (status, pieces) = responses[number.min(responses.len() - 1)];
            let mut body = pin!(request.into_body());
            let mut seen = String::new();
            let mut left = pieces.unwrap_or(usize::MAX);
            while left > 0 {
                let Some(frame) = body.frame().await else {
                    break;
                };
                let data = frame.expect("a body that does not fail").into_data();
                seen.push_str(std::str::from_utf8(&data.expect("data")).expect("text"));
                left -= 1;
            }
            log.lock().unwrap().push(seen);
            let response = Response::builder().status(status).body(()).unwrap();
            Ok::<_, Error<Infallible>>(response)
        }
    });
    let request = Request::put("/").body(Pieces(case.body.into())).unwrap();
    let response = retry.layer(service).oneshot(request).await.expect(at);
    assert_eq!(response.status(), case.status, "{at}");
    assert_eq!(*sent.lock().unwrap(), case.sent, "{at}");
    assert_eq!(*stopped.lock().unwrap(), case.stopped, "{at}");
}
