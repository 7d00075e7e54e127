//! Claims that wait until they are replicated.

use std::time::Duration;

use buttress::idempotency::store::future::StoreFuture;
use buttress::idempotency::store::{Begun, Claim, Ended, RecordKey, Store, StoreError, Token};
use buttress::testing::check_store;
use buttress_redis::RedisStore;
use bytes::Bytes;

use super::failover::Pair;
use super::trouble::command;
use super::{HOUR, STARTED, begin_at_once, claim, key, private_store, unavailable};

/// A store that retries claims: on a busy machine a replica may take longer than a claim waits.
#[derive(Debug)]
pub(super) struct Patient(pub(super) RedisStore);

impl Patient {
    async fn of(pair: &Pair) -> Self {
        Self(private_store(&pair.primary).await.replicas(1).unwrap())
    }
}

impl Store for Patient {
    fn begin<'a>(&'a self, key: &'a RecordKey, claim: &'a Claim) -> StoreFuture<'a, Begun> {
        Box::pin(async move {
            for _ in 0..20 {
                match self.0.begin(key, claim).await {
                    Err(StoreError::Unavailable(_)) => {}
                    begun => return begun,
                }
            }
            self.0.begin(key, claim).await
        })
    }

    fn renew<'a>(
        &'a self,
        key: &'a RecordKey,
        token: Token,
        lease: Duration,
        ttl: Duration,
    ) -> StoreFuture<'a, bool> {
        self.0.renew(key, token, lease, ttl)
    }

    fn complete<'a>(
        &'a self,
        key: &'a RecordKey,
        token: Token,
        answer: Bytes,
        ttl: Duration,
    ) -> StoreFuture<'a, Ended> {
        self.0.complete(key, token, answer, ttl)
    }

    fn abandon<'a>(&'a self, key: &'a RecordKey, token: Token) -> StoreFuture<'a, Ended> {
        self.0.abandon(key, token)
    }
}

#[tokio::test]
async fn a_store_that_waits_for_its_replica_fulfills_the_contract() {
    let pair = Pair::start().await;
    let store = Patient::of(&pair).await;
    check_store(&store).await;
}

#[tokio::test]
async fn a_claim_that_is_started_is_on_the_replica() {
    let pair = Pair::start().await;
    let store = Patient::of(&pair).await;
    let mut claims = Vec::new();
    for _ in 0..50 {
        let (key, claim) = (key(), claim());
        assert_eq!(store.begin(&key, &claim).await.unwrap(), STARTED);
        claims.push((key, claim));
    }
    // Crashes at once.
    pair.primary.freeze();
    pair.promote().await;
    let after = private_store(&pair.replica).await;
    for (key, held) in claims {
        assert_eq!(after.begin(&key, &claim()).await.unwrap(), Begun::Running);
        assert!(after.renew(&key, held.token, HOUR, HOUR).await.unwrap());
    }
}

#[tokio::test]
async fn a_claim_that_too_few_replicas_have_is_given_up() {
    let pair = Pair::start().await;
    let store = private_store(&pair.primary).await;
    let two = store.clone().replicas(2).unwrap();
    let (key, claim) = (key(), claim());
    let error = unavailable(two.begin(&key, &claim)).await;
    let text = "must reach 2 replicas: it reached ";
    assert!(error.contains(text), "{error}");
    // The claim was removed: the next one starts run 1.
    assert!(!store.renew(&key, claim.token, HOUR, HOUR).await.unwrap());
    let one = store.clone().replicas(1).unwrap();
    assert_eq!(Patient(one).begin(&key, &claim).await.unwrap(), STARTED);
    // Other calls do not wait.
    let second = super::claim();
    assert_eq!(two.begin(&key, &second).await.unwrap(), Begun::Running);
    let response = Bytes::from_static(b"response");
    let completed = two
        .complete(&key, claim.token, response.clone(), HOUR)
        .await;
    assert_eq!(completed.unwrap(), Ended::Taken);
    let begun = two.begin(&key, &second).await.unwrap();
    assert_eq!(begun, Begun::Done(response));
    // Without replicas again.
    let none = two.replicas(0).unwrap();
    assert_eq!(none.begin(&super::key(), &second).await.unwrap(), STARTED);
}

#[tokio::test]
async fn claims_succeed_again_when_the_replica_is_back() {
    let pair = Pair::start().await;
    let store = private_store(&pair.primary).await.replicas(1).unwrap();
    command(&mut pair.replica.connection().await, "REPLICAOF NO ONE").await;
    for begun in begin_at_once(&store, 40).await {
        unavailable(async { begun }).await;
    }
    let follow = format!("REPLICAOF 127.0.0.1 {}", pair.ports[0]);
    command(&mut pair.replica.connection().await, &follow).await;
    pair.settle().await;
    let begun = Patient(store).begin(&key(), &claim()).await.unwrap();
    assert_eq!(begun, STARTED);
}

#[tokio::test]
async fn a_connection_of_the_users_own_cannot_wait() {
    let server = super::Private::start(&[]);
    let store = RedisStore::with(server.connection().await);
    let error = store.clone().replicas(1).expect_err("one connection");
    assert_eq!(error.field, "replicas");
    assert_eq!(error.owner.as_deref(), Some("store `redis`"));
    let store = store.replicas(0).unwrap();
    assert_eq!(store.begin(&key(), &claim()).await.unwrap(), STARTED);
}
