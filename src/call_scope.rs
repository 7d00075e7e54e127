//! The options in force: set around every poll, and hidden by the layers that apply them.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::call::CallOptions;
use crate::scoped::Context;
#[cfg(feature = "http")]
use crate::scoped::Scoped;

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
