//! The result of every call: written during the run, read for the live view and for the report.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// One call of one side, times counted from the start of the run.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Call {
    /// When it was to start; everything is measured from here, so that a late start is not forgiven.
    pub(crate) arrived: Duration,
    pub(crate) started: Option<Duration>,
    pub(crate) attempts: u32,
    pub(crate) ended: Option<(Duration, CallResult)>,
}

/// The outcome for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallResult {
    Answered,
    Failed,
    /// Failed with an error of the client, not of the dependency.
    Refused,
}

/// A snapshot of one side.
#[derive(Debug, Clone, Default)]
pub(crate) struct Records {
    pub(crate) calls: Vec<Call>,
    /// When each attempt left the client.
    pub(crate) attempts: Vec<Duration>,
}

/// The calls of one side while they run.
#[derive(Debug)]
pub(crate) struct CallLog {
    start: Instant,
    records: Mutex<Records>,
}

/// A call's place in the log.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    log: Arc<CallLog>,
    call: usize,
}

impl CallLog {
    pub(crate) fn new(start: Instant) -> Arc<Self> {
        Arc::new(Self {
            start,
            records: Mutex::default(),
        })
    }

    pub(crate) fn arrived(self: &Arc<Self>, arrived: Duration) -> Entry {
        let mut records = self.lock();
        records.calls.push(Call {
            arrived,
            ..Call::default()
        });
        Entry {
            log: Arc::clone(self),
            call: records.calls.len() - 1,
        }
    }

    pub(crate) fn snapshot(&self) -> Records {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    pub(crate) fn started(&self) {
        let now = self.log.start.elapsed();
        self.log.lock().calls[self.call].started = Some(now);
    }

    pub(crate) fn attempt(&self) {
        let now = self.log.start.elapsed();
        let mut records = self.log.lock();
        records.calls[self.call].attempts += 1;
        records.attempts.push(now);
    }

    pub(crate) fn ended(&self, result: CallResult) {
        let now = self.log.start.elapsed();
        self.log.lock().calls[self.call].ended = Some((now, result));
    }
}
