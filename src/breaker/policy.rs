//! The breaker's handle: what a user and a gate can do with it. How calls of a healthy service go round its lock is in
//! `lanes`.

use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::config::BreakerConfig;
use super::lanes::{Lane, Mode, Shared};
use super::permit::{BreakerPermit, NOT_ASKED};
use super::ticket::{Ticket, Verdict};
use crate::clock::Now;
use crate::error::{CallError, ConfigError, Reason, Rejected};
use crate::event::{BreakerState, Event, Source, emit};
use crate::gate::{AtResult, Forget, GateFuture, Keeps, Keyed, KeyedConfig, Policy};
use crate::outcome::{Classify, ErrorIsTransient};
use crate::sync::{lane_count, lane_index};

/// A circuit breaker: a named handle, cheap to clone; all clones are the same circuit. See [the page](crate::breaker).
pub struct Breaker {
    owner: Arc<Owner>,
    /// A lane of this handle's own: see [`Forget::near`].
    near: Option<Arc<Lane>>,
}

impl Clone for Breaker {
    fn clone(&self) -> Self {
        Self {
            owner: Arc::clone(&self.owner),
            near: None,
        }
    }
}

struct Owner {
    shared: Arc<Shared>,
    /// One for each core that has asked.
    lanes: OnceLock<Box<[OnceLock<Arc<Lane>>]>>,
}

impl Breaker {
    /// A closed circuit of this name, which appears in its errors, logs and metrics.
    ///
    /// # Errors
    ///
    /// The first setting that cannot work.
    pub fn new(name: impl Into<Arc<str>>, config: BreakerConfig) -> Result<Self, ConfigError> {
        let shared = Shared::new(Source::new("breaker", name), config)?;
        Ok(Self {
            owner: Arc::new(Owner {
                shared,
                lanes: OnceLock::new(),
            }),
            near: None,
        })
    }

    /// A circuit per key: the same settings for each, the key's text behind the name.
    ///
    /// # Errors
    ///
    /// The first setting that cannot work.
    pub fn keyed<K, B>(
        name: &str,
        config: BreakerConfig,
        keys: KeyedConfig,
        by: B,
    ) -> Result<Keyed<K, B, Self>, ConfigError>
    where
        K: Hash + Eq + Clone + fmt::Display,
    {
        // Tried once, so that no later key can fail.
        let first = Self::new(name, config)?;
        Keyed::new(by, keys, move |key| {
            let name = format!("{}/{key}", first.name());
            Self::new(name, config).unwrap_or_else(|_| first.clone())
        })
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        self.shared().source.name()
    }

    /// Admits a call without tower, or refuses it. Settle the permit with the call's outcome; dropping it says that the
    /// call was abandoned.
    ///
    /// # Errors
    ///
    /// The refusal, with the time until the next probe.
    pub fn try_acquire(&self) -> Result<BreakerPermit, Rejected> {
        self.admit_at(&Now::unread())
    }

    /// Runs a call without tower: refused while the circuit is open; an `Err` counts as a failure, and so does a panic.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # async fn query() -> Result<u32, std::io::Error> { Ok(42) }
    /// use buttress::Error;
    /// use buttress::breaker::{Breaker, BreakerConfig};
    ///
    /// let breaker = Breaker::new("database", BreakerConfig::default())?;
    /// let answer = breaker.run(async || query().await.map_err(Error::Inner)).await?;
    /// # assert_eq!(answer, 42);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// A [`Rejected`] if it was refused, else the call's own error.
    pub async fn run<T, E: CallError>(
        &self,
        call: impl AsyncFnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        self.run_classified(ErrorIsTransient, call).await
    }

    /// Runs a call without tower, whose results mean what `classify` says.
    ///
    /// # Errors
    ///
    /// A [`Rejected`] if it was refused, else the call's own error.
    pub async fn run_classified<T, E: CallError>(
        &self,
        classify: impl Classify<T, E>,
        call: impl AsyncFnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let permit = self.try_acquire()?;
        // The closure runs inside the future, so that its panic counts too.
        let future = async { call().await };
        GateFuture::running(future, Some(permit), classify, AtResult).await
    }

    #[inline]
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.owner.shared
    }
}

impl<Req: ?Sized> Policy<Req> for Breaker {
    type Permit = BreakerPermit;

    #[inline(always)]
    fn admit(&self, _request: &Req, now: &Now) -> Result<BreakerPermit, Rejected> {
        self.admit_at(now)
    }

    #[inline(always)]
    fn pass(&self, _request: &Req) -> Option<BreakerPermit> {
        let lane = self.lane();
        let epoch = lane.admits()?;
        Some(BreakerPermit::new(
            Arc::clone(lane),
            Ticket::call(epoch),
            NOT_ASKED,
        ))
    }

