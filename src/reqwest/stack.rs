//! The stack of a client, which its handles and its requests share.

use std::borrow::Cow;
use std::future::poll_fn;
use std::sync::Arc;

use ::reqwest::{Request, Response, Url};
use tower_service::Service;

use super::tls;
use crate::call::{self, CallOptions};
use crate::error::{Error, Reason, Rejected};
use crate::http::ClientLayer;
use crate::http::client::ClientService;

pub(super) struct ClientStack {
    pub(super) name: Arc<str>,
    pub(super) stack: ClientService<::reqwest::Client>,
    pub(super) layer: ClientLayer,
    /// Only builds requests.
    pub(super) reqwest: ::reqwest::Client,
    pub(super) base_url: Option<Url>,
}

impl ClientStack {
    /// The URL of a request. A URL that cannot be read is returned as it is, because reqwest's error describes what is wrong.
    pub(super) fn absolute<'a>(&self, url: &'a str) -> Result<Cow<'a, str>, Rejected> {
        if Url::parse(url).is_ok() {
            return Ok(Cow::Borrowed(url));
        }
        if let Some(base) = &self.base_url {
            // Appended to the path of the base, which a leading slash would replace.
            let joined = base.join(url.trim_start_matches('/'));
            return Ok(joined.map_or(Cow::Borrowed(url), |url| Cow::Owned(url.into())));
        }
        if !is_relative(url) {
            return Ok(Cow::Borrowed(url));
        }
        // A query may be confidential.
        let path = url.split(['?', '#']).next().unwrap_or_default();
        Err(self.rejected(format!(
            "`{}` is a relative URL; write the whole URL, or set `Client::builder(…).base_url(\"https://…\")`",
            shown(path)
        )))
    }

    pub(super) async fn call(
        self: Arc<Self>,
        request: Result<Request, Error<::reqwest::Error>>,
        options: Option<CallOptions>,
    ) -> Result<Response, Error<::reqwest::Error>> {
        let request = request?;
        if request.url().scheme() == "https" && !tls::IS_BUILT_IN {
            return Err(self.rejected(tls::MISSING.to_owned()).into());
        }
        let mut stack = self.stack.clone();
        call::with(options, move || async move {
            poll_fn(|cx| Service::<Request>::poll_ready(&mut stack, cx)).await?;
            stack.call(request).await
        })
        .await
    }

    fn rejected(&self, why: String) -> Rejected {
        Rejected::new(Reason::Policy(why.into()), Arc::clone(&self.name))
    }
}

fn is_relative(text: &str) -> bool {
    Url::parse("http://base").is_ok_and(|base| base.join(text).is_ok())
}

/// The text of a URL, unless it may contain a password.
pub(super) fn shown(url: &str) -> &str {
    if url.contains('@') {
        "(not shown)"
    } else {
        url
    }
}
