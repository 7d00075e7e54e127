//! Redirects, followed with care.

use ::reqwest::redirect::Policy;
use ::reqwest::{StatusCode, Url};

use crate::call::Marks;

/// Follows redirects, at most ten, but never to another server; for
/// [`ClientBuilder::redirect`](::reqwest::ClientBuilder::redirect). One that is not followed is the response.
///
/// Two things go wrong with other policies that follow. A request goes with its idempotency key to wherever a redirect leads.
/// And a POST that was answered by a redirect has been acted on: if then the page that it leads to cannot be reached, all
/// that is seen from outside is a connection that was refused, so that the POST would be taken for one that was not executed
/// and sent again. This policy tells the retry layers around it.
///
/// Where nothing is redirected, [`Policy::none`] does as well.
///
/// ```
/// # fn main() -> Result<(), reqwest::Error> {
/// use buttress::reqwest::same_server;
///
/// let client = reqwest::Client::builder()
///     .retry(reqwest::retry::never())
///     .redirect(same_server())
///     .build()?;
/// # let _ = client;
/// # Ok(()) }
/// ```
pub fn same_server() -> Policy {
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
            Marks::ACTED.tell();
        }
        attempt.follow()
    })
}
