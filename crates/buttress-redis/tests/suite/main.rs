//! Records in Redis.

mod cluster;
mod eviction_policy;
mod failover;
mod fake;
mod lookup;
mod nodes;
mod private;
mod proxy;
mod raw;
mod replicas;
mod sentinel;
mod server;
mod trouble;

use std::time::Duration;

use buttress::idempotency::store::{
    Begun, Claim, Ended, Fingerprint, RecordKey, Store, StoreError, Token,
};
use buttress::testing::{check_lookup, check_store};
use buttress_redis::RedisStore;
use bytes::Bytes;
use redis::AsyncCommands as _;

use self::private::Private;

const HOUR: Duration = Duration::from_secs(3_600);

fn key() -> RecordKey {
    let mut key = [0; 32];
    key[..16].copy_from_slice(&Token::new().0);
    RecordKey(key)
}

fn claim() -> Claim {
    Claim::new(Fingerprint([7; 32]), HOUR, HOUR)
}

const STARTED: Begun = Begun::Started { run: 1 };

async fn private_store(server: &Private) -> RedisStore {
    RedisStore::connect(&server.url())
        .await
        .expect("a store at the private server")
}

/// A private server and its store.
async fn started(settings: &[&str]) -> (Private, RedisStore) {
    let server = Private::start(settings);
    let store = private_store(&server).await;
    (server, store)
}

/// Claims this many new keys concurrently.
async fn begin_at_once(store: &RedisStore, count: usize) -> Vec<Result<Begun, StoreError>> {
    let claims = (0..count).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { store.begin(&key(), &claim()).await })
    });
    let mut results = Vec::new();
    for claim in claims.collect::<Vec<_>>() {
        results.push(claim.await.expect("no panic"));
    }
    results
}

/// The message of an `Unavailable` error.
async fn unavailable<T: std::fmt::Debug>(
    call: impl Future<Output = Result<T, StoreError>>,
) -> String {
    match call.await {
        Err(error @ StoreError::Unavailable(_)) => error.to_string(),
        other => panic!("not unavailable, but {other:?}"),
    }
}

/// A store on the shared server, with a prefix of its own.
struct Shared {
    store: RedisStore,
    prefix: String,
}

impl Shared {
    async fn connect() -> Self {
        let number = u128::from_le_bytes(Token::new().0);
        let prefix = format!("buttress-test-{number:032x}:");
        let store = server::reached(RedisStore::connect(&server::url()).await);
        let store = store.prefix(&prefix).expect("a prefix");
        Self { store, prefix }
    }

    /// Removes its records, some of which would stay for fifty years.
    async fn remove(self) {
        let client = redis::Client::open(server::url()).expect("an address");
        let connection = client.get_multiplexed_async_connection().await;
        let mut connection = server::reached(connection);
        let mut cursor = 0_u64;
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor)
                .arg("MATCH")
                .arg(format!("{}*", self.prefix));
            let found: (u64, Vec<String>) = scan.query_async(&mut connection).await.unwrap();
            for name in found.1 {
                let _: () = connection.del(name).await.unwrap();
            }
            cursor = found.0;
            if cursor == 0 {
                return;
            }
        }
    }
}

#[tokio::test]
async fn it_fulfills_the_contract() {
    let shared = Shared::connect().await;
    check_store(&shared.store).await;
    check_lookup(&shared.store).await;
    shared.remove().await;
}

#[tokio::test]
async fn stores_with_the_same_prefix_share_their_records() {
    let server = Private::start(&[]);
    let (one, other) = (private_store(&server).await, private_store(&server).await);
    let (key, claim) = (key(), claim());
    assert_eq!(one.begin(&key, &claim).await.unwrap(), STARTED);
    let second = Claim::new(claim.fingerprint, HOUR, HOUR);
    assert_eq!(other.begin(&key, &second).await.unwrap(), Begun::Running);
    let response = Bytes::from_static(b"done");
    let completed = one
        .complete(&key, claim.token, response.clone(), HOUR)
        .await;
    assert_eq!(completed.unwrap(), Ended::Taken);
    let begun = other.begin(&key, &second).await.unwrap();
    assert_eq!(begun, Begun::Done(response));
    let elsewhere = other.prefix("elsewhere:").unwrap();
    assert_eq!(elsewhere.begin(&key, &second).await.unwrap(), STARTED);
}

#[tokio::test]
async fn a_prefix_is_checked_and_shown_a_password_is_not() {
    let (_server, store) = started(&[]).await;
    for wrong in ["", "with space", "{tag}:", "ümlaut", &*"x".repeat(101)] {
        let error = store.clone().prefix(wrong).expect_err("a wrong prefix");
        assert_eq!(error.field, "prefix");
        assert_eq!(error.owner.as_deref(), Some("store `redis`"));
    }
    let store = store
        .prefix("x".repeat(100))
        .unwrap()
        .prefix("mine:")
        .unwrap();
    assert_eq!(
        format!("{store:?}"),
        r#"RedisStore { prefix: "mine:", .. }"#
    );
}
