//! A reqwest client that cannot be used without its stack.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use ::http::Method;
use ::reqwest::{Request, Response, Url};
use tower_layer::Layer;

use super::redirect::same_origin_redirects;
use super::request_builder::RequestBuilder;
use super::stack::{ClientStack, shown};
use super::tls;
#[allow(unused_imports, reason = "unused if reqwest has HTTP/2")]
use super::tls::Http2 as _;
#[cfg(doc)]
use crate::error::Reason;
use crate::error::{ConfigError, Error};
#[cfg(doc)]
use crate::http::ClientLayer;
use crate::http::{ClientConfig, Redirects, client};

/// The limit of connecting, so that a second address of the server is tried within an attempt.
const CONNECT: Duration = Duration::from_secs(1);
/// How long a connection may be silent before HTTP/2 checks that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A reqwest client behind the [standard stack](fn@crate::http::client).
///
/// Every request passes the stack: there is no way to the reqwest client inside. Build one client for each group of services that
/// share settings, and share it: clones are cheap and have the same breakers and budgets.
///
/// ```no_run
/// # async fn example() -> Result<(), buttress::BoxError> {
/// use buttress::http::ClientConfig;
/// use buttress::reqwest::Client;
///
/// let payments = Client::new("payments", ClientConfig::default())?;
/// let order: String = payments.get("https://api.example.com/orders/7").send().await?.text().await?;
/// # let _ = order;
/// # Ok(()) }
/// ```
///
/// A status is a response: a 503 after the last attempt is `Ok`, and `reqwest::Response::error_for_status` makes an error of it.
///
/// # Defaults
///
/// Those of [`http::client`](fn@crate::http::client), and for the client inside:
///
/// | setting | value | why |
/// |---|---|---|
/// | connect timeout | 1 s | a second address of the server is tried within the attempt |
/// | HTTP/2 keep-alive | 10 s, timeout 5 s, also while idle | finds connections that died silently |
/// | retries of reqwest | none | they would multiply with those of the stack, and neither breaker nor budget would see them |
/// | redirects | [`same_origin_redirects`] | a redirect to another server would forward the idempotency key |
///
/// [`ClientBuilder::reqwest`] changes the first two. With [`Redirects::None`] in the configuration, no redirect is followed.
///
/// # TLS
///
/// For `https`, turn on a TLS feature of reqwest: `cargo add reqwest@0.13`. Without one, a request to an `https` URL is rejected
/// with [`Reason::Policy`] before it is sent.
#[derive(Clone)]
pub struct Client(Arc<ClientStack>);

impl Client {
    /// A client with this name, which appears in errors, logs and metrics.
    ///
    /// # Errors
    ///
    /// As for [`http::client`](fn@crate::http::client), or reqwest cannot be initialized.
    #[track_caller]
    pub fn new(name: &str, config: ClientConfig) -> Result<Self, ConfigError> {
        Self::builder(name).config(config).build()
    }

    /// A client with a base URL or other settings of reqwest.
    ///
    /// ```
    /// # fn main() -> Result<(), buttress::ConfigError> {
    /// use buttress::http::ClientConfig;
    /// use buttress::reqwest::Client;
    ///
    /// let search = Client::builder("search")
    ///     .config(ClientConfig::default())
    ///     .base_url("http://search.internal:9200/products/")
    ///     .reqwest(|reqwest| reqwest.user_agent("shop/1.0").pool_max_idle_per_host(8))
    ///     .build()?;
    /// let request = search.get("_search?q=bolts");
    /// # let _ = request;
    /// # Ok(()) }
    /// ```
    pub fn builder(name: impl Into<String>) -> ClientBuilder {
        ClientBuilder {
            name: name.into(),
            config: ClientConfig::default(),
            base_url: None,
            reqwest: ::reqwest::Client::builder()
                .connect_timeout(CONNECT)
                .http2_keep_alive_interval(KEEP_ALIVE)
                .http2_keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
                .http2_keep_alive_while_idle(true),
        }
    }

    /// A GET request for this URL.
    pub fn get(&self, url: impl AsRef<str>) -> RequestBuilder {
        self.request(Method::GET, url)
    }

    /// A HEAD request for this URL.
    pub fn head(&self, url: impl AsRef<str>) -> RequestBuilder {
        self.request(Method::HEAD, url)
    }

    /// A POST request to this URL.
    pub fn post(&self, url: impl AsRef<str>) -> RequestBuilder {
        self.request(Method::POST, url)
    }

    /// A PUT request to this URL.
    pub fn put(&self, url: impl AsRef<str>) -> RequestBuilder {
        self.request(Method::PUT, url)
    }

    /// A PATCH request to this URL.
    pub fn patch(&self, url: impl AsRef<str>) -> RequestBuilder {
        self.request(Method::PATCH, url)
    }

