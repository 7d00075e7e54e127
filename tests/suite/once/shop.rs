//! A shop whose handler is controlled by the test, and a store with scripted failures.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use buttress::BoxError;
use buttress::http::handle_rejections;
use buttress::idempotency::store::future::StoreFuture;
use buttress::idempotency::store::{
    Begun, Claim, Ended, MemoryStore, RecordKey, Store, StoreError, Token,
};
use buttress::idempotency::{IdempotencyConfig, IdempotencyLayer, Operation, Scope, StoredBody};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tower::{Layer, Service, ServiceExt};

pub(super) type Flow = UnsyncBoxBody<Bytes, BoxError>;
pub(super) const KEY: &str = "\"0123456789abcdef\"";

pub(super) fn flow(text: impl Into<Bytes>) -> Flow {
    let full = Full::new(text.into());
    full.map_err(|never: Infallible| match never {})
        .boxed_unsync()
}

pub(super) fn payment(body: &'static str) -> Request<Flow> {
    let request = Request::post("/payments?of=7").header("content-type", "text/plain");
    let request = request.header("idempotency-key", KEY);
    request.body(flow(body)).unwrap()
}

pub(super) fn with_header(
    mut request: Request<Flow>,
    name: &'static str,
    value: impl AsRef<[u8]>,
) -> Request<Flow> {
    let value = HeaderValue::from_bytes(value.as_ref()).unwrap();
    request.headers_mut().insert(name, value);
    request
}

pub(super) fn at(mut request: Request<Flow>, method: &str, uri: &str) -> Request<Flow> {
    *request.method_mut() = method.parse().unwrap();
    *request.uri_mut() = uri.parse().unwrap();
    request
}

pub(super) fn reply(status: u16, body: &'static str) -> Response<Flow> {
    let response = Response::builder().status(status);
    response.body(flow(body)).unwrap()
}

/// A call of the handler, which waits for its action.
#[derive(Debug)]
pub(super) struct Called {
    pub(super) operation: Option<Operation>,
    pub(super) left: Option<Duration>,
    pub(super) body: String,
    action: oneshot::Sender<Action>,
}

#[derive(Debug)]
enum Action {
    Responds(Response<Flow>),
    Fails(&'static str),
    Panics,
}

impl Called {
    pub(super) fn operation(&self) -> &Operation {
        self.operation.as_ref().unwrap()
    }

    /// Responds to the request of this task.
    pub(super) async fn finish(self, sent: JoinHandle<Seen>, response: Response<Flow>) -> Seen {
        self.responds(response);
        sent.await.unwrap()
    }

    /// Responds that it has paid, and checks the response of this task.
    pub(super) async fn pays(self, sent: JoinHandle<Seen>) {
        let seen = self.finish(sent, reply(201, "paid")).await;
        assert_eq!(seen.of(), (201, false, "paid"));
    }

    pub(super) fn responds(self, response: Response<Flow>) {
        let _ = self.action.send(Action::Responds(response));
    }

    pub(super) fn fails(self, failure: &'static str) {
        let _ = self.action.send(Action::Fails(failure));
    }

    pub(super) fn panics(self) {
        let _ = self.action.send(Action::Panics);
    }

    /// Waits until the handler was dropped.
    pub(super) async fn dropped(&mut self) {
        self.action.closed().await;
    }
}

#[derive(Clone)]
pub(super) struct Handler(mpsc::UnboundedSender<Called>);

impl Service<Request<StoredBody<Flow>>> for Handler {
    type Response = Response<Flow>;
    type Error = &'static str;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Flow>, &'static str>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<StoredBody<Flow>>) -> Self::Future {
        let calls = self.0.clone();
        Box::pin(async move {
            let operation = Operation::take(request.extensions()).unwrap();
            let now = buttress::clock::Now::unread();
            let left = buttress::Deadline::current().map(|deadline| deadline.remaining(&now));
            let Ok(body) = request.into_body().collect().await else {
                return Err("the body broke off");
            };
            let body = String::from_utf8(body.to_bytes().to_vec()).unwrap();
            let (action, scripted) = oneshot::channel();
            let called = Called {
                operation,
                left,
                body,
                action,
            };
            calls.send(called).unwrap();
            match scripted.await {
                Ok(Action::Responds(response)) => Ok(response),
                Ok(Action::Fails(failure)) => Err(failure),
                Ok(Action::Panics) => panic!("scripted panic"),
                Err(_) => std::future::pending().await,
            }
        })
    }
}

/// A response as a client sees it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Seen {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) trailers: Option<HeaderMap>,
    pub(super) body: Result<Bytes, String>,
}

