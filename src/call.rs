//! The options of one call.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::scoped::{Context, Scoped};

pub use crate::attempt::{AttemptReason, Call};
pub(crate) use crate::attempt::{EnteredCall, Marks, Scope};

/// Options of one call.
///
/// Options reach a call in one of three ways:
///
/// - An `http::Request` carries them in its extensions: `request.extensions_mut().insert(options)`. The standard stack
///   [`http::client`](fn@crate::http::client) reads them there and removes them, so that they are not sent on. They replace the
///   options of a scope.
/// - A reqwest request gets them as an argument of
///   [`send_through_with`](crate::reqwest::SendThrough::send_through_with).
/// - Everything else, the `run` methods included, is wrapped in [`scope`](Self::scope).
///
/// # Which call an option applies to
///
/// A scope applies to the calls made directly in it, not to the calls that the called service makes. The outermost layer that
/// supports an option applies it and hides it from all inner layers. Only `streams` is applied by every layer of a stack; the
/// standard stacks and [`http::handle_rejections`](crate::http::handle_rejections()) hide it from the inner service. The standard
/// server stack [`http::server`](fn@crate::http::server) ignores all options of a caller in the same process.
///
/// ```
/// # use std::time::Duration;
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use buttress::CallOptions;
///
/// let result = CallOptions::new()
///     .timeout(Duration::from_millis(200))
///     .retry(false)
///     .idempotency_key("order-4711-attempt-of-the-user")
///     .scope(async { 42 })
///     .await;
/// # assert_eq!(result, 42);
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallOptions {
    /// The time limit of the whole call. Replaces the total of the deadline layer. `None`: the layer's.
    pub timeout: Option<Duration>,
    /// The time limit of each attempt. Replaces the limit of the timeout layer. `None`: the layer's.
    pub attempt_timeout: Option<Duration>,
    /// Whether the call may be retried. Default: yes.
    pub retry: bool,
    /// Whether the response is intentionally long-lived, such as server-sent events. Disables the body timeouts of the HTTP stacks,
    /// and a breaker records the call at the response's head. Default: no.
    pub streams: bool,
    /// The idempotency key of this call, instead of a generated one.
    pub idempotency_key: Option<Arc<str>>,
}

/// Without the key, which is a secret.
impl fmt::Debug for CallOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallOptions")
            .field("timeout", &self.timeout)
            .field("attempt_timeout", &self.attempt_timeout)
            .field("retry", &self.retry)
            .field("streams", &self.streams)
            .finish_non_exhaustive()
    }
}

impl Default for CallOptions {
    fn default() -> Self {
        Self {
            timeout: None,
            attempt_timeout: None,
            retry: true,
            streams: false,
            idempotency_key: None,
        }
    }
}

impl CallOptions {
    /// No options: every layer uses its own settings.
    pub fn new() -> Self {
        Self::default()
    }

    /// The time limit of the whole call, retries and waits included. It replaces the total of a
    /// [`DeadlineLayer`](crate::timeout::DeadlineLayer), and may be longer. `Duration::MAX` is no limit.
    ///
    /// An earlier [`Deadline`](crate::Deadline) in force still ends the call. When the limit passes, the call ends as abandoned: the
    /// breaker records no result, and nothing is retried. The attempt limit still applies: for a response that takes longer, set
    /// [`attempt_timeout`](Self::attempt_timeout) as well.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The time limit of each attempt. It replaces the limit of a [`TimeoutLayer`](crate::timeout::TimeoutLayer), and may be longer.
    /// `Duration::MAX` is no limit. The time left for the whole call still bounds every attempt.
    #[must_use]
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = Some(timeout);
        self
    }

    setters! {
        mut retry: bool,
        mut streams: bool,
    }

    /// The idempotency key of this call. It identifies the operation, not the attempt: use the same key when the user submits the
    /// operation again.
    ///
    /// Exactly one call uses the key: the first one in the scope whose request needs a key and has none in its header. A second such
    /// call is rejected before it is sent, with [`Reason::Key`](crate::Reason::Key). Use a separate scope for each call. To retry
    /// an operation yourself, set the header.
    ///
    /// The key is added to the request when the service is called. A tower `Buffer` calls its service in another task, outside the
    /// scope: with a `Buffer`, pass the options in the extensions of the request or set the header.
    #[must_use]
    pub fn idempotency_key(mut self, key: impl Into<Arc<str>>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }

    /// A future in which these options are in force. They replace all options of an outer scope, and do not cross
    /// `tokio::spawn`.
    ///
    /// `timeout` and `idempotency_key` are read when the service is called. Call it inside the scope, as `oneshot` and
    /// `async { service.call(request).await }` do.
    pub fn scope<F: Future>(self, future: F) -> Scoped<Option<Box<OptionsScope>>, F> {
        Scoped::new(Some(Box::new(OptionsScope::new(self))), future)
    }

    /// The time limit of the whole call, if the options in force set one.
    pub(crate) fn current_timeout() -> Option<Duration> {
        in_force().timeout
    }

    /// The time limit of each attempt, if the options in force set one.
    pub(crate) fn current_attempt_timeout() -> Option<Duration> {
        in_force().attempt_timeout
    }

    /// Whether the call may be retried.
    pub(crate) fn current_retry() -> bool {
        in_force().retry
    }

    /// Hides the time limit of the whole call from everything inside, until the guard is dropped.
    pub(crate) fn hide_timeout() -> Hidden {
        hide(|of| of.timeout = None)
    }

    /// Hides the time limit of each attempt.
    pub(crate) fn hide_attempt_timeout() -> Hidden {
        hide(|of| of.attempt_timeout = None)
    }

    /// Hides that the call must not be retried.
    pub(crate) fn hide_retry() -> Hidden {
        hide(|of| of.retry = true)
    }
}

