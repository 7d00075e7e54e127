//! Spawns work that must finish even if its caller does not wait.

use std::future::Future;

/// Spawns the future in the caller's tracing span.
pub(crate) fn detach(future: impl Future<Output = ()> + Send + 'static) {
    #[cfg(feature = "tracing")]
    let future = tracing::Instrument::in_current_span(future);
    tokio::spawn(future);
}

/// Spawns the future outside any tracing span, because it serves no single caller.
#[cfg(any(feature = "postgres", feature = "redis"))]
pub(crate) fn attend(future: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(future);
}
