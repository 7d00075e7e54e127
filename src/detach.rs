//! Spawns work that must finish even if its caller does not wait.

use std::future::Future;

/// Spawns the future in the caller's tracing span.
pub(crate) fn detach(future: impl Future<Output = ()> + Send + 'static) {
    #[cfg(feature = "tracing")]
    let future = tracing::Instrument::in_current_span(future);
    tokio::spawn(future);
}
