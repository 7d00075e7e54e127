//! The standard stack for servers.

use std::fmt;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;

use super::config::ServerConfig;
use super::service::{Guards, ServerService};
use crate::error::ConfigError;
use crate::event::{Observe, Source};
use crate::gate::GateLayer;
use crate::http::body::gated::AtBodyEnd;
use crate::http::classify::status::ByStatus;
use crate::http::reject::layer::handle_rejections;
use crate::http::server::handler_deadline::HandlerDeadline;
use crate::live_names::register_stack;
use crate::telemetry::Observed;
use crate::timeout::ShownLimit;
use crate::timeout::{DeadlineLayer, TimeoutLayer};

/// The standard stack around an axum router or handler, or any service of `http::Request`s whose error is `Infallible`. The
/// error stays `Infallible`, because rejections become responses: axum needs no `HandleErrorLayer`.
///
/// From the outside in:
///
/// ```text
/// bypass            health checks skip everything below, so a busy process is not restarted
/// rejections        a rejection is a response, never an error
/// observe           reports each call's outcome and duration, including its body
/// deadline in       the remaining time of a trusted caller; a late call gets a 504 and is not executed
/// timeout     30 s  a handler that hangs is dropped, and the caller gets a 504
/// your handler      its own calls through this crate end with the earlier of the two
/// ```
///
/// The caller's deadline also bounds the body. The timeout does not, so a download may take longer. A body that sends
/// nothing for 30 s while the caller waits for it is cut short.
///
/// Rejections become the responses of [`handle_rejections`](crate::http::handle_rejections()): 504 as `application/problem+json`.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
///
/// use axum::{Router, routing::get};
/// use buttress::http::deadline::{ExtractDeadlineConfig, Trust};
/// use buttress::http::{ServerConfig, server};
///
/// // Only our own services can connect.
/// let deadline = ExtractDeadlineConfig::new().trust(Trust::Everyone);
/// let config = ServerConfig::default().timeout(Duration::from_secs(5)).deadline(deadline);
/// let app: Router = Router::new()
///     .route("/orders", get(|| async { "none yet" }))
///     .route("/readyz", get(|| async { "ready" }))
///     .layer(server("orders", config)?);
/// # let _ = app;
/// # Ok(()) }
/// ```
///
/// # Defaults
///
/// | setting | default | why |
/// |---|---|---|
/// | `bypass` | `/livez`, `/readyz`, `/healthz` | the customary paths of Kubernetes' probes: a rejected probe gets a busy process killed |
/// | `observe` | yes | rate, errors and duration of the served calls |
/// | `deadline` | the well-known headers, from no caller | an untrusted caller must not decide when work is dropped |
/// | `timeout` | 30 s | three times the standard client's `total`, and less than the 60 s after which proxies usually give up |
/// | `not_executed_header`, `should_retry_header` | no | they reveal the state of the services behind this one |
/// | `body_idle` | 30 s | twice the usual 15 s keep-alive interval of event streams |
///
/// `None`, no paths, `false` and `Duration::MAX` leave a part out.
///
/// # Order
///
/// Put it inside layers that must always run, such as tracing, and outside everything else. `bypass` applies to this layer
/// only: mount other layers so that they let health checks through, too.
///
/// A task that the handler spawns has no deadline, unless it is wrapped in [`Deadline::scope`](crate::Deadline::scope): spawn
/// work that must finish even if the caller leaves.
///
/// The [`CallOptions`](crate::CallOptions) of a caller in the same process do not change these limits and do not apply to
/// the handler's own calls. Its [`Deadline`](crate::Deadline) stays in force.
///
/// # Errors
///
/// A setting that cannot work, with its path: `deadline.max`. A name that is empty or has control
/// characters.
///
/// # Events
///
/// [`Event::Finished`](crate::event::Event::Finished) of each call, at the end of its body; as abandoned if the caller left before the
/// head or its deadline passed;
/// [`Event::Rejected`](crate::event::Event::Rejected) of the layers `deadline`, `timeout` and `body`.
///
/// # Cancel safety
///
/// A caller that leaves drops the handler where it waits, as hyper does without this stack.
#[track_caller]
pub fn server(name: &str, config: ServerConfig) -> Result<ServerLayer, ConfigError> {
    ServerLayer::new(name, config)
}

/// The standard stack, as a layer. Made by [`server()`].
#[derive(Clone)]
pub struct ServerLayer {
    name: Arc<str>,
    config: Arc<ServerConfig>,
    observe: Option<Observed>,
    body: AtBodyEnd,
    deadline: DeadlineLayer,
    timeout: TimeoutLayer,
}

impl ServerLayer {
    #[track_caller]
    fn new(name: &str, config: ServerConfig) -> Result<Self, ConfigError> {
        let location = Location::caller();
        ConfigError::check_name("server", name)?;
        config
            .validate()
            .map_err(|error| error.of("server", name))?;
        let deadline = DeadlineLayer::new(name, Duration::MAX);
        let server = Source::new("server", name);
        register_stack(&server, deadline.source(), location, config.clone());
        Ok(Self {
            name: name.into(),
            observe: config.observe.then(|| Observed::new(name)),
            body: AtBodyEnd::new(name, config.body_idle),
            deadline,
            timeout: TimeoutLayer::new(name, config.timeout),
            config: Arc::new(config),
        })
    }

    /// Sends the events of all parts of this stack to `observer` too, for as long as the stack or one of its services lives.
    pub fn observe_with(&self, observer: impl Observe + 'static) {
        let observer: Arc<dyn Observe> = Arc::new(observer);
        if let Some(observe) = &self.observe {
            observe.source().observe_with(Arc::clone(&observer));
        }
        for source in [
            self.body.source(),
            self.deadline.source(),
            self.timeout.source(),
        ] {
            source.observe_with(Arc::clone(&observer));
        }
    }

    /// The settings of this layer.
    pub fn config(&self) -> &ServerConfig {
        &self.config
    }
}

/// The parts in their order, outermost first, with their settings.
impl fmt::Debug for ServerLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = &self.config;
        f.debug_struct("ServerLayer")
            .field("name", &self.name)
            .field("bypass", &config.bypass)
            .field("not_executed_header", &config.not_executed_header)
            .field("should_retry_header", &config.should_retry_header)
            .field("observe", &config.observe)
            .field("body_idle", &ShownLimit(config.body_idle))
            .field("deadline", &config.deadline)
            .field("timeout", &ShownLimit(config.timeout))
            .finish_non_exhaustive()
    }
}

impl<S: Clone> Layer<S> for ServerLayer {
    type Service = ServerService<S>;

    fn layer(&self, handler: S) -> ServerService<S> {
        let rejections = handle_rejections(Guarding(self))
            .not_executed_header(self.config.not_executed_header)
            .should_retry_header(self.config.should_retry_header);
        ServerService {
            stack: rejections.layer(handler.clone()),
            handler,
            config: Arc::clone(&self.config),
        }
    }
}

/// The layers between the handling of rejections and the handler.
struct Guarding<'a>(&'a ServerLayer);

impl<S> Layer<S> for Guarding<'_> {
    type Service = Guards<S>;

    fn layer(&self, handler: S) -> Guards<S> {
        let Self(layer) = self;
        let handler = HandlerDeadline::new(handler, layer.timeout.clone());
        let timeout = layer.timeout.layer(handler);
        GateLayer::new(layer.observe.clone(), ByStatus::new())
            .finish(layer.body.clone())
            .layer(layer.deadline.layer(timeout))
    }
}
