//! reqwest's responses are over when their bodies are, too.

use ::http::response::Builder;
use ::reqwest::{Body, Response, ResponseBuilderExt};

use crate::error::CallError;
use crate::gate::{Finish, Permit};
use crate::http::{AtBodyEnd, ClassifyEnd};
use crate::outcome::Classify;

/// The response stays reqwest's own; only its body is wrapped, which costs one allocation.
impl<E, P, C> Finish<Response, E, P, C> for AtBodyEnd
where
    E: CallError,
    P: Permit + Send + Sync + 'static,
    C: Classify<Response, E> + ClassifyEnd + Clone + Send + Sync + 'static,
{
    type Response = Response;

    const APPLIES_STREAMS: bool = true;

    fn finish(&self, result: Result<Response, E>, permit: P, classify: &C) -> Result<Response, E> {
        let call = Self::begin(&result, permit, classify);
        let response = result?;
        let url = response.url().clone();
        let (mut head, body) = ::http::Response::from(response).into_parts();
        // reqwest keeps the URL in an extension that only its own builder sets.
        if let Ok(with_url) = Builder::new().url(url).body(()) {
            head.extensions.extend(with_url.into_parts().0.extensions);
        }
        let body = Body::wrap(self.wrap(body, call));
        Ok(Response::from(::http::Response::from_parts(head, body)))
    }
}
