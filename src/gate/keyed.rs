//! A policy per key (host, tenant, route), with bounded memory.

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::{Equivalent, HashMap};

use super::{Forget, Keeps, KeyBy, KeyedConfig, Policy};
use crate::clock::{Moment, Now};
use crate::error::{ConfigError, Rejected};
use crate::event::{Event, emit};
use crate::sync::{Apart, Mutex, MutexGuard, lane_count, lane_index};

/// A policy per key, as a policy.
///
/// The same key always finds the same policy, on any thread. At most [`max_keys`](KeyedConfig::max_keys) are kept: when a
/// new key comes to a full map, the longest unused ones that keep nothing go first, an open circuit or a policy with
/// calls in flight never; if none can go, the new key shares one overflow policy with others like it, and
/// [`Event::KeyOverflow`] says so. Then it is 100 ms until a key that could go is looked for again.
///
/// A hit costs a lock that only this core takes, one hash, and no allocation.
///
/// Keys are found in `call`, which has the request, so a `Keyed` policy never refuses before the inner service is polled
/// ready.
///
/// ```
/// # use tower::{ServiceBuilder, ServiceExt, service_fn};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use buttress::breaker::{Breaker, BreakerConfig, BreakerLayer};
/// use buttress::gate::{KeyedConfig, by_str};
/// use buttress::{Error, ErrorIsTransient};
/// # struct Query { shard: String }
///
/// let per_shard = Breaker::keyed(
///     "search",
///     BreakerConfig::default(),
///     KeyedConfig::default().max_keys(200),
///     by_str(|query: &Query| query.shard.as_str()),
/// )?;
/// let search = ServiceBuilder::new()
///     .layer(BreakerLayer::new(per_shard.clone(), ErrorIsTransient))
///     .map_err(Error::Inner)
///     .service(service_fn(async |query: Query| Ok::<_, std::io::Error>(query.shard.len())));
///
/// search.oneshot(Query { shard: "eu-1".to_owned() }).await?;
/// assert_eq!(per_shard.entries()[0].1.name().as_ref(), "search/eu-1");
/// # Ok(()) }
/// ```
pub struct Keyed<K, B, P> {
    inner: Arc<Inner<K, B, P>>,
}

struct Inner<K, B, P> {
    by: B,
    config: KeyedConfig,
    make: Box<dyn Fn(&str) -> P + Send + Sync>,
    /// Every key. Locked for a key that its lane has not seen, before any lane.
    all: Mutex<All<K, P>>,
    /// What each core has used: a map and an entry of its own, so that a hit shares nothing.
    lanes: Box<[Lane<K, P>]>,
}

struct All<K, P> {
    entries: HashMap<K, Known<P>>,
    overflow: Option<P>,
    swept: Moment,
    /// The last sweep of a full map found no key that could go: until then none looks again.
    full_until: Moment,
}

/// A sweep holds all locks and looks at every key: a flood of new keys must not sweep a full map for each of them.
const PAUSE: Duration = Duration::from_millis(100);

struct Known<P> {
    policy: P,
    last_used: Moment,
}

type LaneMap<K, P> = HashMap<K, Used<P>>;
type Lane<K, P> = Apart<Mutex<LaneMap<K, P>>>;

struct Used<P> {
    near: P,
    /// What calls hold that `near` alone cannot serve; a count above one says that such a call is just being admitted.
    lent: Option<Arc<P>>,
    /// Set by a hit, cleared by a sweep: what is used often need not read the clock.
    touched: bool,
}

impl<P: Forget> Used<P> {
    const fn new(near: P) -> Self {
        Self {
            near,
            lent: None,
            touched: false,
        }
    }

    fn lend(&mut self) -> Arc<P> {
        let lent = &mut self.lent;
        Arc::clone(lent.get_or_insert_with(|| Arc::new(self.near.clone())))
    }

    fn is_busy(&self) -> bool {
        self.lent
            .as_ref()
            .is_some_and(|lent| Arc::strong_count(lent) > 1)
    }
}

impl<K: Hash + Eq + Clone + fmt::Display, B, P: Forget> Keyed<K, B, P> {
    /// A policy per key, made by `make` from the key's text when the key is new.
    ///
    /// # Errors
    ///
    /// A setting that cannot work.
    pub fn new(
        by: B,
        config: KeyedConfig,
        make: impl Fn(&str) -> P + Send + Sync + 'static,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self {
            inner: Arc::new(Inner {
                by,
                config,
                make: Box::new(make),
                all: Mutex::new(All {
                    entries: HashMap::new(),
                    overflow: None,
                    swept: Moment::START,
                    full_until: Moment::START,
                }),
                lanes: (0..lane_count())
                    .map(|_| Apart(Mutex::new(HashMap::new())))
                    .collect(),
            }),
        })
    }

    /// How many keys are kept now.
    pub fn len(&self) -> usize {
        self.inner.all.lock().entries.len()
    }

    /// Whether no key is kept now.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The keys kept now, with their policies: for a page of states, or to act on one by hand.
    pub fn entries(&self) -> Vec<(K, P)> {
        let all = self.inner.all.lock();
        all.entries
            .iter()
            .map(|(key, known)| (key.clone(), known.policy.clone()))
            .collect()
    }

    /// The policy of this request's key, made if the key is new.
    pub fn get<Req: ?Sized>(&self, request: &Req, now: &Now) -> Arc<P>
    where
        B: KeyBy<Req, Key = K>,
    {
        self.inner.find(request, now, Used::lend)
    }
}

