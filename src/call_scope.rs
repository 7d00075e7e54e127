//! The options in force: set around every poll, and hidden by the layers that apply them.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project::{pin_project, pinned_drop};

use crate::call::CallOptions;

thread_local! {
    static OPTIONS: Cell<InForce> = const { Cell::new(InForce::NONE) };
    static KEY: RefCell<Option<Arc<ScopedKey>>> = const { RefCell::new(None) };
}

/// The idempotency key of a scope.
#[derive(Debug)]
pub(crate) struct ScopedKey {
    text: Arc<str>,
    used: AtomicBool,
}

#[cfg_attr(
    not(feature = "http"),
    expect(dead_code, reason = "the key layer comes with HTTP")
)]
impl ScopedKey {
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Takes the key for one call. `false`: another call has it.
    pub(crate) fn claim(&self) -> bool {
        !self.used.swap(true, Ordering::Relaxed)
    }
}

/// What the layers know of the key of a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyState {
    /// There is none.
    None,
    /// There is one, for the next call that needs one.
    Free,
    /// The request under way carries it.
    Taken,
}

/// The options in force, without the text of the key: they fit in a cell.
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
pub(crate) fn key() -> Option<Arc<ScopedKey>> {
    if in_force().key != KeyState::Free {
        return None;
    }
    KEY.try_with(|key| key.borrow().clone()).ok().flatten()
}

/// Restores the options that were in force before.
#[must_use]
pub(crate) struct Hidden(Option<InForce>);

/// Changes the options in force if there is something to hide. Most calls have no options and write nothing.
#[inline]
pub(crate) fn hide(
    is_set: impl FnOnce(&InForce) -> bool,
    clear: impl FnOnce(&mut InForce),
) -> Hidden {
    OPTIONS.with(|current| {
        let before = current.get();
        if !is_set(&before) {
            return Hidden(None);
        }
        let mut options = before;
        clear(&mut options);
        current.set(options);
        Hidden(Some(before))
    })
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
struct OptionsScope {
    options: InForce,
    key: Option<Arc<ScopedKey>>,
}

impl OptionsScope {
    fn new(options: CallOptions) -> Self {
        let key = options.key.map(|text| ScopedKey {
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

    fn enter(&self) -> EnteredOptions {
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

/// A future in which the options of a call are in force. Made by [`CallOptions::scope`].
#[pin_project(PinnedDrop)]
#[must_use = "futures do nothing unless polled"]
pub struct CallScope<F> {
    /// `None`: the options stay as they are. In a box, because most calls have none.
    scope: Option<Box<OptionsScope>>,
    /// `None` once it is over, and while it is dropped.
    #[pin]
    future: Option<F>,
}

impl<F> CallScope<F> {
    pub(crate) fn new(options: CallOptions, future: F) -> Self {
        Self {
            scope: Some(Box::new(OptionsScope::new(options))),
            future: Some(future),
        }
    }

    /// The future that `call` makes, with these options in force in both, if there are any.
    #[cfg(feature = "http")]
    pub(crate) fn of(options: Option<CallOptions>, call: impl FnOnce() -> F) -> Self {
        let scope = options.map(|options| Box::new(OptionsScope::new(options)));
        let entered = scope.as_deref().map(OptionsScope::enter);
        let future = Some(call());
        drop(entered);
        Self { scope, future }
    }
}

/// Without the key, which is a secret.
impl<F: fmt::Debug> fmt::Debug for CallScope<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallScope")
            .field("options", &self.scope.as_ref().map(|scope| scope.options))
            .field("future", &self.future)
            .finish_non_exhaustive()
    }
}

impl<F: Future> Future for CallScope<F> {
    type Output = F::Output;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let _entered = this.scope.as_deref().map(OptionsScope::enter);
        let future = this.future.as_mut().as_pin_mut();
        let polled = future
            .expect("`CallScope` polled after completion")
            .poll(cx);
        if polled.is_ready() {
            this.future.set(None);
        }
        polled
    }
}

#[pinned_drop]
impl<F> PinnedDrop for CallScope<F> {
    fn drop(self: Pin<&mut Self>) {
        let mut this = self.project();
        let _entered = this.scope.as_deref().map(OptionsScope::enter);
        this.future.set(None);
    }
}