#[cfg(feature = "http")]
impl CallOptions {
    /// Whether the response is intentionally long-lived.
    pub(crate) fn current_streams() -> bool {
        in_force().streams
    }

    /// Whether the options in force have an idempotency key, used or not.
    pub(crate) fn has_key() -> bool {
        in_force().key != KeyState::None
    }

    /// The idempotency key for a call that needs one and has none.
    pub(crate) fn current_key() -> Option<Arc<ScopedKey>> {
        key()
    }

    /// Hides the idempotency key.
    pub(crate) fn hide_key() -> Hidden {
        hide(|of| of.key = KeyState::None)
    }

    /// Hides the idempotency key, but not that the caller chose the one in the request.
    pub(crate) fn hide_taken_key() -> Hidden {
        hide(|of| {
            if of.key == KeyState::Free {
                of.key = KeyState::Taken;
            }
        })
    }

    /// Hides all options.
    pub(crate) fn hide_all() -> Hidden {
        hide(|of| *of = InForce::NONE)
    }
}

// The options in force: set around every poll, and hidden by the layers that apply them.

thread_local! {
    static OPTIONS: Cell<InForce> = const { Cell::new(InForce::NONE) };
    static KEY: RefCell<Option<Arc<ScopedKey>>> = const { RefCell::new(None) };
}

/// The idempotency key of a scope.
#[derive(Debug)]
#[cfg_attr(
    not(feature = "http"),
    expect(dead_code, reason = "the key layer comes with HTTP")
)]
pub(crate) struct ScopedKey {
    text: Arc<str>,
    used: AtomicBool,
}

#[cfg(feature = "http")]
impl ScopedKey {
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Takes the key for one call. `false`: another call has it.
    pub(crate) fn claim(&self) -> bool {
        !self.used.swap(true, std::sync::atomic::Ordering::Relaxed)
    }
}

/// The state of the scope's key, as the layers see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyState {
    /// There is none.
    None,
    /// There is one, for the next call that needs one.
    Free,
    /// The request under way carries it.
    #[cfg(feature = "http")]
    Taken,
}

/// The options in force, without the text of the key, because only `Copy` values fit in a `Cell`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InForce {
    pub(crate) timeout: Option<Duration>,
    pub(crate) attempt_timeout: Option<Duration>,
    pub(crate) retry: bool,
    pub(crate) streams: bool,
    pub(crate) key: KeyState,
}

impl InForce {
    pub(crate) const NONE: Self = Self {
        timeout: None,
        attempt_timeout: None,
        retry: true,
        streams: false,
        key: KeyState::None,
    };
}

/// The options in force on this thread.
#[inline]
pub(crate) fn in_force() -> InForce {
    OPTIONS.get()
}

/// The key of the scope in force, unless a layer outside has hidden it.
#[cfg(feature = "http")]
pub(crate) fn key() -> Option<Arc<ScopedKey>> {
    if in_force().key != KeyState::Free {
        return None;
    }
    KEY.try_with(|key| key.borrow().clone()).ok().flatten()
}

