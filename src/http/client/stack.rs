//! The standard stack for calling others.

use super::config::ClientConfig;
use super::layer::ClientLayer;
use crate::error::ConfigError;

/// The standard stack in front of an HTTP client, for `http::Request`s (hyper, tonic) and reqwest's alike.
///
/// From the outside in, each part with its reason:
///
/// ```text
/// observe call             each call, when its head has come or it has failed
/// deadline          10 s   what a caller waits at most, retries, waits and the body included
/// idempotency key          the same on every attempt; generated for a POST or PATCH of which `idempotency_keys` says that the server
///                          honors it, for no other call
/// retry             3 ×    full jitter from 50 ms; a budget per authority, so that retries never become a storm
/// breaker                  per authority: a dead server is not called, and the others are left alone
/// observe attempt          each attempt, so that what retries hide is seen
/// attempt span             each attempt as OpenTelemetry has it, with the feature `tracing`
/// attempt           3 s    an attempt that hangs becomes a failure that the breaker counts
/// time left                told to the server in a header, if `deadline_header` names one
/// your client              its own errors stay what they were, in `Error::Inner`
/// ```
///
/// The body is part of the call: a stalled one (10 s without a frame) is a failure that the breaker counts, and the deadline
/// reaches into it. A response that streams on purpose says so with [`CallOptions::streams`](crate::CallOptions::streams).
///
/// The client inside should follow no redirects, unless it reports them ([`Redirects::Marked`]). Put tower-http's
/// `FollowRedirect` outside of the stack, where each hop is a call with retries, a breaker and a budget of its own. With a
/// reqwest client say which redirects it follows: [`ClientConfig::redirects`].
///
/// [`Redirects::Marked`]: crate::http::Redirects::Marked
///
/// Connecting is bounded by the attempt's limit; give your client a connect timeout of its own (1 s), so that a second
/// address is tried in time.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
///
/// use buttress::http::{ClientConfig, client};
/// use hyper_util::client::legacy::Client;
/// use hyper_util::rt::TokioExecutor;
/// use tower::Layer;
///
/// let hyper = Client::builder(TokioExecutor::new()).build_http::<String>();
/// let config = ClientConfig::default().attempt(Duration::from_secs(1)).total(Duration::from_secs(3));
/// let search = client("search", config)?.layer(hyper);
/// # let _ = search;
/// # Ok(()) }
/// ```
///
/// From a file, with the feature `serde`: durations as `"250ms"`, a limit that is none as `"none"`, what is left out as `"off"`.
///
/// ```
/// # #[cfg(feature = "serde")] fn read() -> Result<(), Box<dyn std::error::Error>> {
/// use buttress::http::ClientConfig;
///
/// let config: ClientConfig = toml::from_str(
///     r#"
///     attempt = "1s"
///     idempotency_keys = ["POST https://api.example.com/v1/charges"]
///     budget = "off"
///     [breaker]
///     open_for = "5s"
///     "#,
/// )?;
/// # let _ = config;
/// # Ok(()) }
/// # #[cfg(feature = "serde")] read().unwrap();
/// ```
///
/// # Defaults
///
/// | setting | default | why |
/// |---|---|---|
/// | `attempt` | 3 s | longer than nearly every answer that still comes |
/// | `total` | 10 s | three attempts and their waits fit in; few callers wait longer |
/// | `body_idle` | 10 s | a body that sends nothing for so long has stalled |
/// | `retry`, `budget`, `breaker` | their own | see [`retry`](crate::retry), [`budget`](crate::budget), [`breaker`](crate::breaker); `None` leaves one out |
/// | `authorities` | 10 000, 10 min | how many servers have a breaker and a budget of their own |
/// | `idempotency_keys` | unknown | it takes more than a key to repeat a POST: the server must be known to run it once |
/// | `key_header`, `unquoted_keys` | `idempotency-key`, quoted | the draft's form; services with another say so |
/// | `proxy` | no | most clients know what they send |
/// | `redirects` | as the client's default | reqwest follows redirects: a POST that was redirected, and cannot be told from one whose connection was refused, is sent once |
/// | `deadline_header` | none | to a server that does not read it, it is noise |
/// | `observe` | yes | rate, errors and duration, as the caller sees them and as the server gives them |
/// | `spans` | yes | they cost nothing until a subscriber wants them |
/// | `count_429` | no | a 429 speaks of this caller's quota, not of the service |
///
/// # A caller's own limits
///
/// A caller can bound one call in several ways. The earliest limit counts, and it bounds the whole call:
///
/// | set by | and `total` |
/// |---|---|
/// | [`Deadline::scope`](crate::Deadline::scope) | shortens it |
/// | a [`Deadline`](crate::Deadline) in the extensions of an `http::Request` | shortens it |
/// | the header that `deadline_header` names, in the request | shortens it |
/// | with [`grpc`](super::super::grpc), `tonic::Request::set_timeout` | shortens it |
/// | `reqwest::RequestBuilder::timeout` | shortens it |
/// | [`CallOptions::timeout`](crate::CallOptions::timeout), in a scope or in the extensions | replaces it |
///
/// Each attempt is sent with the time that is left: in the header, and as the time limit of a reqwest request. When the limit
/// passes, the call ends with [`Reason::Deadline`](crate::Reason::Deadline) and counts as abandoned: it is not retried, and the
/// breaker counts no result. A limit that has passed already refuses the call before it is sent.
///
/// `attempt` still bounds each attempt, so a request with a limit of 60 s ends with
/// [`Reason::AttemptTimeout`](crate::Reason::AttemptTimeout) when every attempt takes longer than `attempt`. For a call whose
/// response takes longer, set [`CallOptions::attempt_timeout`](crate::CallOptions::attempt_timeout) as well.
///
/// ```
/// use std::time::Duration;
///
/// use buttress::CallOptions;
///
/// let mut report = http::Request::get("https://api.example.com/report").body(String::new())?;
/// let minute = Duration::from_secs(60);
/// report.extensions_mut().insert(CallOptions::new().timeout(minute).attempt_timeout(minute));
/// # Ok::<(), http::Error>(())
/// ```
///
/// # What the stack returns
///
/// The response, or the last attempt's own error in `Error::Inner`, or a rejection in `Error::Rejected` that says which part
/// refused or cut the call short, and whether the call may have been executed. Over a service whose error is
/// [`BoxError`](crate::BoxError), such as tower's `Buffer`, the stack returns `BoxError` itself, so `?` works: the last attempt's
/// own error, or a [`Rejected`](crate::Rejected), which [`CallError::rejected`](crate::CallError::rejected) finds.
///
/// # What its limits do not reach
///
/// - The wait until it is ready. hyper's and reqwest's clients always are; what makes callers wait in `poll_ready`, as tower's
///   `ConcurrencyLimit` does, belongs outside of the stack, with a limit of its own.
/// - A task of its own: under a tower `Buffer`, which calls the stack in its worker's task, `total` counts from that call on,
///   and the `timeout` and the `key` of a [`CallOptions::scope`](crate::CallOptions::scope) are lost. Put the stack outside of the
///   buffer, or the options into the extensions of the request.
///
/// # While it runs
///
/// [`ClientLayer::reconfigure`] changes limits, retries, budgets, breakers and keys of all clients without losing state.
/// `{:#?}` of the layer shows the parts in their order, each with the settings it goes by.
///
/// # Cancel safety
///
/// Dropping the call, or the response's body, drops what is under way and gives back what it held.
///
/// # Errors
///
/// A setting that cannot work, alone or together with the others, with its path: `breaker.probe_idle_timeout`. A name that is empty or has control
/// characters.
#[track_caller]
pub fn client(name: &str, config: ClientConfig) -> Result<ClientLayer, ConfigError> {
    ClientLayer::new(name, config)
}
