//! Shows a value in the extensions of a request that the request was rejected before it reached the service.
//!
//! A layer that rejects a request drops it inside [`drop_refused`]. A value that the request carries can detect in its `Drop` that
//! the request was not executed. This works for any type of request.

#[cfg(feature = "idempotency")]
use std::cell::Cell;

#[cfg(feature = "idempotency")]
use crate::call::Call;

#[cfg(feature = "idempotency")]
thread_local! {
    static REFUSING: Cell<bool> = const { Cell::new(false) };
}

/// Drops a request that a layer of this crate rejects before it reached the service.
#[inline]
pub(crate) fn drop_refused<Req>(request: Req) {
    // An attempt before a rejected retry may have been executed.
    #[cfg(feature = "idempotency")]
    let _refusing = Refusing(REFUSING.replace(!Call::current().is_retry()));
    drop(request);
}

/// Whether the value that is being dropped belongs to a rejected request.
#[cfg(feature = "idempotency")]
pub(crate) fn is_refusing() -> bool {
    REFUSING.try_with(Cell::get).unwrap_or(false)
}

/// Restores the state before, even if a destructor of the request panics.
#[cfg(feature = "idempotency")]
struct Refusing(bool);

#[cfg(feature = "idempotency")]
impl Drop for Refusing {
    fn drop(&mut self) {
        REFUSING.set(self.0);
    }
}
