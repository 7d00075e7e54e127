//! A redirect policy that never leaves the server.

use ::reqwest::redirect::Policy;
use ::reqwest::{StatusCode, Url};

use crate::call::Marks;

/// A policy for [`ClientBuilder::redirect`](::reqwest::ClientBuilder::redirect): follows at most ten redirects, and never to another
/// origin. The caller gets a redirect that is not followed as the response.
///
/// Other policies send the request and its idempotency key to any server that a redirect names. They also hide that a POST was
/// executed: after a redirect to an unreachable page, reqwest's error is a refused connection. This policy reports each redirect
/// to the retry layers around it. Set [`Redirects::Marked`] there, or they assume hidden redirects and send every POST once.
///
/// If your servers never redirect, use [`Policy::none`] and [`Redirects::None`].
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
        // A 307 or 308 redirects the request itself, which was not executed here.
        let redirects_request = matches!(
            attempt.status(),
            StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT
        );
        if !redirects_request {
            Marks::ACTED.publish();
        }
        attempt.follow()
    })
}
