//! The two callers, seen alike: one call in, its result out, every attempt noted.

use crate::calls::{CallResult, Entry};
use crate::naive::Naive;
use crate::protected::Protected;

#[expect(clippy::large_enum_variant, reason = "there are two of them")]
#[derive(Debug, Clone)]
pub(crate) enum Client {
    Naive(Naive),
    Protected(Protected),
}

/// The state of a client's breaker, if it has one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BreakerView {
    pub(crate) state: &'static str,
    pub(crate) opened: u64,
}

impl Client {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Naive(_) => "naive",
            Self::Protected(_) => "buttress",
        }
    }

    pub(crate) async fn call(&self, entry: &Entry) -> CallResult {
        match self {
            Self::Naive(client) => client.call(entry).await,
            Self::Protected(client) => client.call(entry).await,
        }
    }

    pub(crate) fn breaker(&self) -> Option<BreakerView> {
        match self {
            Self::Naive(_) => None,
            Self::Protected(client) => client.breaker(),
        }
    }
}
