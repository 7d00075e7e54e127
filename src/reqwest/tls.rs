//! Which features of reqwest are turned on, by this crate or by any other one in the build.
//!
//! A crate cannot ask for the features of a dependency. It can call a method that exists only with a feature: where the method of the
//! type is missing, the compiler takes the one of a trait with the same name.

use std::time::Duration;

use ::reqwest::ClientBuilder;

/// What a user without TLS has to write.
pub(super) const MISSING: &str = "this build of reqwest has no TLS, which `https` needs; run `cargo add reqwest@0.13`, or turn on one of its TLS features, such as `rustls`";
pub(super) const NEEDED: &str = "a URL that starts with http://, because this build of reqwest has no TLS; run `cargo add reqwest@0.13`, or turn on one of its TLS features, such as `rustls`";

/// Whether `https` works.
pub(super) const IS_BUILT_IN: bool = is_builder(with_sni);

fn with_sni(builder: ClientBuilder) -> impl Kind {
    builder.tls_sni(true)
}

const fn is_builder<T: Kind>(_: fn(ClientBuilder) -> T) -> bool {
    T::IS_BUILDER
}

trait Kind {
    const IS_BUILDER: bool;
}

impl Kind for ClientBuilder {
    const IS_BUILDER: bool = true;
}

/// What the trait's method returns.
struct NoTls;

impl Kind for NoTls {
    const IS_BUILDER: bool = false;
}

#[allow(dead_code, reason = "with TLS, the methods of the builder are called")]
trait Tls: Sized {
    fn tls_sni(self, _: bool) -> NoTls {
        NoTls
    }
}

impl Tls for ClientBuilder {}

/// The keep-alive of HTTP/2, which does nothing without HTTP/2.
#[allow(
    dead_code,
    reason = "with HTTP/2, the methods of the builder are called"
)]
pub(super) trait Http2: Sized {
    fn http2_keep_alive_interval(self, _: Duration) -> Self {
        self
    }

    fn http2_keep_alive_timeout(self, _: Duration) -> Self {
        self
    }

    fn http2_keep_alive_while_idle(self, _: bool) -> Self {
        self
    }
}

impl Http2 for ClientBuilder {}