    /// A DELETE request for this URL.
    pub fn delete(&self, url: impl AsRef<str>) -> RequestBuilder {
        self.request(Method::DELETE, url)
    }

    /// A request. The URL is absolute, or relative to the [base URL](ClientBuilder::base_url). An invalid URL is an error of
    /// [`send`](RequestBuilder::send).
    pub fn request(&self, method: Method, url: impl AsRef<str>) -> RequestBuilder {
        let url = self.0.absolute(url.as_ref());
        let request = url.map(|url| self.0.reqwest.request(method, &*url));
        RequestBuilder::new(Arc::clone(&self.0), request)
    }

    /// Sends a request that was built elsewhere.
    ///
    /// # Errors
    ///
    /// As for [`RequestBuilder::send`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels the call.
    pub fn execute(
        &self,
        request: Request,
    ) -> impl Future<Output = Result<Response, Error<::reqwest::Error>>> + use<> {
        Arc::clone(&self.0).call(Ok(request), None)
    }

    /// Changes the settings of this client and its clones without losing state. See [`ClientLayer::reconfigure`].
    ///
    /// # Errors
    ///
    /// As for [`ClientLayer::reconfigure`].
    pub fn reconfigure(&self, config: ClientConfig) -> Result<(), ConfigError> {
        self.0.layer.reconfigure(with_redirects(config).0)
    }
}

/// Shows the settings of the stack.
impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let base_url = self.0.base_url.as_ref().map(|url| shown(url.as_str()));
        f.debug_struct("Client")
            .field("base_url", &base_url)
            .field("stack", &self.0.layer)
            .finish_non_exhaustive()
    }
}

/// What the client inside follows.
fn with_redirects(mut config: ClientConfig) -> (ClientConfig, ::reqwest::redirect::Policy) {
    if config.redirects == Redirects::None {
        return (config, ::reqwest::redirect::Policy::none());
    }
    config.redirects = Redirects::Marked;
    (config, same_origin_redirects())
}

/// Builds a [`Client`].
#[must_use = "a builder does nothing until `build`"]
pub struct ClientBuilder {
    name: String,
    config: ClientConfig,
    base_url: Option<String>,
    reqwest: ::reqwest::ClientBuilder,
}

impl ClientBuilder {
    /// The settings of the stack.
    pub fn config(mut self, config: ClientConfig) -> Self {
        self.config = config;
        self
    }

    /// The URL that relative URLs of requests are appended to: with `https://api.example.com/v1`, `orders` and `/orders` are
    /// `https://api.example.com/v1/orders`. Query and fragment are not allowed.
    pub fn base_url(mut self, url: impl Into<String>) -> Self {
        self.base_url = Some(url.into());
        self
    }

    /// Changes the settings of the client inside, such as proxies, certificates, default headers and the connection pool.
    ///
    /// Its retries and its redirect policy are replaced afterwards: see [`Client`].
    pub fn reqwest(
        mut self,
        change: impl FnOnce(::reqwest::ClientBuilder) -> ::reqwest::ClientBuilder,
    ) -> Self {
        self.reqwest = change(self.reqwest);
        self
    }

    /// The client.
    ///
    /// # Errors
    ///
    /// As for [`http::client`](fn@crate::http::client), an invalid base URL, or reqwest cannot be initialized.
    #[track_caller]
    pub fn build(self) -> Result<Client, ConfigError> {
        let (config, redirects) = with_redirects(self.config);
        let base_url = self.base_url.map(|url| base_url(&url)).transpose();
        let base_url = base_url.map_err(|error| error.of("client", &self.name))?;
        let layer = client(&self.name, config)?;
        let reqwest = self
            .reqwest
            .retry(::reqwest::retry::never())
            .redirect(redirects)
            .build();
        let reqwest = reqwest.map_err(|error| {
            let causes = crate::error::chain(&error).join(": ");
            ConfigError::new("reqwest", &causes, "settings that reqwest accepts")
                .of("client", &self.name)
        })?;
        Ok(Client(Arc::new(ClientStack {
            name: self.name.into(),
            stack: layer.layer(reqwest.clone()),
            layer,
            reqwest,
            base_url,
        })))
    }
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("name", &self.name)
            .field("config", &self.config)
            .field("base_url", &self.base_url.as_deref().map(shown))
            .finish_non_exhaustive()
    }
}

fn base_url(text: &str) -> Result<Url, ConfigError> {
    let error = |allowed| ConfigError::new("base_url", shown(text), allowed);
    let Ok(mut url) = Url::parse(text) else {
        return Err(error(
            "an absolute URL, such as \"https://api.example.com/v1\"",
        ));
    };
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(error("a URL that starts with http:// or https://"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(error("a URL without a query and a fragment"));
    }
    if url.scheme() == "https" && !tls::IS_BUILT_IN {
        return Err(error(tls::NEEDED));
    }
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(url)
}
