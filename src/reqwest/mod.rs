//! reqwest: build requests as usual and send them through a stack.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! # use std::time::Duration;
//! use buttress::reqwest::SendThrough;
//! use buttress::Error;
//! use buttress::timeout::TimeoutLayer;
//! use tower::ServiceBuilder;
//!
//! let client = reqwest::Client::builder()
//!     // reqwest's own retries would multiply with those of the stack.
//!     .retry(reqwest::retry::never())
//!     .redirect(buttress::reqwest::same_origin_redirects())
//!     .build()?;
//! let stack = ServiceBuilder::new()
//!     .layer(TimeoutLayer::new("orders", Duration::from_secs(2)))
//!     .map_err(Error::Inner)
//!     .service(client.clone());
//!
//! let response = client
//!     .post("https://api.example.com/orders")
//!     .body("one of each")
//!     .send_through(&stack)
//!     .await?;
//! # let _ = response;
//! # Ok(()) }
//! ```

mod body;
mod layers;
mod redirect;
mod replay;
mod request;
mod send;

pub use self::redirect::same_origin_redirects;
pub use self::send::SendThrough;

/// The future of [`SendThrough::send_through`].
pub mod future {
    pub use super::send::SendThroughFuture;
}
