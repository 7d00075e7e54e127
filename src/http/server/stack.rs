//! The standard stack for what is served.

use std::fmt;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;

use super::config::ServerConfig;
use super::service::{Guards, ServerService};
use super::within::Within;
use crate::error::ConfigError;
use crate::event::{Observe, Source};
use crate::gate::GateLayer;
use crate::http::body::AtBodyEnd;
use crate::http::classify::ByStatus;
use crate::http::handle_rejections::handle_rejections;
use crate::http::shown::Shown;
use crate::live_names::register_stack;
use crate::telemetry::Observed;
use crate::timeout::{DeadlineLayer, TimeoutLayer};

/// The standard stack around what an HTTP server serves: an axum router or a handler, or any service of `http::Request`s whose
/// error is `Infallible`. It stays so: what the stack refuses or cuts short is answered, so axum needs no `HandleErrorLayer`.
///
/// From the outside in, each part with its reason:
///
/// ```text
/// bypass            health checks skip all that follows: a busy service is not a dead one
/// answers           what is refused or cut short is a response, never an error
/// observe           each call's outcome and duration, its body included
/// deadline in       the time that a trusted caller has left; a call that comes too late is answered 504, not executed
/// timeout     30 s  a handler that hangs is answered for with 504, and dropped
/// your handler      its own calls through this crate end with the earlier of the two, with no line of code
/// ```
///
/// The caller's deadline bounds the body, too; the timeout does not, so that a download may take its time. A body that sends
/// nothing for 30 s while the caller waits for it is cut short.
///
/// The answers are those of [`handle_rejections`](super::super::handle_rejections()): 504 as `application/problem+json`.
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
/// | `bypass` | `/livez`, `/readyz`, `/healthz` | what Kubernetes' probes ask for by custom: a probe that is refused gets a busy process killed |
/// | `observe` | yes | rate, errors and duration of what is served |
/// | `deadline` | the well-known headers, nobody believed | a stranger must not say when work is dropped half-way |
/// | `timeout` | 30 s | three times what a standard client waits, and less than the 60 s after which proxies give up by custom |
/// | `not_executed_header`, `should_retry_header` | no | they tell clients about the services behind this one |
/// | `body_idle` | 30 s | twice the 15 s after which a stream of events usually sends a sign of life |
///
/// `None`, no paths, `false` and `Duration::MAX` leave a part out.
///
/// # Order
///
/// Around everything that the handler's calls go through, and inside what must always run, such as a layer that traces. The
/// paths of `bypass` are seen by this layer only: mount other layers so that they let health checks through, too.
///
/// A task that the handler spawns has no deadline, unless [`Deadline::scope`](crate::Deadline::scope) takes it there: work that
/// must be done whoever waits for it belongs there.
///
/// The [`CallOptions`](crate::CallOptions) of a caller in the same process end here: they lift none of these limits, and the
/// handler's own calls do not have them. Its [`Deadline`](crate::Deadline) stays in force.
///
/// # Errors
///
/// A setting that cannot work, with its path: `deadline.most`. A name that is empty or has control
/// characters.
///
/// # Events
///
/// [`Event::Finished`](crate::event::Event::Finished) of each call, at the end of its body; as abandoned if the caller left before the
/// head, or its time was over;
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

    /// The settings it was made with.
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
            .field("body_idle", &Shown(config.body_idle))
            .field("deadline", &config.deadline)
            .field("timeout", &Shown(config.timeout))
            .finish_non_exhaustive()
    }
}

impl<S: Clone> Layer<S> for ServerLayer {
    type Service = ServerService<S>;

    fn layer(&self, handler: S) -> ServerService<S> {
        let answers = handle_rejections(Guarding(self))
            .not_executed_header(self.config.not_executed_header)
            .should_retry_header(self.config.should_retry_header);
        ServerService {
            stack: answers.layer(handler.clone()),
            handler,
            config: Arc::clone(&self.config),
        }
    }
}

/// What is between the answers and the handler.
struct Guarding<'a>(&'a ServerLayer);

impl<S> Layer<S> for Guarding<'_> {
    type Service = Guards<S>;

    fn layer(&self, handler: S) -> Guards<S> {
        let Self(layer) = self;
        let handler = Within::new(handler, layer.timeout.clone());
        let timeout = layer.timeout.layer(handler);
        GateLayer::new(layer.observe.clone(), ByStatus::new())
            .finish(layer.body.clone())
            .layer(layer.deadline.layer(timeout))
    }
}
