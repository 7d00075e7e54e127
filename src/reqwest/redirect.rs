//! Redirects, followed with care.

use ::reqwest::redirect::Policy;
use ::reqwest::{StatusCode, Url};

use crate::call::Marks;

/// Follows redirects, at most ten, but never to another server; for
/// [`ClientBuilder::redirect`](::reqwest::ClientBuilder::redirect). One that is not followed is the response.
///
/// Other policies send a request with its idempotency key to wherever a redirect leads. They also hide that a POST was
/// executed: if it gets a redirect to a page that cannot be reached, reqwest's error is a refused connection. This policy reports
/// each redirect to the retry layers around it; set [`Redirects::Marked`] there, or they assume hidden redirects and send every
/// POST once.
///
/// Where nothing is redirected, use [`Policy::none`] and [`Redirects::None`].
///
/// [`Redirects::Marked`]: crate::http::Redirects::Marked
/// [`Redirects::None`]: crate::http::Redirects::None
///
/// ```
/// # fn main() -> Result<(), reqwest::Error> {
/// use buttress::reqwest::same_origin_redirects;
///
/// let client = reqwest::Client::builder()
///     .retry(reqwest::retry::never())
///     .redirect(same_origin_redirects())
///     .build()?;
/// # let _ = client;
/// # Ok(()) }
/// ```
pub fn same_origin_redirects() -> Policy {
    Policy::custom(|attempt| {
        let from = attempt.previous().last().map(Url::origin);
        if from != Some(attempt.url().origin()) || attempt.previous().len() > 10 {
            return attempt.stop();
        }
        // These two say of the request itself that it belongs elsewhere.
        let is_moved = matches!(
            attempt.status(),
            StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT
        );
        if !is_moved {
            Marks::ACTED.publish();
        }
        attempt.follow()
    })
}
