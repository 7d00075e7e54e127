//! Rows about what is refused when it is built, and about what responses mean.

use std::collections::BTreeMap;
use std::time::Duration;

use buttress::backoff::Backoff;
use buttress::breaker::{Breaker, BreakerConfig};
use buttress::budget::BudgetConfig;
use buttress::http::{ByGrpcStatus, ByStatus, ClientConfig, client, retry_after};
use buttress::retry::RetryConfig;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::words::duration;

/// A configuration that cannot work, and the field that is named.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Refused {
    refused: String,
    of: Of,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Of {
    Breaker(Map<String, Value>),
    Backoff(Backoff),
    Retry(RetryConfig),
    Budget(BudgetConfig),
    Client(Box<ClientConfig>),
}

pub(crate) fn refused(at: &str, case: Refused) {
    let built = match case.of {
        Of::Breaker(set) => {
            let config: BreakerConfig = crate::breaker::config(&set).expect(at);
            Breaker::new("refused", config).map(drop)
        }
        Of::Backoff(backoff) => backoff.validate(),
        Of::Retry(config) => config.validate(),
        Of::Budget(config) => config.validate(),
        Of::Client(config) => client("refused", *config).map(drop),
    };
    let error = built.expect_err(at);
    assert_eq!(error.field, case.refused, "{at}: {error}");
}

/// A response, and what it means.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Classified {
    response: u16,
    /// Each once, or in as many lines as there are values.
    #[serde(default)]
    headers: BTreeMap<String, Lines>,
    kind: Option<String>,
    retry: Option<String>,
    /// The wait in it; empty if none.
    wait: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Lines {
    One(String),
    Many(Vec<String>),
}

/// A response with a gRPC status is one of gRPC.
pub(crate) fn classified(at: &str, case: Classified) {
    let mut response = http::Response::builder().status(case.response);
    for (name, lines) in &case.headers {
        let lines = match lines {
            Lines::One(line) => std::slice::from_ref(line),
            Lines::Many(lines) => lines,
        };
        for line in lines {
            response = response.header(name, line);
        }
    }
    let response = response.body(()).expect(at);
    let outcome = if response.headers().contains_key("grpc-status") {
        ByGrpcStatus::new().response(&response)
    } else {
        ByStatus::new().response(&response)
    };
    if let Some(kind) = case.kind {
        assert_eq!(outcome.kind.as_str(), kind, "{at}");
    }
    if let Some(retry) = case.retry {
        assert_eq!(format!("{:?}", outcome.retry), retry, "{at}");
    }
    if let Some(wait) = case.wait {
        let wanted: Option<Duration> = (!wait.is_empty()).then(|| duration(&wait));
        assert_eq!(retry_after(&response), wanted, "{at}");
    }
}

/// What the standard client shows of itself, from the outside in.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Parts {
    parts: Vec<String>,
}

pub(crate) fn shows(at: &str, case: &Parts) {
    let shown = format!("{:?}", client("row", ClientConfig::default()).expect(at));
    let places: Vec<_> = case
        .parts
        .iter()
        .map(|part| shown.find(&format!(" {part}: ")))
        .collect();
    assert!(places.iter().all(Option::is_some), "{at}: {shown}");
    assert!(places.is_sorted(), "{at}: {shown}");
}
