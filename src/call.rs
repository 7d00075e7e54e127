//! What a caller may ask of one call, and what a call is told about the attempt it makes.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project::{pin_project, pinned_drop};

pub use crate::attempt::{AttemptReason, Call};
pub(crate) use crate::attempt::{EnteredCall, Marks, Scope};

thread_local! {
    static OPTIONS: Cell<Options> = const { Cell::new(Options::NONE) };
    static KEY: RefCell<Option<Arc<str>>> = const { RefCell::new(None) };
}

/// What a caller asks for one call. Carried with the task into every layer.
///
/// ```
/// # use std::time::Duration;
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use buttress::CallOptions;
///
/// let answer = CallOptions::new()
///     .timeout(Duration::from_millis(200))
///     .retry(false)
///     .key("order-4711-attempt-of-the-user")
///     .scope(async { 42 })
///     .await;
/// # assert_eq!(answer, 42);
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallOptions {
    /// The limit of each attempt, instead of the timeout layer's own. `None`: the layer's.
    pub timeout: Option<Duration>,
    /// Whether the call may be repeated. Default: yes.
    pub retry: bool,
    /// Whether the response is a stream on purpose: then no limit reaches into its body. Default: no.
    pub streams: bool,
    /// The idempotency key of this call, instead of a minted one.
    pub key: Option<Arc<str>>,
}

/// Without the key, which is a secret.
impl fmt::Debug for CallOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallOptions")
            .field("timeout", &self.timeout)
            .field("retry", &self.retry)
            .field("streams", &self.streams)
            .finish_non_exhaustive()
    }
}

impl Default for CallOptions {
    fn default() -> Self {
        Self {
            timeout: None,
            retry: true,
            streams: false,
            key: None,
        }
    }
}

impl CallOptions {
    /// No wishes: every layer does as it was configured.
    pub fn new() -> Self {
        Self::default()
    }

    /// The limit of each attempt, instead of the timeout layer's own.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Whether the call may be repeated.
    #[must_use]
    pub fn retry(mut self, retry: bool) -> Self {
        self.retry = retry;
        self
    }

    /// Whether the response is a stream on purpose, such as server-sent events: neither the deadline nor the idle limit of
    /// the HTTP stacks reaches into its body, and a breaker has its result at the head.
    #[must_use]
    pub fn streams(mut self, streams: bool) -> Self {
        self.streams = streams;
        self
    }

    /// The idempotency key of this call. The key of the operation, not of the attempt: the same one whenever the user
    /// presses the button again.
    ///
    /// It is put into the request when the service is called. Under a tower `Buffer`, which calls its service in another task, it
    /// is lost: write the header yourself there.
    #[must_use]
    pub fn key(mut self, key: impl Into<Arc<str>>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// A future in which these options hold, whatever it polls. They take the place of all options of a scope further out, and
    /// do not cross `tokio::spawn`.
    pub fn scope<F: Future>(self, future: F) -> CallScope<F> {
        CallScope {
            options: Options {
                timeout: self.timeout,
                retry: self.retry,
                streams: self.streams,
            },
            key: self.key,
            future: Some(future),
        }
    }

    /// The timeout asked for the call under way.
    pub(crate) fn current_timeout() -> Option<Duration> {
        OPTIONS.get().timeout
    }

    /// Whether the call under way may be repeated.
    pub(crate) fn current_retry() -> bool {
        OPTIONS.get().retry
    }

    /// Whether the response of the call under way is a stream on purpose.
    #[cfg_attr(
        not(feature = "http"),
        expect(dead_code, reason = "bodies come with HTTP")
    )]
    pub(crate) fn current_streams() -> bool {
        OPTIONS.get().streams
    }

    /// The idempotency key asked for the call under way.
    #[cfg_attr(
        not(feature = "http"),
        expect(dead_code, reason = "the key layer comes with HTTP")
    )]
    pub(crate) fn current_key() -> Option<Arc<str>> {
        KEY.try_with(|key| key.borrow().clone()).ok().flatten()
    }
}

/// Puts another key in force. A thread that ends drops its calls perhaps after its key.
fn replace_key(key: Option<Arc<str>>) -> Option<Arc<str>> {
    KEY.try_with(|current| current.replace(key)).ok().flatten()
}

/// The part of the options that fits in a cell.
#[derive(Clone, Copy, Debug)]
struct Options {
    timeout: Option<Duration>,
    retry: bool,
    streams: bool,
}

impl Options {
    const NONE: Self = Self {
        timeout: None,
        retry: true,
        streams: false,
    };
}

struct EnteredOptions {
    options: Options,
    key: Option<Arc<str>>,
}

impl EnteredOptions {
    fn new(options: Options, key: Option<Arc<str>>) -> Self {
        Self {
            options: OPTIONS.replace(options),
            key: replace_key(key),
        }
    }
}

impl Drop for EnteredOptions {
    fn drop(&mut self) {
        OPTIONS.set(self.options);
        drop(replace_key(self.key.take()));
    }
}

/// The future of [`CallOptions::scope`].
#[pin_project(PinnedDrop)]
#[must_use = "futures do nothing unless polled"]
pub struct CallScope<F> {
    options: Options,
    key: Option<Arc<str>>,
    /// `None` only while it is dropped.
    #[pin]
    future: Option<F>,
}

/// Without the key, which is a secret.
impl<F: fmt::Debug> fmt::Debug for CallScope<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallScope")
            .field("options", &self.options)
            .field("future", &self.future)
            .finish_non_exhaustive()
    }
}

impl<F: Future> Future for CallScope<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let _entered = EnteredOptions::new(*this.options, this.key.clone());
        match this.future.as_pin_mut() {
            Some(future) => future.poll(cx),
            None => Poll::Pending,
        }
    }
}

#[pinned_drop]
impl<F> PinnedDrop for CallScope<F> {
    fn drop(self: Pin<&mut Self>) {
        let mut this = self.project();
        let _entered = EnteredOptions::new(*this.options, this.key.take());
        this.future.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn options_hold_inside_their_scope_only() {
        let limit = Duration::from_secs(1);
        CallOptions::new()
            .timeout(limit)
            .retry(false)
            .key("k")
            .scope(async {
                assert_eq!(CallOptions::current_timeout(), Some(limit));
                assert!(!CallOptions::current_retry());
                assert_eq!(CallOptions::current_key().as_deref(), Some("k"));
            })
            .await;
        assert_eq!(CallOptions::current_timeout(), None);
        assert!(CallOptions::current_retry());
        assert_eq!(CallOptions::current_key(), None);
    }
}
