//! The standard stack for HTTP clients.

use super::config::ClientConfig;
use super::layer::ClientLayer;
use crate::error::ConfigError;

/// The standard stack in front of an HTTP client, for `http::Request`s (hyper, tonic) and reqwest's alike.
///
/// From the outside in:
///
/// ```text
/// observe call             reports each call, when its head has arrived or it has failed
/// deadline          10 s   bounds the whole call: retries, waits and the body included
/// idempotency key          the same on every attempt; generated for a POST or PATCH to a server that honors keys, as declared by
///                          `idempotency_keys`
/// retry             3 ×    full jitter from 50 ms; a budget per authority prevents retry storms
/// breaker                  per authority: a failing server is not called, and others are not affected
/// observe attempt          reports each attempt, including those that retries hide
/// attempt span             a span of each attempt in OpenTelemetry's format, with the feature `tracing`
/// attempt           3 s    turns an attempt that hangs into a failure that the breaker counts
/// time left                sent to the server in a header, if `deadline_header` is set
/// your client              its own errors are returned unchanged, in `Error::Inner`
/// ```
///
/// The body is part of the call: a stalled body (10 s without a frame) is a failure that the breaker counts, and the deadline
/// bounds it. Mark calls with intentionally long-lived responses with [`CallOptions::streams`](crate::CallOptions::streams).
///
/// The client inside should follow no redirects, unless it reports them ([`Redirects::Marked`]). Put tower-http's
/// `FollowRedirect` outside of the stack, where each hop is a separate call with its own retries, breaker and budget. For a
/// reqwest client, set [`ClientConfig::redirects`].
///
/// [`Redirects::Marked`]: crate::http::Redirects::Marked
///
/// The attempt's limit includes connecting. Set a connect timeout (1 s) on your client, so that a second address is
/// tried in time.
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
/// From a file, with the feature `serde`: durations as `"250ms"`, no limit as `"none"`, a part that is left out as `"off"`.
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
/// | `attempt` | 3 s | longer than nearly every response that still arrives |
/// | `total` | 10 s | fits three attempts and their waits; few callers wait longer |
/// | `body_idle` | 10 s | a body that sends nothing for 10 s has stalled |
/// | `retry`, `budget`, `breaker` | their own | see [`retry`](crate::retry), [`budget`](crate::budget), [`breaker`](crate::breaker); `None` leaves one out |
/// | `authorities` | 10 000, 10 min | how many servers have their own breaker and budget |
/// | `idempotency_keys` | unknown | a POST is retried only if the server is known to honor keys |
/// | `key_header`, `unquoted_keys` | `idempotency-key`, quoted | the form of the IETF draft; some services document another |
/// | `proxy` | no | for clients that forward requests of others |
/// | `redirects` | as the client's default | reqwest follows redirects, after which a refused connection does not prove that a POST was not executed: it is sent once |
/// | `deadline_header` | none | only servers that read the header benefit |
/// | `observe` | yes | rate, errors and duration, of calls and of attempts |
/// | `spans` | yes | they cost nothing without a subscriber |
/// | `count_429` | no | a 429 concerns this caller's quota, not the health of the service |
///
/// # A caller's own limits
///
/// A caller can limit one call in several ways. The earliest limit counts, and it bounds the whole call:
///
/// | set by | effect on `total` |
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
/// breaker counts no result. If the limit has already passed, the call is rejected before it is sent.
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
/// The response, or the last attempt's own error in `Error::Inner`, or a rejection in `Error::Rejected` with the part
/// that rejected the call or cut it short, and whether the call may have been executed. Over a service whose error is
/// [`BoxError`](crate::BoxError), such as tower's `Buffer`, the stack returns `BoxError` itself, so `?` works: the last attempt's
/// own error, or a [`Rejected`](crate::Rejected), which [`CallError::rejected`](crate::CallError::rejected) finds.
///
/// # What its limits do not cover
///
/// - The wait in `poll_ready`. hyper's and reqwest's clients are always ready; put a layer that makes callers wait, such as
///   tower's `ConcurrencyLimit`, outside of the stack, with a separate limit.
/// - Another task: under a tower `Buffer`, which calls the stack in its worker's task, `total` counts from that call on,
///   and the `timeout` and the `idempotency_key` of a [`CallOptions::scope`](crate::CallOptions::scope) are lost. Put the stack outside of the
///   buffer, or put the options into the extensions of the request.
///
/// # Changing settings at run time
///
/// [`ClientLayer::reconfigure`] changes limits, retries, budgets, breakers and `idempotency_keys` of all clients without losing
/// state. `{:#?}` of the layer shows the parts in their order, each with its present settings.
///
/// # Cancel safety
///
/// Dropping the call, or the response's body, cancels the call and releases everything that it held.
///
/// # Errors
///
/// A setting that cannot work, alone or together with the others, with its path: `breaker.probe_idle_timeout`. A name that is empty or has control
/// characters.
#[track_caller]
pub fn client(name: &str, config: ClientConfig) -> Result<ClientLayer, ConfigError> {
    ClientLayer::new(name, config)
}
