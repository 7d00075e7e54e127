//! reqwest behind a stack of layers.
//!
//! [`Client`] is a reqwest client behind the [standard stack](fn@crate::http::client), for most programs:
//!
//! ```no_run
//! # async fn example() -> Result<(), buttress::BoxError> {
//! use buttress::http::ClientConfig;
//! use buttress::reqwest::Client;
//!
//! let orders = Client::new("orders", ClientConfig::default())?;
//! let response = orders.post("https://api.example.com/orders").body("one of each").send().await?;
//! # let _ = response;
//! # Ok(()) }
//! ```
//!
//! [`SendThrough`] sends the requests of any `reqwest::Client` through a stack of your own:
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
mod client;
mod layers;
mod redirect;
mod replay;
mod request;
mod request_builder;
mod send;
mod stack;
mod tls;

pub use self::client::{Client, ClientBuilder};
pub use self::redirect::same_origin_redirects;
pub use self::request_builder::RequestBuilder;
pub use self::send::SendThrough;

/// The future of [`SendThrough::send_through`].
pub mod future {
    pub use super::send::SendThroughFuture;
}