impl Seen {
    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(self.body.as_ref().unwrap()).unwrap()
    }

    pub(super) fn replayed(&self) -> bool {
        self.headers.contains_key("idempotent-replayed")
    }

    /// The variant of the problem, by its type.
    pub(super) fn problem(&self) -> String {
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let problem: serde_json::Value = serde_json::from_str(self.text()).unwrap();
        assert_eq!(problem["status"], self.status);
        let kind = problem["type"].as_str().unwrap_or_default();
        kind.rsplit('.').next().unwrap().to_owned()
    }

    #[track_caller]
    pub(super) fn assert_problem(&self, status: u16, problem: &str) {
        assert_eq!((self.status, &*self.problem()), (status, problem));
    }

    pub(super) fn of(&self) -> (u16, bool, &str) {
        (self.status, self.replayed(), self.text())
    }
}

pub(super) async fn seen<B>(response: Response<B>) -> Seen
where
    B: Body<Data = Bytes>,
    B::Error: ToString,
{
    let (head, body) = response.into_parts();
    let body = body.collect().await;
    let (trailers, body) = match body {
        Ok(whole) => (whole.trailers().cloned(), Ok(whole.to_bytes())),
        Err(error) => (None, Err(error.to_string())),
    };
    Seen {
        status: head.status.as_u16(),
        headers: head.headers,
        trailers,
        body,
    }
}

pub(super) struct Shop {
    pub(super) layer: IdempotencyLayer,
    pub(super) handler: Handler,
    calls: mpsc::UnboundedReceiver<Called>,
}

impl Shop {
    pub(super) fn new(config: IdempotencyConfig) -> Self {
        Self::with(MemoryStore::new(), config)
    }

    pub(super) fn with(store: impl Store, config: IdempotencyConfig) -> Self {
        Self::of(IdempotencyLayer::new("shop", store, Scope::Global, config).unwrap())
    }

    pub(super) fn of(layer: IdempotencyLayer) -> Self {
        let (handler, calls) = mpsc::unbounded_channel();
        Self {
            layer,
            handler: Handler(handler),
            calls,
        }
    }

    /// Sends a request in a task. Aborting the task makes the caller leave.
    pub(super) fn send(&self, request: Request<Flow>) -> JoinHandle<Seen> {
        let service = handle_rejections(self.layer.clone()).layer(self.handler.clone());
        send_to(service, request)
    }

    pub(super) async fn call_with(&self, request: Request<Flow>) -> Seen {
        self.send(request).await.unwrap()
    }

    pub(super) async fn rejects(&self, request: Request<Flow>, status: u16, problem: &str) {
        self.call_with(request)
            .await
            .assert_problem(status, problem);
    }

    /// Waits for the next call of the handler.
    pub(super) async fn called(&mut self) -> Called {
        self.calls.recv().await.unwrap()
    }

    /// Sends a request and waits until the handler is called.
    pub(super) async fn running(&mut self, request: Request<Flow>) -> (JoinHandle<Seen>, Called) {
        (self.send(request), self.called().await)
    }

    /// Sends a request and lets the handler respond.
    pub(super) async fn served(&mut self, request: Request<Flow>, with: Response<Flow>) -> Seen {
        let (sent, called) = self.running(request).await;
        called.finish(sent, with).await
    }

    /// Sends a request and lets the handler pay.
    pub(super) async fn pays(&mut self, request: Request<Flow>) {
        let (sent, called) = self.running(request).await;
        called.pays(sent).await;
    }

    /// Asserts that the handler is not called.
    pub(super) async fn assert_not_called(&mut self) {
        settle().await;
        assert!(self.calls.try_recv().is_err(), "the handler was called");
    }
}

/// Sends a request in a task. An error of the handler becomes the status 599.
pub(super) fn send_to<S, B>(service: S, request: Request<Flow>) -> JoinHandle<Seen>
where
    S: Service<Request<Flow>, Response = Response<B>, Error = &'static str> + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: ToString,
{
    type Call<B> = Pin<Box<dyn Future<Output = Result<Response<B>, &'static str>> + Send>>;
    let call: Call<B> = Box::pin(service.oneshot(request));
    tokio::spawn(async move {
        match call.await {
            Ok(response) => seen(response).await,
            Err(error) => {
                let mut seen = seen(reply(599, error)).await;
                seen.headers.clear();
                seen
            }
        }
    })
}

/// Lets all other tasks run until they wait. Time does not pass.
pub(super) async fn settle() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

/// The result of one call to a [`Scripted`] store.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fate {
    Done,
    /// An error, and nothing happens.
    Down,
    /// An error, although it happens.
    Lost,
    Full,
    /// It happens after this time.
    Slow(Duration),
    /// It never ends.
    Hangs,
    /// The record has these bytes.
    Returns(&'static [u8]),
    Panics,
}

