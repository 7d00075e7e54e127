//! The requests of a client.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use ::http::HeaderMap;
use ::http::header::{HeaderName, HeaderValue};
use ::reqwest::{Body, Response};
use serde::Serialize;

use super::stack::ClientStack;
use crate::call::CallOptions;
use crate::error::{Error, Rejected};

/// A request of a [`Client`](super::Client), to be sent through its stack.
///
/// The methods are those of [`reqwest::RequestBuilder`](::reqwest::RequestBuilder). For others of its methods, use [`map`](Self::map).
#[must_use = "a request does nothing until `send`"]
pub struct RequestBuilder {
    client: Arc<ClientStack>,
    request: Result<::reqwest::RequestBuilder, Rejected>,
    options: Option<CallOptions>,
}

impl RequestBuilder {
    pub(super) fn new(
        client: Arc<ClientStack>,
        request: Result<::reqwest::RequestBuilder, Rejected>,
    ) -> Self {
        Self {
            client,
            request,
            options: None,
        }
    }

    /// Changes the builder of reqwest, for what has no method here.
    ///
    /// ```no_run
    /// # fn upload(client: buttress::reqwest::Client) -> buttress::reqwest::RequestBuilder {
    /// client
    ///     .post("http://files.internal/upload")
    ///     .map(|request| request.version(reqwest::Version::HTTP_11))
    /// # }
    /// ```
    pub fn map(
        mut self,
        change: impl FnOnce(::reqwest::RequestBuilder) -> ::reqwest::RequestBuilder,
    ) -> Self {
        self.request = self.request.map(change);
        self
    }

    /// A header. An invalid name or value is an error of [`send`](Self::send).
    pub fn header<K, V>(self, name: K, value: V) -> Self
    where
        HeaderName: TryFrom<K>,
        <HeaderName as TryFrom<K>>::Error: Into<::http::Error>,
        HeaderValue: TryFrom<V>,
        <HeaderValue as TryFrom<V>>::Error: Into<::http::Error>,
    {
        self.map(|request| request.header(name, value))
    }

    /// Headers, which replace those of the same names.
    pub fn headers(self, headers: HeaderMap) -> Self {
        self.map(|request| request.headers(headers))
    }

    /// The header `authorization: Bearer …`.
    pub fn bearer_auth(self, token: impl fmt::Display) -> Self {
        self.map(|request| request.bearer_auth(token))
    }

    /// The header `authorization: Basic …`.
    pub fn basic_auth(self, user: impl fmt::Display, password: Option<impl fmt::Display>) -> Self {
        self.map(|request| request.basic_auth(user, password))
    }

    /// Adds parameters to the query of the URL.
    pub fn query<T: Serialize + ?Sized>(self, query: &T) -> Self {
        self.map(|request| request.query(query))
    }

    /// The body.
    pub fn body(self, body: impl Into<Body>) -> Self {
        self.map(|request| request.body(body))
    }

    /// A body in JSON, and its `content-type`.
    pub fn json<T: Serialize + ?Sized>(self, json: &T) -> Self {
        self.map(|request| request.json(json))
    }

    /// A body as a URL-encoded form, and its `content-type`.
    pub fn form<T: Serialize + ?Sized>(self, form: &T) -> Self {
        self.map(|request| request.form(form))
    }

    /// The time limit of the whole call, in place of the client's `total`: see [`CallOptions::timeout`].
    ///
    /// The limit of an attempt still applies. For a response that takes longer, set
    /// [`CallOptions::attempt_timeout`] with [`options`](Self::options).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        let options = self.options.take().unwrap_or_default();
        self.options(options.timeout(timeout))
    }

    /// The idempotency key of this call, in place of a generated one: see [`CallOptions::idempotency_key`].
    pub fn idempotency_key(mut self, key: impl Into<Arc<str>>) -> Self {
        let options = self.options.take().unwrap_or_default();
        self.options(options.idempotency_key(key))
    }

    /// The options of this call. They replace all that were set before.
    pub fn options(mut self, options: CallOptions) -> Self {
        self.options = Some(options);
        self
    }

    /// Sends the request through the stack of the client.
    ///
    /// # Errors
    ///
    /// [`Error::Inner`] if the request cannot be built, or with the error of the last attempt. [`Error::Rejected`] if a layer
    /// rejected the call or cut it short, for a relative URL without a base URL, and for `https` without TLS.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels the call. Nothing is sent before the first poll.
    pub fn send(self) -> impl Future<Output = Result<Response, Error<::reqwest::Error>>> + use<> {
        let request = match self.request {
            Ok(request) => request.build().map_err(Error::Inner),
            Err(rejected) => Err(Error::Rejected(rejected)),
        };
        self.client.call(request, self.options)
    }
}

/// Without headers and body, which may be confidential.
impl fmt::Debug for RequestBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBuilder")
            .field("client", &self.client.name)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
