//! A span for each attempt.

use std::convert::Infallible;
use std::future::{pending, ready};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use buttress::Error;
use buttress::http::{AttemptSpanLayer, ByStatus, ClientConfig, Replay, client};
use buttress::retry::{RetryConfig, RetryLayer};
use buttress::timeout::TimeoutLayer;
use http::{Method, Request, Response};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

use crate::common::{SECOND, panics, poll};
use crate::http::{Does, nobody, server};
use crate::log::{Log, Opened};

const URI: &str = "https://ada:secret@API.example.com/orders/4711?card=1234";

fn request(method: Method, uri: &str) -> Request<String> {
    Request::builder()
        .method(method)
        .uri(uri)
        .body(String::new())
        .unwrap()
}

fn fields(span: &Opened) -> Vec<(&str, &str)> {
    assert_eq!(span.name, "attempt");
    span.fields
        .iter()
        .map(|(name, value)| (*name, &**value))
        .collect()
}

#[expect(clippy::unnecessary_wraps, reason = "the result type of a service")]
fn status(code: u16) -> Result<Response<String>, Error<std::io::Error>> {
    Ok(Response::builder()
        .status(code)
        .body(String::new())
        .unwrap())
}

/// The spans of one call with this response.
async fn spans_of(
    request: Request<String>,
    respond: fn() -> Result<Response<String>, Error<std::io::Error>>,
) -> Vec<Opened> {
    let log = Log::install();
    let before = log.spans().len();
    let service = AttemptSpanLayer::new().layer(service_fn(move |_| ready(respond())));
    let _ = service.oneshot(request).await;
    log.spans().split_off(before)
}

