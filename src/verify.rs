//! Compile-time check of a stack.

use tower_service::Service;

use crate::error::CallError;

/// Checks at compile time that a stack is a service for these requests, and returns it.
///
/// For a method call (`stack.oneshot(request)`) on a stack that does not fit, rustc only reports E0599, "the method exists but its
/// trait bounds were not satisfied". With `verify`, the error names the part and the fix:
///
/// ```compile_fail,E0277
/// # use std::time::Duration;
/// use buttress::timeout::TimeoutLayer;
/// use tower::{ServiceBuilder, service_fn};
///
/// let stack = ServiceBuilder::new()
///     .layer(TimeoutLayer::new("search", Duration::from_secs(1)))
///     .service(service_fn(async |words: String| Ok::<_, std::io::Error>(words)));
/// buttress::verify::<String, _>(stack); // the error `std::io::Error` cannot hold a rejection of this crate …
/// ```
///
/// The fix is one line, innermost:
///
/// ```
/// # use std::time::Duration;
/// # use buttress::timeout::TimeoutLayer;
/// # use tower::{ServiceBuilder, service_fn};
/// let stack = ServiceBuilder::new()
///     .layer(TimeoutLayer::new("search", Duration::from_secs(1)))
///     .map_err(buttress::Error::Inner)
///     .service(service_fn(async |words: String| Ok::<_, std::io::Error>(words)));
/// buttress::verify::<String, _>(stack);
/// ```
pub fn verify<Req, S>(stack: S) -> S
where
    S: Service<Req>,
    S::Error: CallError,
{
    stack
}
