//! The network between clients and service: a proxy that treats requests as networks do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::Error;
use crate::fate::{Fate, Fates};
use crate::order;

/// Counts of the traffic.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Traffic {
    /// Requests by the clients.
    pub(crate) sent: u64,
    /// Of these, those that never arrived.
    pub(crate) lost: u64,
    /// Copies made on the way.
    pub(crate) copies: u64,
    /// Replayed responses.
    pub(crate) replayed: u64,
    /// Responses that the same payment is in progress.
    pub(crate) conflicts: u64,
    /// Failures: 500 and above, or no response.
    pub(crate) failed: u64,
}

#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    lost: AtomicU64,
    copies: AtomicU64,
    replayed: AtomicU64,
    conflicts: AtomicU64,
    failed: AtomicU64,
}

#[derive(Clone)]
pub(crate) struct Network {
    inner: Arc<Inner>,
}

struct Inner {
    /// `http://host:port` of the service.
    service: String,
    client: Client<HttpConnector, Full<Bytes>>,
    fates: Fates,
    counts: Counts,
    under_way: watch::Sender<usize>,
}

type Answer = Response<Full<Bytes>>;

impl Network {
    pub(crate) fn new(service: String, fates: Fates) -> Self {
        Self {
            inner: Arc::new(Inner {
                service,
                client: Client::builder(TokioExecutor::new()).build_http(),
                fates,
                counts: Counts::default(),
                under_way: watch::Sender::new(0),
            }),
        }
    }

    /// Starts the network and returns its address. It runs until the process ends.
    pub(crate) async fn serve(&self) -> Result<String, Error> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let network = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let network = network.clone();
                let carry = service_fn(move |request| network.clone().carry(request));
                // An error of `carry` closes the connection without a response.
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), carry));
            }
        });
        Ok(url)
    }

    /// Waits until nothing is on its way any more.
    pub(crate) async fn quiet(&self) {
        let mut under_way = self.inner.under_way.subscribe();
        // An error would mean that the sender is gone, which is here.
        let _ = under_way.wait_for(|requests| *requests == 0).await;
    }

    pub(crate) fn traffic(&self) -> Traffic {
        let counts = &self.inner.counts;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Traffic {
            sent: read(&counts.sent),
            lost: read(&counts.lost),
            copies: read(&counts.copies),
            replayed: read(&counts.replayed),
            conflicts: read(&counts.conflicts),
            failed: read(&counts.failed),
        }
    }

    async fn carry(self, request: Request<Incoming>) -> Result<Answer, Error> {
        let (parts, body) = request.into_parts();
        let request = Request::from_parts(parts, body.collect().await?.to_bytes());
        let order = order::of(request.uri().path()).ok_or("not a payment")?;
        add(&self.inner.counts.sent);
        let fate = self.inner.fates.next(order);
        // A separate task: a request arrives even if its client disconnects.
        self.under_way(self.clone().meet(fate, request)).await?
    }

    async fn meet(self, fate: Fate, request: Request<Bytes>) -> Result<Answer, Error> {
        match fate {
            Fate::Delivered => self.deliver(request).await,
            Fate::Lost => {
                add(&self.inner.counts.lost);
                Err("the request is lost".into())
            }
            Fate::ResponseLost => {
                self.deliver(request).await?;
                Err("the response is lost".into())
            }
            Fate::Late(by) => {
                sleep(by).await;
                self.deliver(request).await
            }
            Fate::ResponseLate(by) => {
                let answer = self.deliver(request).await;
                sleep(by).await;
                answer
            }
            Fate::Twice => {
                add(&self.inner.counts.copies);
                let copy = request.clone();
                let first = self.under_way(self.clone().deliver(request));
                let second = self.under_way(self.clone().deliver(copy));
                tokio::select! {
                    answer = first => answer?,
                    answer = second => answer?,
                }
            }
            Fate::Again(after) => {
                add(&self.inner.counts.copies);
                let (network, copy) = (self.clone(), request.clone());
                self.under_way(async move {
                    sleep(after).await;
                    network.deliver(copy).await
                });
                self.deliver(request).await
            }
        }
    }

    /// Carries a request to the service and its response back.
    async fn deliver(self, request: Request<Bytes>) -> Result<Answer, Error> {
        let counts = &self.inner.counts;
        let sent = self.send(request).await;
        match &sent {
            Ok(answer) if answer.headers().contains_key("idempotent-replayed") => {
                add(&counts.replayed);
            }
            Ok(answer) if answer.status() == StatusCode::CONFLICT => add(&counts.conflicts),
            Ok(answer) if answer.status() < StatusCode::INTERNAL_SERVER_ERROR => {}
            Ok(_) | Err(_) => add(&counts.failed),
        }
        sent
    }

    async fn send(&self, request: Request<Bytes>) -> Result<Answer, Error> {
        let (mut parts, body) = request.into_parts();
        parts.uri = format!("{}{}", self.inner.service, parts.uri.path()).parse()?;
        let request = Request::from_parts(parts, Full::new(body));
        let (parts, body) = self.inner.client.request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Response::from_parts(parts, Full::new(body)))
    }

    /// Starts a task that [`quiet`](Self::quiet) waits for.
    fn under_way<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.inner.under_way.send_modify(|tasks| *tasks += 1);
        let ends = Ends(self.clone());
        tokio::spawn(async move {
            let _ends = ends;
            task.await
        })
    }
}

/// Counts a task no more, however it ends.
struct Ends(Network);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.inner.under_way.send_modify(|tasks| *tasks -= 1);
    }
}

fn add(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}
