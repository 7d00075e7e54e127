//! Servers that evict records are reported.

use std::sync::{Arc, Mutex};

use buttress::event::Subscription;
use buttress::event::{Event, subscribe};
use buttress::idempotency::store::{RedisStore, Store as _};
use tracing::Level;

use super::private::Private;
use super::proxy::Proxy;
use super::{STARTED, claim, key, private_store};
use crate::log::Log;

/// The policies that are reported of the server at this address.
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
async fn a_server_that_evicts_is_reported_when_it_is_connected_to() {
    for policy in [
        "allkeys-lru",
        "volatile-lru",
        "volatile-ttl",
        "allkeys-random",
    ] {
        let server = Private::start(&[&format!("maxmemory-policy {policy}")]);
        let (reports, log) = (Reports::of(server.socket()), Log::install());
        let store = private_store(&server).await;
        assert_eq!(store.eviction_policy(), Some(policy.to_owned()));
        assert_eq!(reports.take(), [Some(policy.to_owned())]);
        let lines = log.take();
        let lines: Vec<_> = lines
            .iter()
            .filter(|(_, line)| line.contains(&server.socket()))
            .collect();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert_eq!(lines[0].0, Level::WARN);
        assert!(
            lines[0]
                .1
                .contains("set `maxmemory-policy` to `noeviction`")
        );
    }
}

#[tokio::test]
async fn a_server_that_does_not_evict_is_not_reported() {
    let server = Private::start(&["maxmemory-policy noeviction"]);
    let reports = Reports::of(server.socket());
    let store = private_store(&server).await;
    assert_eq!(store.eviction_policy(), Some("noeviction".to_owned()));
    assert_eq!(reports.take(), []);
}

#[tokio::test]
async fn a_server_that_refuses_config_is_asked_for_its_memory() {
    let server = Private::start(&[
        "maxmemory-policy allkeys-lfu",
        "rename-command CONFIG hidden",
    ]);
    let reports = Reports::of(server.socket());
    let store = private_store(&server).await;
    assert_eq!(store.eviction_policy(), Some("allkeys-lfu".to_owned()));
    assert_eq!(reports.take(), [Some("allkeys-lfu".to_owned())]);
}

#[tokio::test]
async fn a_policy_that_cannot_be_determined_is_not_taken_for_a_safe_one() {
    let server = Private::start(&["rename-command CONFIG hidden", "rename-command INFO unseen"]);
    let (reports, log) = (Reports::of(server.socket()), Log::install());
    let store = private_store(&server).await;
    assert_eq!(store.eviction_policy(), None);
    assert_eq!(reports.take(), [None]);
    let lines = log.take();
    let (level, line) = lines
        .iter()
        .find(|(_, line)| line.contains(&server.socket()))
        .expect("a line");
    assert_eq!(*level, Level::DEBUG);
    assert!(line.contains("does not report"), "{line}");
    // It is a store all the same.
    assert_eq!(store.begin(&key(), &claim()).await.unwrap(), STARTED);
}

#[tokio::test]
async fn the_server_of_a_new_connection_is_checked_and_reported_if_its_policy_is_another() {
    let mut first = Private::start(&["maxmemory-policy noeviction"]);
    let second = Private::start(&["maxmemory-policy allkeys-lru"]);
    let proxy = Proxy::to(&first).await;
    let reports = Reports::of(proxy.url().replace("redis://", ""));
    let store = RedisStore::connect(proxy.url()).await.unwrap();
    proxy.switch_to(&second);
    first.kill();
    assert_eq!(store.begin(&key(), &claim()).await.unwrap(), STARTED);
    assert_eq!(store.eviction_policy(), Some("allkeys-lru".to_owned()));
    assert_eq!(reports.take(), [Some("allkeys-lru".to_owned())]);
}
