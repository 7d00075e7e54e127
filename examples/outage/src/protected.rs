//! The client behind the standard stack: the same reqwest client, one layer around it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use buttress::breaker::BreakerState;
use buttress::event::{Event, subscribe};
use buttress::http::client::ClientService;
use buttress::http::{ClientConfig, ClientLayer, client};
use buttress::reqwest::SendThrough;
use buttress::{BoxError, Error};
use reqwest::{Request, Response};
use tower::{Layer, Service};

use crate::calls::{CallResult, Entry};
use crate::client::BreakerView;

#[derive(Debug, Clone)]
pub(crate) struct Protected {
    client: reqwest::Client,
    stack: ClientService<Counted>,
    layer: ClientLayer,
    opened: Arc<AtomicU64>,
    url: String,
}

impl Protected {
    pub(crate) fn new(url: &str, without_breaker: bool) -> Result<Self, BoxError> {
        let reqwest = reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(Duration::from_secs(1))
            .retry(reqwest::retry::never())
            .build()?;
        let mut config = ClientConfig::default()
            .attempt(Duration::from_secs(1))
            .total(Duration::from_secs(3));
        if without_breaker {
            config = config.breaker(None);
        }
        let layer = client("dependency", config)?;
        let opened = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&opened);
        let subscription = subscribe(move |event: &Event<'_>| match event {
            Event::BreakerTransition { transition, .. } if transition.to == BreakerState::Open => {
                seen.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        });
        // For as long as the process lives.
        std::mem::forget(subscription);
        Ok(Self {
            stack: layer.layer(Counted(reqwest.clone())),
            client: reqwest,
            layer,
            opened,
            url: url.to_owned(),
        })
    }

    pub(crate) async fn call(&self, entry: &Entry) -> CallResult {
        let call = async {
            let response = self.client.get(&self.url).send_through(&self.stack).await?;
            let response = response.error_for_status()?;
            // Only a body that was read leaves the connection to the next call.
            response.bytes().await?;
            Ok::<_, Error<reqwest::Error>>(())
        };
        match ENTRY.scope(entry.clone(), call).await {
            Ok(()) => CallResult::Answered,
            Err(Error::Rejected(_)) => CallResult::Refused,
            Err(Error::Inner(_)) => CallResult::Failed,
        }
    }

    pub(crate) fn breaker(&self) -> Option<BreakerView> {
        let breakers = self.layer.breakers()?.entries();
        let state = breakers
            .first()
            .map_or(BreakerState::Closed, |(_, breaker)| breaker.state());
        Some(BreakerView {
            state: state.as_str(),
            opened: self.opened.load(Ordering::Relaxed),
        })
    }
}

tokio::task_local! {
    /// The call that the task makes.
    static ENTRY: Entry;
}

/// Innermost: notes every attempt that leaves the client.
#[derive(Debug, Clone)]
struct Counted(reqwest::Client);

impl Service<Request> for Counted {
    type Response = Response;
    type Error = reqwest::Error;
    type Future = <reqwest::Client as Service<Request>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), reqwest::Error>> {
        Service::<Request>::poll_ready(&mut self.0, cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        ENTRY.with(Entry::attempt);
        Service::call(&mut self.0, request)
    }
}