    #[inline(always)]
    fn refuse(&self, now: &Now) -> Option<Rejected> {
        match self.shared().mode() {
            Mode::Closed(_) | Mode::Disabled => None,
            // In line, because each hand-over of a rejection through memory costs as much as making it.
            Mode::Open => match self.left_open(now) {
                Some(left) => Some(self.shared().rejected(Reason::CircuitOpen, Some(left))),
                None => self.would_refuse(now),
            },
            Mode::Ask => self.would_refuse(now),
        }
    }

    #[cold]
    fn refused(&self, rejected: &Rejected) {
        self.shared().report(rejected);
    }
}

impl Breaker {
    #[inline(always)]
    pub(super) fn admit_at(&self, now: &Now) -> Result<BreakerPermit, Rejected> {
        match Policy::<()>::pass(self, &()) {
            Some(permit) => Ok(permit),
            None => self.admit_by_mode(now),
        }
    }

    #[inline(never)]
    fn admit_by_mode(&self, now: &Now) -> Result<BreakerPermit, Rejected> {
        let shared = self.shared();
        match shared.mode() {
            Mode::Closed(epoch) => Ok(self.permit(Ticket::call(epoch), now)),
            Mode::Disabled => Ok(self.permit(Ticket::IGNORED, now)),
            Mode::Open => match self.left_open(now) {
                Some(left) => Err(self.reject(Reason::CircuitOpen, Some(left))),
                None => self.ask(now),
            },
            Mode::Ask => self.ask(now),
        }
    }

    /// How long the circuit will stay open for certain.
    #[inline]
    fn left_open(&self, now: &Now) -> Option<Duration> {
        let (until, moment) = (self.shared().refused_until(), now.moment());
        (moment < until).then(|| until.since(moment))
    }

    fn permit(&self, ticket: Ticket, now: &Now) -> BreakerPermit {
        let started = if self.shared().slow_call() == u64::MAX {
            NOT_ASKED
        } else {
            now.moment()
        };
        BreakerPermit::new(Arc::clone(self.lane()), ticket, started)
    }

    #[cold]
    fn ask(&self, now: &Now) -> Result<BreakerPermit, Rejected> {
        let moment = now.moment();
        let shared = self.shared();
        let (verdict, dry_run) = shared.act(|locked, draw| {
            let (verdict, moves) = locked.machine.admit(moment, draw);
            ((verdict, locked.dry_run), moves)
        });
        match verdict {
            Verdict::Admit(ticket) => Ok(self.permit(ticket, now)),
            Verdict::Refuse {
                reason,
                retry_after,
            } if dry_run => {
                emit(&Event::WouldReject {
                    source: &shared.source,
                    rejected: &shared.rejected(reason, retry_after),
                });
                Ok(self.permit(Ticket::IGNORED, now))
            }
            Verdict::Refuse {
                reason,
                retry_after,
            } => Err(self.reject(reason, retry_after)),
        }
    }

    fn reject(&self, reason: Reason, retry_after: Option<Duration>) -> Rejected {
        let rejected = self.shared().rejected(reason, retry_after);
        self.shared().report(&rejected);
        rejected
    }

    #[inline(never)]
    fn would_refuse(&self, now: &Now) -> Option<Rejected> {
        let shared = self.shared();
        let moment = now.moment();
        let (reason, retry_after) = shared.look(|locked| {
            if locked.dry_run {
                return None;
            }
            locked.machine.refuses(moment)
        })?;
        Some(shared.rejected(reason, retry_after))
    }

    #[inline(always)]
    fn lane(&self) -> &Arc<Lane> {
        if let Some(near) = &self.near {
            return near;
        }
        let owner = &*self.owner;
        match owner.lanes.get() {
            Some(lanes) => match lanes[lane_index(lanes.len())].get() {
                Some(lane) => lane,
                None => owner.new_lane(),
            },
            None => owner.new_lane(),
        }
    }
}

impl Owner {
    #[cold]
    #[inline(never)]
    fn new_lane(&self) -> &Arc<Lane> {
        let lanes = self
            .lanes
            .get_or_init(|| (0..lane_count()).map(|_| OnceLock::new()).collect());
        lanes[lane_index(lanes.len())].get_or_init(|| self.shared.new_lane())
    }
}

impl Forget for Breaker {
    fn keeps(&self, now: &Now) -> Keeps {
        if self.shared().has_calls() {
            return Keeps::Essentials;
        }
        let now = now.moment();
        self.shared()
            .look(|locked| match locked.machine.state(now) {
                // Its time is over and nobody has asked: what it knew is out of date.
                BreakerState::HalfOpen => Keeps::Memory,
                BreakerState::Closed if locked.machine.remembers(now) => Keeps::Memory,
                BreakerState::Closed => Keeps::Nothing,
                _ => Keeps::Essentials,
            })
    }

    fn source(&self) -> &Source {
        &self.shared().source
    }

    fn near(&self) -> Self {
        Self {
            near: Some(self.shared().new_lane()),
            ..self.clone()
        }
    }
}

impl fmt::Debug for Breaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Breaker")
            .field("name", self.name())
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}
