//! The headers.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use ::http::{HeaderMap, HeaderName, HeaderValue};

use super::wire;
use crate::error::ConfigError;
use crate::idempotency::header_name;

/// A header with the remaining time of a call.
///
/// Read from text it is the header's name, in `serde` too: `"grpc-timeout"`, `"x-envoy-expected-rq-timeout-ms"`, or a name of
/// your own.
///
/// ```
/// use std::time::Duration;
/// use buttress::http::deadline::DeadlineHeader;
///
/// let grpc = DeadlineHeader::GrpcTimeout;
/// assert_eq!(grpc.format(Duration::from_millis(1500)), "1500000u");
/// assert_eq!(grpc.parse(b"1500m"), Some(Duration::from_millis(1500)));
///
/// let ours: DeadlineHeader = "x-time-left-ms".parse()?;
/// assert_eq!(ours.format(Duration::from_micros(1999)), "1", "never rounded up");
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(try_from = "String", into = "String")
)]
#[non_exhaustive]
pub enum DeadlineHeader {
    /// `grpc-timeout`, of gRPC over HTTP/2: one to eight digits and a unit.
    GrpcTimeout,
    /// `x-envoy-expected-rq-timeout-ms`, which Envoy sends upstream: milliseconds.
    EnvoyExpectedTimeout,
    /// A header of this name: milliseconds.
    Named(HeaderName),
}

static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
static ENVOY_EXPECTED_TIMEOUT: HeaderName =
    HeaderName::from_static("x-envoy-expected-rq-timeout-ms");

impl DeadlineHeader {
    /// The header's name.
    pub fn name(&self) -> &HeaderName {
        match self {
            Self::GrpcTimeout => &GRPC_TIMEOUT,
            Self::EnvoyExpectedTimeout => &ENVOY_EXPECTED_TIMEOUT,
            Self::Named(name) => name,
        }
    }

    /// The time that a value of this header encodes; `None` if it is malformed.
    ///
    /// Parsing is strict: no sign, no fraction, no space; for `grpc-timeout` no ninth digit. Milliseconds that do not fit a
    /// `u64` become `u64::MAX`.
    pub fn parse(&self, value: &[u8]) -> Option<Duration> {
        match self {
            Self::GrpcTimeout => wire::parse_grpc(value),
            Self::EnvoyExpectedTimeout | Self::Named(_) => wire::parse_millis(value),
        }
    }

    /// The value that encodes this time, rounded down: for `grpc-timeout` in the smallest unit that fits in its eight
    /// digits, and at most `99999999H`.
    pub fn format(&self, time: Duration) -> HeaderValue {
        match self {
            Self::GrpcTimeout => grpc(time),
            Self::EnvoyExpectedTimeout | Self::Named(_) => wire::format_millis(time).into(),
        }
    }

    /// The time that these headers name; `None` if it is not there, malformed, or there more than once.
    pub fn read(&self, headers: &HeaderMap) -> Option<Duration> {
        let mut values = headers.get_all(self.name()).iter();
        let value = values.next()?;
        if values.next().is_some() {
            return None;
        }
        self.parse(value.as_bytes())
    }
}

fn grpc(time: Duration) -> HeaderValue {
    HeaderValue::try_from(wire::format_grpc(time))
        .expect("digits and a letter are a valid header value")
}

impl FromStr for DeadlineHeader {
    type Err = ConfigError;

    fn from_str(name: &str) -> Result<Self, ConfigError> {
        let name = header_name("header", name)?;
        // A typo such as `grpc` would become a header that no server reads.
        let allowed = "`grpc-timeout`, `x-envoy-expected-rq-timeout-ms`, or another header name that contains a hyphen";
        ConfigError::unless(name.as_str().contains('-'), "header", &name, allowed)?;
        Ok(if name == GRPC_TIMEOUT {
            Self::GrpcTimeout
        } else if name == ENVOY_EXPECTED_TIMEOUT {
            Self::EnvoyExpectedTimeout
        } else {
            Self::Named(name)
        })
    }
}

impl TryFrom<String> for DeadlineHeader {
    type Error = ConfigError;

    fn try_from(name: String) -> Result<Self, ConfigError> {
        name.parse()
    }
}

impl From<DeadlineHeader> for String {
    fn from(header: DeadlineHeader) -> Self {
        header.name().as_str().into()
    }
}

impl fmt::Display for DeadlineHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name().as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_known_by_its_name() {
        for (name, header) in [
            ("grpc-timeout", DeadlineHeader::GrpcTimeout),
            ("GRPC-Timeout", DeadlineHeader::GrpcTimeout),
            (
                "x-envoy-expected-rq-timeout-ms",
                DeadlineHeader::EnvoyExpectedTimeout,
            ),
            (
                "x-left",
                DeadlineHeader::Named(HeaderName::from_static("x-left")),
            ),
        ] {
            assert_eq!(name.parse(), Ok(header.clone()), "{name:?}");
            assert_eq!(header.to_string(), name.to_lowercase());
        }
        let error = "no name".parse::<DeadlineHeader>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "`header` is \"no name\", but it must be a header name"
        );
        let slip = "EnvoyExpectedTimeout".parse::<DeadlineHeader>();
        assert!(slip.unwrap_err().to_string().ends_with("contains a hyphen"));
    }

    #[test]
    fn a_repeated_or_malformed_header_is_ignored() {
        let header = DeadlineHeader::GrpcTimeout;
        let mut headers = HeaderMap::new();
        assert_eq!(header.read(&headers), None);
        headers.append("grpc-timeout", HeaderValue::from_static("1S"));
        assert_eq!(header.read(&headers), Some(Duration::from_secs(1)));
        headers.append("grpc-timeout", HeaderValue::from_static("1S"));
        assert_eq!(header.read(&headers), None);
        let garbage = HeaderValue::from_bytes(b"\xff1S").unwrap();
        headers.insert("grpc-timeout", garbage);
        assert_eq!(header.read(&headers), None);
    }

    #[cfg(feature = "serde")]
    #[test]
    fn serde_knows_it_as_text() {
        let header: DeadlineHeader = serde_json::from_str("\"grpc-timeout\"").unwrap();
        assert_eq!(header, DeadlineHeader::GrpcTimeout);
        assert_eq!(serde_json::to_string(&header).unwrap(), "\"grpc-timeout\"");
        assert!(serde_json::from_str::<DeadlineHeader>("\"no name\"").is_err());
    }
}
