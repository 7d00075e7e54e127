//! A policy per key (host, tenant, route), with bounded memory.

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use hashbrown::HashMap;

use super::entries::Entries;
use super::{Evict, Internal, KeyBy, KeyedConfig, Policy};
use crate::clock::Now;
use crate::error::{ConfigError, Rejected};
use crate::event::{Observe, Source};
use crate::sync::{Apart, Mutex, shard_count, shard_index};

/// A policy per key, as a policy.
///
/// The same key always finds the same policy, on any thread. At most [`max_keys`](KeyedConfig::max_keys) are stored. When the map
/// is full and a new key arrives, 16 entries are sampled at random and one of them is evicted: an idle one first, then one
/// without state, then the least recently used. An open circuit or a policy with calls in flight is never evicted. If none
/// of the 16 can go, the new key shares one overflow policy with others like it, and
/// [`Event::KeyOverflow`](crate::event::Event::KeyOverflow) reports it.
///
/// A new key also checks the next 16 entries in turn and evicts the idle ones among them. The work for a new key does not
/// depend on the number of keys.
///
/// A hit takes a lock that only this core uses, one hash, and no allocation.
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

pub(super) struct Inner<K, B, P> {
    pub(super) by: B,
    /// The handle whose name all keys share; `None` if `make` was given by a user.
    source: Option<Arc<Source>>,
    pub(super) make: Box<dyn Fn(&str) -> P + Send + Sync>,
    /// The template of new policies; `None` if `make` was given by a user.
    first: Option<P>,
    /// Every key. Locked for a key that is not in its shard, before any shard is locked.
    pub(super) all: Mutex<All<K, P>>,
    /// The keys that each core has used: a map and an entry of its own, so that a hit shares nothing.
    pub(super) shards: Box<[Shard<K, P>]>,
}

pub(super) struct All<K, P> {
    pub(super) config: KeyedConfig,
    pub(super) overflow: Option<P>,
    /// Counts the changes of all policies. A policy that was made before a change is not inserted after it.
    pub(super) changes: u64,
    pub(super) entries: Entries<K, P>,
}

pub(super) type ShardMap<K, P> = HashMap<K, Used<P>>;
type Shard<K, P> = Apart<Mutex<ShardMap<K, P>>>;

pub(super) struct Used<P> {
    local: P,
    /// Held by calls that `local` alone cannot serve. A count above one means that such a call is being admitted.
    shared: Option<Arc<P>>,
    /// Set by a hit, cleared when eviction looks at the key: a hit need not read the clock.
    pub(super) touched: bool,
}

impl<P: Evict> Used<P> {
    pub(super) const fn new(local: P) -> Self {
        Self {
            local,
            shared: None,
            touched: false,
        }
    }

    fn share(&mut self) -> Arc<P> {
        let shared = &mut self.shared;
        Arc::clone(shared.get_or_insert_with(|| Arc::new(self.local.clone())))
    }

    pub(super) fn is_busy(&self) -> bool {
        self.shared
            .as_ref()
            .is_some_and(|shared| Arc::strong_count(shared) > 1)
    }
}

impl<K: Hash + Eq + Clone + fmt::Display, B, P: Evict> Keyed<K, B, P> {
    /// A policy per key, made by `make` from the key's text when the key is new.
    ///
    /// # Errors
    ///
    /// The first invalid setting.
    pub fn new(
        by: B,
        config: KeyedConfig,
        make: impl Fn(&str) -> P + Send + Sync + 'static,
    ) -> Result<Self, ConfigError> {
        Self::made(None, by, config, make, None)
    }