/// Restores the options that were in force before.
#[must_use]
pub(crate) struct Hidden(Option<InForce>);

/// Changes the options in force until the guard is dropped. Writes nothing if there is no change, as for most calls.
#[inline]
pub(crate) fn hide(clear: impl FnOnce(&mut InForce)) -> Hidden {
    let before = OPTIONS.get();
    let mut options = before;
    clear(&mut options);
    if options == before {
        return Hidden(None);
    }
    OPTIONS.set(options);
    Hidden(Some(before))
}

impl Drop for Hidden {
    #[inline]
    fn drop(&mut self) {
        if let Some(before) = self.0.take() {
            OPTIONS.set(before);
        }
    }
}

/// The options of one call, ready to be put in force at every poll.
pub struct OptionsScope {
    options: InForce,
    key: Option<Arc<ScopedKey>>,
}

impl OptionsScope {
    pub(crate) fn new(options: CallOptions) -> Self {
        let key = options.idempotency_key.map(|text| ScopedKey {
            text,
            used: AtomicBool::new(false),
        });
        Self {
            options: InForce {
                timeout: options.timeout,
                attempt_timeout: options.attempt_timeout,
                retry: options.retry,
                streams: options.streams,
                key: match key {
                    Some(_) => KeyState::Free,
                    None => KeyState::None,
                },
            },
            key: key.map(Arc::new),
        }
    }
}

/// Without the key, which is a secret.
impl fmt::Debug for OptionsScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.options.fmt(f)
    }
}

impl Context for OptionsScope {
    fn enter(&self) -> impl Sized {
        EnteredOptions {
            options: OPTIONS.replace(self.options),
            key: replace_key(self.key.clone()),
        }
    }
}

struct EnteredOptions {
    options: InForce,
    key: Option<Arc<ScopedKey>>,
}

impl Drop for EnteredOptions {
    fn drop(&mut self) {
        OPTIONS.set(self.options);
        drop(replace_key(self.key.take()));
    }
}

/// Puts another key in force. A thread that ends may drop its calls after its key.
fn replace_key(key: Option<Arc<ScopedKey>>) -> Option<Arc<ScopedKey>> {
    KEY.try_with(|current| current.replace(key)).ok().flatten()
}

#[cfg(feature = "http")]
pub(crate) type CallScope<F> = Scoped<Option<Box<OptionsScope>>, F>;

/// The future that `call` makes, with these options in force in both, if there are any.
#[cfg(feature = "http")]
pub(crate) fn with<F>(options: Option<CallOptions>, call: impl FnOnce() -> F) -> CallScope<F> {
    let scope = options.map(|options| Box::new(OptionsScope::new(options)));
    let entered = scope.enter();
    let future = call();
    drop(entered);
    Scoped::new(scope, future)
}

#[cfg(all(test, feature = "http"))]
mod tests {
    use super::*;

    fn takes_key() -> Option<String> {
        let key = CallOptions::current_key()?;
        key.claim().then(|| key.text().to_owned())
    }

    #[tokio::test]
    async fn a_key_is_taken_once_and_a_scope_inside_has_its_own() {
        CallOptions::new()
            .idempotency_key("outer")
            .scope(async {
                let inner = CallOptions::new().idempotency_key("inner");
                inner
                    .scope(async { assert_eq!(takes_key().as_deref(), Some("inner")) })
                    .await;
                let none = CallOptions::new();
                none.scope(async { assert_eq!(takes_key(), None) }).await;
                assert_eq!(takes_key().as_deref(), Some("outer"));
                assert!(CallOptions::has_key());
                assert_eq!(takes_key(), None);
            })
            .await;
    }

    #[tokio::test]
    async fn hidden_options_come_back_in_any_nesting() {
        let limit = Duration::from_secs(1);
        CallOptions::new()
            .timeout(limit)
            .streams(true)
            .scope(async {
                let before = in_force();
                {
                    let _timeout = CallOptions::hide_timeout();
                    assert_eq!(CallOptions::current_timeout(), None);
                    let _retry = CallOptions::hide_retry();
                    assert!(CallOptions::current_streams());
                    let _all = CallOptions::hide_all();
                    assert_eq!(in_force(), InForce::NONE);
                }
                assert_eq!(in_force(), before);
            })
            .await;
        assert_eq!(in_force(), InForce::NONE);
    }
}
