//! Reports of servers that evict records.

use std::sync::{Arc, Mutex};

use buttress::event::Subscription;
use buttress::event::{Event, subscribe};
use buttress::idempotency::store::{RedisStore, Store as _};
use tracing::Level;

use super::private::Private;
use super::proxy::Proxy;
use super::{STARTED, claim, key, private_store};
use crate::log::Log;

/// The policies reported for the server at this address.
pub(super) struct Reports {
    policies: Arc<Mutex<Vec<Option<String>>>>,
    _subscription: Subscription,
}

impl Reports {
    pub(super) fn of(address: String) -> Self {
        let policies = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&policies);
        let subscription = subscribe(move |event: &Event<'_>| {
            if let Event::EvictionPolicy {
                source,
                server,
                policy,
            } = event
            {
                assert_eq!((source.layer(), &**source.name()), ("store", "redis"));
                if *server == address {
                    sink.lock().unwrap().push(policy.map(ToOwned::to_owned));
                }
            }
        });
        Self {
            policies,
            _subscription: subscription,
        }
    }

    pub(super) fn take(&self) -> Vec<Option<String>> {
        std::mem::take(&mut *self.policies.lock().unwrap())
    }
}

#[tokio::test]
async fn an_evicting_or_unknown_policy_is_reported_on_connecting() {
    let hidden = "rename-command CONFIG hidden";
    let evicts = Some((Level::WARN, "set `maxmemory-policy` to `noeviction`"));
    for (settings, reported, logged) in [
        (["maxmemory-policy noeviction", "databases 1"], None, None),
        (
            ["maxmemory-policy allkeys-lru", "databases 1"],
            Some(Some("allkeys-lru")),
            evicts,
        ),
        (
            ["maxmemory-policy volatile-ttl", "databases 1"],
            Some(Some("volatile-ttl")),
            evicts,
        ),
        // If a server rejects CONFIG, the store reads INFO.
        (
            ["maxmemory-policy allkeys-lfu", hidden],
            Some(Some("allkeys-lfu")),
            evicts,
        ),
        (
            ["rename-command INFO unseen", hidden],
            Some(None),
            Some((Level::DEBUG, "does not report")),
        ),
    ] {
        let server = Private::start(&settings);
        let (reports, log) = (Reports::of(server.socket()), Log::install());
        let store = private_store(&server).await;
        let reported: Vec<_> = reported
            .into_iter()
            .map(|policy| policy.map(str::to_owned))
            .collect();
        assert_eq!(reports.take(), reported, "{settings:?}");
        let mut lines = log.take();
        lines.retain(|(_, line)| line.contains(&server.socket()));
        let is_logged = match (&lines[..], logged) {
            ([], None) => true,
            ([(level, line)], Some((expected, text))) => *level == expected && line.contains(text),
            _ => false,
        };
        assert!(is_logged, "{settings:?}: {lines:?}");
        // The store works in all cases.
        assert_eq!(store.begin(&key(), &claim()).await.unwrap(), STARTED);
    }
}

#[tokio::test]
async fn a_new_connection_reports_a_different_policy() {
    let mut first = Private::start(&["maxmemory-policy noeviction"]);
    let second = Private::start(&["maxmemory-policy allkeys-lru"]);
    let proxy = Proxy::to(&first).await;
    let reports = Reports::of(proxy.url().replace("redis://", ""));
    let store = RedisStore::connect(proxy.url()).await.unwrap();
    proxy.switch_to(&second);
    first.kill();
    assert_eq!(store.begin(&key(), &claim()).await.unwrap(), STARTED);
    assert_eq!(reports.take(), [Some("allkeys-lru".to_owned())]);
}
