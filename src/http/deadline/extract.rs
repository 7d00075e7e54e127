//! Reads the remaining time from the caller's headers.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tower_layer::Layer;
use tower_service::Service;

use super::ExtractDeadlineConfig;
use crate::deadline::Deadline;
use crate::error::{CallError, ConfigError};
use crate::http::HttpRequest;
use crate::timeout::future::DeadlineFuture;
use crate::timeout::{DeadlineLayer, DeadlineService};

/// Sets the [`Deadline`] of each served call to the remaining time of its caller.
///
/// The handler's own calls through this crate end with it. A call whose time is over is rejected and not executed; a call
/// whose deadline passes is dropped at once. An earlier deadline of the task is never extended. See [the module](super).
///
/// ```
/// use axum::{Router, routing::get};
/// use buttress::http::handle_rejections;
/// use buttress::http::deadline::{ExtractDeadlineConfig, ExtractDeadlineLayer, Trust};
///
/// let read = ExtractDeadlineLayer::new("orders", ExtractDeadlineConfig::new().trust(Trust::Everyone))?;
/// let app: Router = Router::new().route("/orders", get(|| async { "none yet" })).layer(handle_rejections(read));
/// # let _ = app;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ExtractDeadlineLayer {
    deadline: DeadlineLayer,
    config: Arc<ExtractDeadlineConfig>,
}

impl ExtractDeadlineLayer {
    /// Reads the deadline of calls to the service `name`.
    ///
    /// # Errors
    ///
    /// A setting that cannot work, or a name that is empty or has control characters.
    pub fn new(
        name: impl Into<Arc<str>>,
        config: ExtractDeadlineConfig,
    ) -> Result<Self, ConfigError> {
        let name = name.into();
        ConfigError::check_name("deadline", &name)?;
        config
            .validate()
            .map_err(|error| error.of("deadline", &name))?;
        Ok(Self {
            deadline: DeadlineLayer::new(name, Duration::MAX),
            config: Arc::new(config),
        })
    }

    /// The settings of this layer.
    pub fn config(&self) -> &ExtractDeadlineConfig {
        &self.config
    }
}

impl ExtractDeadlineConfig {
    /// The deadline of a request: from its headers if they are trusted, or from its extensions.
    pub(crate) fn deadline(&self, request: &impl HttpRequest) -> Option<Deadline> {
        let sent = self
            .headers
            .iter()
            .filter_map(|header| header.read(request.headers()))
            .min()
            .filter(|_| self.trust.holds(request))
            .map(|left| Deadline::after(left.min(self.max)));
        let own = request
            .extensions()
            .and_then(|of| of.get::<Deadline>().copied());
        sent.into_iter().chain(own).min()
    }
}

impl<S> Layer<S> for ExtractDeadlineLayer {
    type Service = ExtractDeadline<S>;

    fn layer(&self, inner: S) -> ExtractDeadline<S> {
        ExtractDeadline {
            service: self.deadline.layer(inner),
            config: Arc::clone(&self.config),
        }
    }
}

/// A service that reads its callers' deadlines. Made by [`ExtractDeadlineLayer`].
#[derive(Clone, Debug)]
pub struct ExtractDeadline<S> {
    service: DeadlineService<S>,
    config: Arc<ExtractDeadlineConfig>,
}

impl<S, Req> Service<Req> for ExtractDeadline<S>
where
    S: Service<Req> + Clone,
    S::Error: CallError,
    Req: HttpRequest,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = DeadlineFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let deadline = self.config.deadline(&request);
        let _entered = deadline.map(Deadline::enter);
        self.service.call(request)
    }
}