    fn made(
        source: Option<Arc<Source>>,
        by: B,
        config: KeyedConfig,
        make: impl Fn(&str) -> P + Send + Sync + 'static,
        first: Option<P>,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self {
            inner: Arc::new(Inner {
                by,
                source,
                make: Box::new(make),
                first,
                all: Mutex::new(All {
                    config,
                    overflow: None,
                    changes: 0,
                    entries: Entries::new(),
                }),
                shards: (0..shard_count())
                    .map(|_| Apart(Mutex::new(HashMap::new())))
                    .collect(),
            }),
        })
    }

    /// A policy per key, made by `like` from its source and from the `first`, which serves no key.
    pub(crate) fn named(
        source: Arc<Source>,
        by: B,
        config: KeyedConfig,
        first: P,
        like: impl Fn(Source, &P) -> Result<P, ConfigError> + Send + Sync + 'static,
    ) -> Result<Self, ConfigError>
    where
        P: Send + Sync + 'static,
    {
        let parent = Arc::clone(&source);
        let model = first.clone();
        let make = move |key: &str| {
            // It has worked for the first, so it works.
            like(Source::of_key(&parent, key), &model).unwrap_or_else(|_| model.clone())
        };
        Self::made(Some(source), by, config, make, Some(first))
    }

    /// The template of new policies.
    #[cfg_attr(
        not(feature = "http"),
        expect(
            dead_code,
            reason = "the stack that shows its settings comes with HTTP"
        )
    )]
    pub(crate) fn first(&self) -> Option<&P> {
        self.inner.first.as_ref()
    }

    /// Changes every policy and the template of new ones. Stops at the first error.
    pub(crate) fn change_each(
        &self,
        change: impl Fn(&P) -> Result<(), ConfigError>,
    ) -> Result<(), ConfigError> {
        // A policy that was made before this change and is not inserted yet is made again.
        self.inner.first.as_ref().map_or(Ok(()), &change)?;
        let policies: Vec<P> = {
            let mut all = self.inner.all.lock();
            all.changes += 1;
            let entries = all.entries.iter().map(|entry| &entry.policy);
            entries.chain(&all.overflow).cloned().collect()
        };
        policies.iter().try_for_each(change)
    }

    /// The limits of this map.
    pub fn config(&self) -> KeyedConfig {
        self.inner.all.lock().config
    }

    /// Changes the limits while running. Keys above a lower `max_keys` are evicted when the next new key arrives.
    ///
    /// # Errors
    ///
    /// The first invalid setting. Nothing was changed then.
    pub fn bound(&self, config: KeyedConfig) -> Result<(), ConfigError> {
        config.validate()?;
        self.inner.all.lock().config = config;
        Ok(())
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.inner.all.lock().entries.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All keys with their policies, for example to show their states or to change one manually.
    pub fn entries(&self) -> Vec<(K, P)> {
        let all = self.inner.all.lock();
        all.entries
            .iter()
            .map(|entry| (entry.key.clone(), entry.policy.clone()))
            .collect()
    }

    /// The policy of this request's key, made if the key is new.
    pub fn get<Req: ?Sized>(&self, request: &Req, now: &Now) -> Arc<P>
    where
        B: KeyBy<Req, Key = K>,
    {
        self.inner.find(request, now, Used::share)
    }
}

impl<K: Hash + Eq + Clone + fmt::Display, B, P: Evict> Inner<K, B, P> {
    /// Runs `enter` on the shard's entry of this request's key, which is inserted if it is missing. `enter` runs under the
    /// shard's lock.
    #[inline]
    fn find<Req: ?Sized, R>(&self, request: &Req, now: &Now, enter: impl Fn(&mut Used<P>) -> R) -> R
    where
        B: KeyBy<Req, Key = K>,
    {
        let lookup = self.by.lookup(request);
        let Apart(shard) = &self.shards[shard_index(self.shards.len())];
        if let Some(used) = shard.lock().get_mut(&lookup) {
            used.touched = true;
            return enter(used);
        }
        self.insert_missing(shard, &self.by.to_key(&lookup), now, enter)
    }
}

impl<K, B, P> Keyed<K, B, P> {
    /// Adds the label `server` to the metrics of this handle, for at most `max` keys; later ones share `server="other"`. The
    /// label of a key stays the same after an eviction. Call it before the first request. Default 0: no label, so that the number
    /// of series does not depend on the number of keys.
    ///
    /// It has no effect on a `Keyed` of [`Keyed::new`], whose policies report under names that the user gave them.
    pub fn label_servers(&self, max: usize) {
        if let Some(source) = self.source() {
            source.label_servers(max);
        }
    }

    /// The source of the handle, if it has a name of its own.
    pub(crate) fn source(&self) -> Option<&Arc<Source>> {
        self.inner.source.as_ref()
    }

    /// Sends the events of all keys to `observer` too. A `Keyed` of [`Keyed::new`] has no name and no events of its own, so
    /// attach the observer to the policies instead.
    pub(crate) fn observe_all(&self, observer: Arc<dyn Observe>) {
        if let Some(source) = self.source() {
            source.observe_with(observer);
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
            .field("config", &self.inner.all.lock().config)
            .finish_non_exhaustive()
    }
}

impl<Req: ?Sized, K, B, P> Policy<Req> for Keyed<K, B, P>
where
    K: Hash + Eq + Clone + fmt::Display,
    B: KeyBy<Req, Key = K>,
    P: Policy<Req> + Evict,
{
    type Permit = P::Permit;

    #[inline]
    fn admit(&self, request: &Req, now: &Now) -> Result<P::Permit, Rejected> {
        let entered = self.inner.find(request, now, |used| {
            let passed = used.local.pass(request, Internal);
            passed.ok_or_else(|| used.share())
        });
        entered.or_else(|policy| policy.admit(request, now))
    }
}
