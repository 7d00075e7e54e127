//! The operations in progress: their number, their age, and the limits on them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::{Moment, Now};
use crate::event::{Event, Refresh, Source, emit, register_refresh};
use crate::idempotency::server::config::IdempotencyConfig;

/// The operations of one layer that are in progress.
pub(in crate::idempotency::server) struct InProgress {
    source: Arc<Source>,
    counts: Mutex<Counts>,
    /// Notified when the last operation ends.
    idle: Notify,
}

#[derive(Default)]
struct Counts {
    /// The start of each operation, by its number.
    running: BTreeMap<u64, Moment>,
    next: u64,
    /// How many requests wait for the result of another one.
    waiting: usize,
    /// The number of operations of each tenant, if that is limited.
    tenants: HashMap<Arc<str>, usize>,
}

impl Counts {
    fn leave_tenant(&mut self, tenant: &str) {
        if let Some(count) = self.tenants.get_mut(tenant) {
            *count -= 1;
            if *count == 0 {
                self.tenants.remove(tenant);
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting == 0
    }
}

impl Refresh for InProgress {
    fn refresh(&self) {
        let (running, waiting, oldest) = (self.running(), self.waiting(), self.oldest());
        emit(&Event::InProgress {
            source: &self.source,
            running,
            waiting,
            oldest: oldest.unwrap_or_default(),
        });
    }
}

impl InProgress {
    /// Starts without operations. The gauges are refreshed until this is dropped.
    pub(in crate::idempotency::server) fn new(source: Arc<Source>) -> Arc<Self> {
        let new = Arc::new(Self {
            source,
            counts: Mutex::default(),
            idle: Notify::new(),
        });
        register_refresh(Arc::downgrade(&new) as Weak<Self>);
        new
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an operation of this tenant, unless there are too many.
    pub(in crate::idempotency::server) fn begin(
        self: &Arc<Self>,
        tenant: &str,
        config: &IdempotencyConfig,
    ) -> Option<Running> {
        let mut counts = self.counts();
        if counts.running.len() >= config.max_running {
            return None;
        }
        let tenant = match config.max_running_per_tenant {
            None => None,
            Some(max) => {
                let tenant: Arc<str> = tenant.into();
                let count = counts.tenants.entry(Arc::clone(&tenant)).or_default();
                if *count >= max {
                    return None;
                }
                *count += 1;
                Some(tenant)
            }
        };
        let number = counts.next;
        counts.next += 1;
        counts.running.insert(number, Now::unread().moment());
        drop(counts);
        Some(Running {
            all: Arc::clone(self),
            number,
            tenant,
            place: Place::Running,
        })
    }

    pub(in crate::idempotency::server) fn running(&self) -> usize {
        self.counts().running.len()
    }

    pub(in crate::idempotency::server) fn waiting(&self) -> usize {
        self.counts().waiting
    }

    /// How long ago the oldest operation began.
    pub(in crate::idempotency::server) fn oldest(&self) -> Option<Duration> {
        let began = *self.counts().running.first_key_value()?.1;
        Some(Now::unread().moment().since(began))
    }

    pub(in crate::idempotency::server) async fn idle(&self) {
        loop {
            let mut ended = std::pin::pin!(self.idle.notified());
            ended.as_mut().enable();
            if self.counts().is_idle() {
                return;
            }
            ended.await;
        }
    }
}

/// An operation in progress, until this is dropped.
pub(in crate::idempotency::server) struct Running {
    all: Arc<InProgress>,
    number: u64,
    /// `None` if tenants are not limited.
    tenant: Option<Arc<str>>,
    place: Place,
}

#[derive(PartialEq, Eq)]
enum Place {
    Running,
    Waiting,
}

impl Running {
    /// Makes room for another operation while this request waits for the result of another one. `false`: too many wait.
    pub(super) fn wait(&mut self, config: &IdempotencyConfig) -> bool {
        let mut counts = self.all.counts();
        if counts.waiting >= config.max_waiting {
            return false;
        }
        counts.waiting += 1;
        counts.running.remove(&self.number);
        if let Some(tenant) = &self.tenant {
            counts.leave_tenant(tenant);
        }
        self.place = Place::Waiting;
        true
    }

    /// Ends the wait: the request runs the operation itself now. `false`: too many are in progress.
    pub(super) fn resume(&mut self, config: &IdempotencyConfig) -> bool {
        if self.place == Place::Running {
            return true;
        }
        let Some(running) = self
            .all
            .begin(self.tenant.as_deref().unwrap_or_default(), config)
        else {
            return false;
        };
        *self = running;
        true
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut counts = self.all.counts();
        match self.place {
            Place::Running => {
                counts.running.remove(&self.number);
                if let Some(tenant) = &self.tenant {
                    counts.leave_tenant(tenant);
                }
            }
            Place::Waiting => counts.waiting -= 1,
        }
        let is_idle = counts.is_idle();
        drop(counts);
        if is_idle {
            self.all.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_progress() -> Arc<InProgress> {
        InProgress::new(Arc::new(Source::new("idempotency", "shop")))
    }

    #[test]
    fn each_tenant_has_its_own_limit_and_is_removed_at_the_end() {
        let config = IdempotencyConfig::default().max_running_per_tenant(Some(1));
        let all = in_progress();
        let mut a = all.begin("a", &config).unwrap();
        assert!(all.begin("a", &config).is_none());
        let b = all.begin("b", &config).unwrap();
        assert!(a.wait(&config));
        assert!(all.begin("a", &config).is_some());
        assert!(a.resume(&config));
        assert!(all.begin("a", &config).is_none());
        drop((a, b));
        assert!(all.counts().tenants.is_empty());
        assert_eq!((all.running(), all.oldest()), (0, None));
    }
}