#[tokio::test(start_paused = true)]
async fn an_attempt_is_a_span_after_opentelemetrys_convention() {
    let spans = spans_of(request(Method::GET, URI), || status(200)).await;
    let [span] = &spans[..] else {
        panic!("{spans:?}")
    };
    assert_eq!(
        fields(span),
        [
            ("http.request.method", "GET"),
            ("http.response.status_code", "200"),
            ("otel.kind", "client"),
            ("otel.name", "GET"),
            ("server.address", "API.example.com"),
            ("server.port", "443"),
            ("url.scheme", "https"),
        ]
    );
    let own = request(Method::from_bytes(b"PURGE").unwrap(), "http://[::1]:8080/");
    let spans = spans_of(own, || status(503)).await;
    assert_eq!(
        fields(&spans[0]),
        [
            ("error.type", "503"),
            ("http.request.method", "_OTHER"),
            ("http.response.status_code", "503"),
            ("otel.kind", "client"),
            ("otel.name", "HTTP"),
            ("otel.status_code", "ERROR"),
            ("server.address", "::1"),
            ("server.port", "8080"),
            ("url.scheme", "http"),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn each_attempt_is_a_span_of_its_own_and_counts_those_before_it() {
    let log = Log::install();
    // Not executed, and retried without being counted; then a failure that counts.
    let codes = Arc::new(Mutex::new(vec![200, 503, 425]));
    let inner =
        service_fn(move |_: Request<String>| ready(status(codes.lock().unwrap().pop().unwrap())));
    let retry = RetryLayer::new("spans", RetryConfig::new(), Replay::new()).unwrap();
    let client = ServiceBuilder::new()
        .layer(retry.classify(ByStatus::new()))
        .layer(AttemptSpanLayer::new())
        .map_request(|request: Request<_>| request.map(|_| String::new()))
        .service(inner);
    assert_eq!(
        client
            .oneshot(request(Method::GET, URI))
            .await
            .unwrap()
            .status(),
        200
    );
    let seen: Vec<_> = log
        .spans()
        .iter()
        .map(|span| {
            let field = |name| span.fields.get(name).cloned();
            (field("http.request.resend_count"), field("error.type"))
        })
        .collect();
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        seen,
        [
            (None, text("425")),
            (text("1"), text("503")),
            (text("2"), None)
        ]
    );
}

/// Pending once, and notes in which span it is called, polled and dropped.
struct Notes {
    polled: bool,
    places: Arc<Mutex<Vec<Option<usize>>>>,
}

impl Notes {
    fn note(&self) {
        self.places.lock().unwrap().push(Log::current());
    }
}

impl Future for Notes {
    type Output = Result<Response<String>, Error<std::io::Error>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.note();
        if std::mem::replace(&mut self.polled, true) {
            return Poll::Ready(status(200));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        self.note();
    }
}

#[tokio::test]
async fn an_attempt_is_called_polled_and_dropped_inside_its_span() {
    let log = Log::install();
    let places = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&places);
    let inner = service_fn(move |_: Request<String>| {
        let notes = Notes {
            polled: false,
            places: Arc::clone(&noted),
        };
        notes.note();
        notes
    });
    let mut service = AttemptSpanLayer::new().layer(inner);
    service.ready().await.unwrap();
    service.call(request(Method::GET, URI)).await.unwrap();
    assert_eq!(
        places.lock().unwrap().drain(..).collect::<Vec<_>>(),
        [Some(0); 4]
    );
    assert_eq!(log.spans()[0].entered, 4);

    let mut cut = Box::pin(service.call(request(Method::GET, URI)));
    assert!(poll(cut.as_mut()).is_pending());
    drop(cut);
    assert_eq!(*places.lock().unwrap(), [Some(1); 3]);
    let field = |name| log.spans()[1].fields.get(name).cloned();
    assert_eq!(field("error.type").as_deref(), Some("cancelled"));
    assert_eq!(
        field("otel.status_code"),
        None,
        "a cancelled attempt is no error"
    );
}

#[test]
fn an_attempt_polled_on_another_thread_stays_in_its_span() {
    let log = Log::install();
    let service = AttemptSpanLayer::new().layer(service_fn(|_: Request<String>| async {
        tokio::task::yield_now().await;
        status(200)
    }));
    let mut call = Box::pin(service.oneshot(request(Method::GET, URI)));
    assert!(poll(call.as_mut()).is_pending());
    let entered = log.spans()[0].entered;
    // That thread has opened no span, or others.
    let thread = std::thread::spawn(move || {
        let log = Log::install();
        let _other = tracing::info_span!(target: "buttress", "other");
        assert!(poll(call.as_mut()).is_ready());
        drop(call);
        log.spans()
    });
    let others = thread.join().unwrap();
    assert_eq!((others.len(), others[0].entered), (1, 0));
    let [span] = &log.spans()[..] else {
        panic!("one span an attempt")
    };
    assert!(span.entered > entered);
    assert_eq!(span.fields["http.response.status_code"], "200");
}

#[tokio::test]
async fn an_attempt_that_panics_has_not_been_cancelled() {
    let log = Log::install();
    let service = AttemptSpanLayer::new().layer(service_fn(async |_: Request<String>| {
        assert!(Log::current().is_none(), "scripted panic");
        status(200)
    }));
    let mut call = Box::pin(service.oneshot(request(Method::GET, URI)));
    assert!(panics(|| poll(call.as_mut())));
    drop(call);
    let field = |name| log.spans()[0].fields.get(name).cloned();
    assert_eq!(field("error.type").as_deref(), Some("panic"));
    assert_eq!(field("otel.status_code").as_deref(), Some("ERROR"));
    assert_eq!(Log::current(), None);
}

#[tokio::test(start_paused = true)]
async fn outside_the_timeout_it_records_the_timeout() {
    let log = Log::install();
    let client = ServiceBuilder::new()
        .layer(AttemptSpanLayer::new())
        .layer(TimeoutLayer::new("spans", SECOND))
        .service(service_fn(|_: Request<String>| {
            pending::<Result<Response<String>, Error<Infallible>>>()
        }));
    let _ = client.oneshot(request(Method::GET, URI)).await.unwrap_err();
    let spans = log.spans();
    assert_eq!(spans[0].fields["error.type"], "attempt_timeout");
    assert_eq!(spans[0].fields["otel.status_code"], "ERROR");
}

#[tokio::test(start_paused = true)]
async fn a_disabled_layer_opens_no_span() {
    let log = Log::install();
    let service = AttemptSpanLayer::new()
        .enabled(false)
        .layer(service_fn(|_: Request<String>| ready(status(200))));
    service.oneshot(request(Method::GET, URI)).await.unwrap();
    assert!(log.spans().is_empty());
}

#[tokio::test]
async fn reqwests_errors_and_hypers_have_names_too() {
    let log = Log::install();
    let hyper = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new());
    let hyper = AttemptSpanLayer::new().layer(hyper.build_http::<String>());
    let reqwest = AttemptSpanLayer::new().layer(reqwest::Client::new());
    let mut expected = Vec::new();
    for (address, name) in [
        (nobody().await, "connection_refused"),
        (server(Does::Close).await, "incomplete_message"),
        (
            server(Does::Respond(b"HTTP/1.1 nonsense\r\n\r\n")).await,
            "invalid_response",
        ),
    ] {
        let uri = format!("http://{address}/");
        let _ = hyper
            .clone()
            .oneshot(request(Method::GET, &uri))
            .await
            .unwrap_err();
        let url = uri.parse().unwrap();
        let _ = reqwest
            .clone()
            .oneshot(reqwest::Request::new(Method::GET, url))
            .await
            .unwrap_err();
        expected.extend([name, name]);
    }
    let spans = log.spans();
    let names: Vec<_> = spans
        .iter()
        .map(|span| &*span.fields["error.type"])
        .collect();
    assert_eq!(names, expected);
}

#[tokio::test(start_paused = true)]
async fn the_standard_stack_opens_a_span_for_each_attempt_unless_spans_are_off() {
    let log = Log::install();
    let spans_with = async |spans| {
        let before = log.spans().len();
        let mut codes = vec![200, 503];
        let inner = service_fn(move |_: Request<String>| {
            let code = codes.pop().unwrap();
            ready(Ok::<_, Infallible>(
                Response::builder()
                    .status(code)
                    .body(String::new())
                    .unwrap(),
            ))
        });
        let layer = client("spans", ClientConfig::default().spans(spans)).unwrap();
        let got = layer.layer(inner).oneshot(request(Method::GET, URI)).await;
        assert_eq!(got.unwrap().status(), 200);
        let resends = |span: Opened| span.fields.get("http.request.resend_count").cloned();
        let new = log.spans().split_off(before);
        new.into_iter().map(resends).collect::<Vec<_>>()
    };
    assert_eq!(spans_with(true).await, [None, Some("1".to_owned())]);
    assert_eq!(spans_with(false).await, []);
}