/// A store in memory with scripted failures, by the name of the method and the number of calls before.
#[derive(Clone)]
pub(super) struct Scripted {
    pub(super) inner: MemoryStore,
    script: Arc<dyn Fn(&'static str, usize) -> Fate + Send + Sync>,
    calls: Arc<Mutex<Vec<&'static str>>>,
    counts: Arc<Mutex<HashMap<&'static str, usize>>>,
}

impl Scripted {
    pub(super) fn new(
        script: impl Fn(&'static str, usize) -> Fate + Send + Sync + 'static,
    ) -> Self {
        Self {
            inner: MemoryStore::new(),
            script: Arc::new(script),
            calls: Arc::default(),
            counts: Arc::default(),
        }
    }

    /// The first calls of this method have this fate.
    pub(super) fn first(method: &'static str, calls: usize, fate: Fate) -> Self {
        Self::new(move |called, before| {
            if called == method && before < calls {
                fate
            } else {
                Fate::Done
            }
        })
    }

    /// The methods that were called, in order.
    pub(super) fn calls(&self) -> Vec<&'static str> {
        self.calls.lock().unwrap().clone()
    }

    pub(super) fn count(&self, what: &str) -> usize {
        self.counts.lock().unwrap().get(what).copied().unwrap_or(0)
    }

    fn act<'a, T: Send + 'a>(
        &self,
        what: &'static str,
        act: StoreFuture<'a, T>,
        returns: impl Fn(Bytes) -> T + Send + 'a,
    ) -> StoreFuture<'a, T> {
        let before = self.counts.lock().unwrap().get(what).copied().unwrap_or(0);
        self.counts.lock().unwrap().insert(what, before + 1);
        self.calls.lock().unwrap().push(what);
        let fate = (self.script)(what, before);
        Box::pin(async move {
            match fate {
                Fate::Done => act.await,
                Fate::Down => Err(StoreError::unavailable("scripted")),
                Fate::Lost => {
                    act.await?;
                    Err(StoreError::unavailable("scripted"))
                }
                Fate::Full => Err(StoreError::Full("scripted".into())),
                Fate::Slow(time) => {
                    tokio::time::sleep(time).await;
                    act.await
                }
                Fate::Hangs => std::future::pending().await,
                Fate::Returns(record) => Ok(returns(Bytes::from_static(record))),
                Fate::Panics => panic!("scripted panic"),
            }
        })
    }
}

impl std::fmt::Debug for Scripted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scripted")
    }
}

/// A future that calls the store only when it is polled, so that a failed call has no effect.
fn lazy<'a, T: Send + 'a>(
    act: impl FnOnce() -> StoreFuture<'a, T> + Send + 'a,
) -> StoreFuture<'a, T> {
    Box::pin(async move { act().await })
}

impl Store for Scripted {
    fn begin<'a>(&'a self, key: &'a RecordKey, claim: &'a Claim) -> StoreFuture<'a, Begun> {
        self.act("begin", lazy(|| self.inner.begin(key, claim)), Begun::Done)
    }

    fn renew<'a>(
        &'a self,
        key: &'a RecordKey,
        token: Token,
        lease: Duration,
        ttl: Duration,
    ) -> StoreFuture<'a, bool> {
        let act = lazy(move || self.inner.renew(key, token, lease, ttl));
        self.act("renew", act, |_| false)
    }

    fn complete<'a>(
        &'a self,
        key: &'a RecordKey,
        token: Token,
        answer: Bytes,
        ttl: Duration,
    ) -> StoreFuture<'a, Ended> {
        let act = lazy(move || self.inner.complete(key, token, answer, ttl));
        self.act("complete", act, Ended::Already)
    }

    fn abandon<'a>(&'a self, key: &'a RecordKey, token: Token) -> StoreFuture<'a, Ended> {
        let act = lazy(move || self.inner.abandon(key, token));
        self.act("abandon", act, Ended::Already)
    }
}

/// A body of these frames: data or trailers.
pub(super) fn frames(frames: Vec<Frame<Bytes>>) -> Flow {
    Frames(frames.into_iter().map(Ok).collect()).boxed_unsync()
}

/// A body that fails after these frames.
pub(super) fn broken(frames: Vec<Frame<Bytes>>) -> Flow {
    broken_by(frames, "broken".into())
}

/// A body that fails with this error after these frames.
pub(super) fn broken_by(frames: Vec<Frame<Bytes>>, error: BoxError) -> Flow {
    let broken = std::iter::once(Err(error));
    Frames(frames.into_iter().map(Ok).chain(broken).collect()).boxed_unsync()
}

struct Frames(VecDeque<Result<Frame<Bytes>, BoxError>>);

impl Body for Frames {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let next = self.0.pop_front();
        Poll::Ready(next)
    }
}
