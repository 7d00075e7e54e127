//! The settings of the standard server stack.

use std::time::Duration;

use ::http::uri::PathAndQuery;

use crate::error::ConfigError;
use crate::http::deadline::ExtractDeadlineConfig;

/// The settings of the standard [`server`](fn@crate::http::server) stack.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
#[non_exhaustive]
pub struct ServerConfig {
    /// The paths that skip every part: health checks. The whole path must match, as this layer sees it (inside a nested router,
    /// without the nested prefix). Default `/livez`, `/readyz`, `/healthz`; each begins with `/` and has no query.
    pub bypass: Vec<String>,
    /// Whether each call is reported as [`Event::Finished`](crate::event::Event::Finished). Default: yes.
    pub observe: bool,
    /// How the caller's deadline is read from its headers; `None` ignores them. Default: no caller is trusted.
    #[cfg_attr(feature = "serde", serde(with = "crate::text::off"))]
    pub deadline: Option<ExtractDeadlineConfig>,
    /// The longest time until the head of a response. Default 30 s; more than 0. `Duration::MAX` is none.
    #[cfg_attr(feature = "serde", serde(with = "crate::text::limit"))]
    pub timeout: Duration,
    /// The longest time that the handler's body may send nothing while the caller waits for it. Default 30 s; more than 0.
    /// `Duration::MAX` is none.
    #[cfg_attr(feature = "serde", serde(with = "crate::text::limit"))]
    pub body_idle: Duration,
    /// Whether responses report that a call was not executed:
    /// [`not_executed_header`](crate::http::HandleRejectionsLayer::not_executed_header). Default: no.
    pub not_executed_header: bool,
    /// Whether responses ask callers not to retry calls that the handler's own retries have given up on:
    /// [`should_retry_header`](crate::http::HandleRejectionsLayer::should_retry_header). Default: no.
    pub should_retry_header: bool,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            bypass: ["/livez", "/readyz", "/healthz"].map(Into::into).into(),
            observe: true,
            deadline: Some(ExtractDeadlineConfig::default()),
            timeout: Duration::from_secs(30),
            body_idle: Duration::from_secs(30),
            not_executed_header: false,
            should_retry_header: false,
        }
    }
}

impl ServerConfig {
    /// The paths that skip every part.
    #[must_use]
    pub fn bypass<P: Into<String>>(mut self, paths: impl IntoIterator<Item = P>) -> Self {
        self.bypass = paths.into_iter().map(Into::into).collect();
        self
    }

    setters! {
        mut observe: bool,
        into deadline: Option<ExtractDeadlineConfig>,
        mut timeout: Duration,
        mut body_idle: Duration,
        mut not_executed_header: bool,
        mut should_retry_header: bool,
    }

    /// Checks every setting.
    ///
    /// # Errors
    ///
    /// The first setting that cannot work.
    pub fn validate(&self) -> Result<(), ConfigError> {
        for path in &self.bypass {
            // An entry that is not a path would match no request, and the health check would not bypass the stack.
            let is_path = path
                .parse::<PathAndQuery>()
                .is_ok_and(|parsed| path.starts_with('/') && parsed.path() == path);
            ConfigError::unless(
                is_path,
                "bypass",
                path,
                "a path that begins with `/` and has no query",
            )?;
        }
        for (field, limit) in [("timeout", &self.timeout), ("body_idle", &self.body_idle)] {
            ConfigError::unless(!limit.is_zero(), field, limit, "more than 0")?;
        }
        match &self.deadline {
            Some(deadline) => deadline
                .validate()
                .map_err(|error| error.within("deadline")),
            None => Ok(()),
        }
    }
}
