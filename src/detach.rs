//! The one place that spawns: what must go on without its caller.

use std::future::Future;

/// Runs this on the runtime, in the span of its caller.
pub(crate) fn detach(future: impl Future<Output = ()> + Send + 'static) {
    #[cfg(feature = "tracing")]
    let future = tracing::Instrument::in_current_span(future);
    tokio::spawn(future);
}

/// Runs this on the runtime, in no span: it serves nobody in particular.
#[cfg(any(feature = "postgres", feature = "redis"))]
pub(crate) fn attend(future: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(future);
}