impl<K: Hash + Eq + Clone + fmt::Display, B, P: Forget> Inner<K, B, P> {
    /// Enters the lane's own entry of this request's key, made if need be. `enter` runs under the lane's lock.
    #[inline]
    fn find<Req: ?Sized, R>(&self, request: &Req, now: &Now, enter: impl Fn(&mut Used<P>) -> R) -> R
    where
        B: KeyBy<Req, Key = K>,
    {
        let look = self.by.look(request);
        let Apart(lane) = &self.lanes[lane_index(self.lanes.len())];
        if let Some(used) = lane.lock().get_mut(&look) {
            used.touched = true;
            return enter(used);
        }
        self.miss(lane, &look, || self.by.own(&look), now, enter)
    }

    #[cold]
    fn miss<R>(
        &self,
        lane: &Mutex<LaneMap<K, P>>,
        look: &(impl Hash + Equivalent<K>),
        own: impl FnOnce() -> K,
        now: &Now,
        enter: impl Fn(&mut Used<P>) -> R,
    ) -> R {
        let moment = now.moment();
        let mut evicted = Vec::new();
        let mut overflowed = None;
        // The entry may have been made meanwhile by another thread of the same lane. It is not touched: a miss has read the
        // clock, so the key's last use is known exactly.
        let remember = |key: K, policy: &P| {
            let mut lane = lane.lock();
            enter(lane.entry(key).or_insert_with(|| Used::new(policy.near())))
        };
        let entered = {
            let mut all = self.all.lock();
            if let Some(known) = all.entries.get_mut(look) {
                known.last_used = moment;
                remember(own(), &known.policy)
            } else {
                let full = all.entries.len() >= self.config.max_keys;
                let looked = moment.since(all.swept) < self.config.idle / 8;
                if (full && moment >= all.full_until) || !looked {
                    self.sweep(&mut all, now, &mut evicted);
                    if all.entries.len() >= self.config.max_keys {
                        all.full_until = moment.after(PAUSE);
                    }
                }
                if all.entries.len() < self.config.max_keys {
                    let key = own();
                    let policy = (self.make)(&key.to_string());
                    let entered = remember(key.clone(), &policy);
                    all.entries.insert(
                        key,
                        Known {
                            policy,
                            last_used: moment,
                        },
                    );
                    entered
                } else {
                    let overflow = all.overflow.get_or_insert_with(|| (self.make)("overflow"));
                    overflowed = Some(overflow.clone());
                    enter(&mut Used::new(overflow.clone()))
                }
            }
        };
        for gone in &evicted {
            emit(&Event::KeyEvicted {
                source: gone.source(),
            });
        }
        if let Some(overflow) = overflowed {
            emit(&Event::KeyOverflow {
                source: overflow.source(),
                max_keys: self.config.max_keys,
            });
        }
        entered
    }

    /// Forgets the idle keys; in a full map also a sixteenth of all keys, the longest unused ones first, so that a flood
    /// of new keys does not sweep for each of them.
    fn sweep(&self, all: &mut All<K, P>, now: &Now, evicted: &mut Vec<P>) {
        let moment = now.moment();
        all.swept = moment;
        let mut lanes: Vec<MutexGuard<'_, LaneMap<K, P>>> =
            self.lanes.iter().map(|lane| lane.0.lock()).collect();
        for lane in &mut lanes {
            for (key, used) in lane.iter_mut() {
                if std::mem::take(&mut used.touched) || used.is_busy() {
                    if let Some(known) = all.entries.get_mut(key) {
                        known.last_used = moment;
                    }
                }
            }
        }
        let mut candidates: Vec<(bool, Keeps, Moment, K)> = all
            .entries
            .iter()
            .filter_map(|(key, known)| {
                let busy = lanes
                    .iter()
                    .any(|lane| lane.get(key).is_some_and(Used::is_busy));
                let keeps = known.policy.keeps(now);
                let idle = moment.since(known.last_used) >= self.config.idle;
                (!busy && keeps < Keeps::Essentials)
                    .then(|| (!idle, keeps, known.last_used, key.clone()))
            })
            .collect();
        candidates.sort_by_key(|&(in_use, keeps, last_used, _)| (in_use, keeps, last_used));
        let room = if all.entries.len() >= self.config.max_keys {
            (self.config.max_keys / 16).max(1)
        } else {
            0
        };
        for (number, (in_use, _, _, key)) in candidates.into_iter().enumerate() {
            if in_use && number >= room {
                break;
            }
            for lane in &mut lanes {
                lane.remove(&key);
            }
            if let Some(known) = all.entries.remove(&key) {
                evicted.push(known.policy);
            }
        }
    }
}

impl<K, B, P> Clone for Keyed<K, B, P> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<K, B, P> fmt::Debug for Keyed<K, B, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyed")
            .field("config", &self.inner.config)
            .finish_non_exhaustive()
    }
}

impl<Req: ?Sized, K, B, P> Policy<Req> for Keyed<K, B, P>
where
    K: Hash + Eq + Clone + fmt::Display,
    B: KeyBy<Req, Key = K>,
    P: Policy<Req> + Forget,
{
    type Permit = P::Permit;

    #[inline]
    fn admit(&self, request: &Req, now: &Now) -> Result<P::Permit, Rejected> {
        let entered = self.inner.find(request, now, |used| {
            let passed = used.near.pass(request);
            passed.ok_or_else(|| used.lend())
        });
        entered.or_else(|policy| policy.admit(request, now))
    }
}
