//! The time that is left, heard from the caller.

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

/// Sets the [`Deadline`] of each call served to the time that its caller says is left.
///
/// Everything inside sees it: the handler's own calls through this crate end with it, with no line of code. A call whose time
/// is over is refused and not executed; one that is cut short is dropped at once. A deadline that is in force already is never
/// put off. See [the page](super).
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
    /// Reads the headers of what is called `name`.
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

    /// The settings it was made with.
    pub fn config(&self) -> &ExtractDeadlineConfig {
        &self.config
    }
}

impl ExtractDeadlineConfig {
    /// The deadline that a request brings: its headers', if they are believed, or one in its extensions.
    pub(crate) fn deadline(&self, request: &impl HttpRequest) -> Option<Deadline> {
        let said = self
            .headers
            .iter()
            .filter_map(|header| header.read(request.headers()))
            .min()
            .filter(|_| self.trust.holds(request))
            .map(|left| Deadline::after(left.min(self.most)));
        let own = request
            .extensions()
            .and_then(|of| of.get::<Deadline>().copied());
        said.into_iter().chain(own).min()
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

/// A service whose callers say how much time is left. Made by [`ExtractDeadlineLayer`].
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
