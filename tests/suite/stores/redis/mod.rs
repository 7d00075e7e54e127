//! Records in Redis.

mod private;
mod raw;
mod trouble;

use std::time::Duration;

use buttress::idempotency::{
    Begun, Claim, Ended, Fingerprint, RecordKey, RedisStore, Store, Token,
};
use bytes::Bytes;
use redis::AsyncCommands as _;

use self::private::Private;
use crate::common::SECOND;
use crate::servers::REDIS;

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

/// A store at the shared server, whose records nobody else sees.
async fn store() -> RedisStore {
    let prefix = format!(
        "buttress-test-{:032x}:",
        u128::from_le_bytes(Token::new().0)
    );
    REDIS
        .reached(RedisStore::connect(&REDIS.url()).await)
        .prefix(prefix)
        .expect("a prefix")
}

#[tokio::test]
async fn a_record_is_begun_completed_and_answered() {
    let (store, key, claim) = (store().await, key(), claim());
    let again = Claim::new(claim.fingerprint, HOUR, HOUR);
    let other = Claim::new(Fingerprint([8; 32]), HOUR, HOUR);
    assert_eq!(store.begin(&key, &claim).await.unwrap(), STARTED);
    assert_eq!(store.begin(&key, &claim).await.unwrap(), STARTED);
    assert_eq!(store.begin(&key, &again).await.unwrap(), Begun::Running);
    assert_eq!(store.begin(&key, &other).await.unwrap(), Begun::Mismatch);
    assert!(store.renew(&key, claim.token, HOUR, HOUR).await.unwrap());
    assert!(!store.renew(&key, again.token, HOUR, HOUR).await.unwrap());
    // Every byte there is.
    let answer: Bytes = (0..=255).cycle().take(100_000).collect();
    let complete = |token| store.complete(&key, token, answer.clone(), SECOND);
    assert_eq!(complete(again.token).await.unwrap(), Ended::Lost);
    assert_eq!(complete(claim.token).await.unwrap(), Ended::Taken);
    let other_answer = Bytes::from_static(b"another");
    let completed = store.complete(&key, claim.token, other_answer, HOUR).await;
    assert_eq!(completed.unwrap(), Ended::Already(answer.clone()));
    let begun = store.begin(&key, &again).await;
    assert_eq!(begun.unwrap(), Begun::Done(answer.clone()));
    assert_eq!(store.begin(&key, &other).await.unwrap(), Begun::Mismatch);
    assert!(!store.renew(&key, claim.token, HOUR, HOUR).await.unwrap());
    let abandoned = store.abandon(&key, claim.token).await;
    assert_eq!(abandoned.unwrap(), Ended::Already(answer));
}

#[tokio::test]
async fn a_record_whose_lease_is_over_passes_on_and_its_holder_can_do_nothing() {
    let (store, key) = (store().await, key());
    let first = Claim::new(Fingerprint([7; 32]), Duration::ZERO, SECOND);
    let second = Claim::new(Fingerprint([7; 32]), SECOND, SECOND);
    assert_eq!(store.begin(&key, &first).await.unwrap(), STARTED);
    let begun = store.begin(&key, &second).await.unwrap();
    assert_eq!(begun, Begun::Started { run: 2 });
    assert!(!store.renew(&key, first.token, HOUR, HOUR).await.unwrap());
    let completed = store.complete(&key, first.token, Bytes::new(), HOUR).await;
    assert_eq!(completed.unwrap(), Ended::Lost);
    let abandoned = store.abandon(&key, first.token).await.unwrap();
    assert_eq!(abandoned, Ended::Lost);
    let abandoned = store.abandon(&key, second.token).await.unwrap();
    assert_eq!(abandoned, Ended::Taken);
    let abandoned = store.abandon(&key, second.token).await.unwrap();
    assert_eq!(abandoned, Ended::Lost);
    assert_eq!(store.begin(&key, &first).await.unwrap(), STARTED);
    // Its lease is over, but nobody has taken it.
    assert!(store.renew(&key, first.token, HOUR, SECOND).await.unwrap());
    assert_eq!(store.begin(&key, &second).await.unwrap(), Begun::Running);
    // An empty answer is one too.
    let completed = store.complete(&key, first.token, Bytes::new(), SECOND);
    assert_eq!(completed.await.unwrap(), Ended::Taken);
    let begun = store.begin(&key, &second).await.unwrap();
    assert_eq!(begun, Begun::Done(Bytes::new()));
}

#[tokio::test]
async fn no_time_is_over_at_once_and_the_longest_is_held() {
    let (store, key) = (store().await, key());
    let nothing = Claim::new(Fingerprint([7; 32]), Duration::ZERO, Duration::ZERO);
    for _ in 0..2 {
        assert_eq!(store.begin(&key, &nothing).await.unwrap(), STARTED);
        let held = store.renew(&key, nothing.token, HOUR, HOUR).await;
        assert!(!held.unwrap());
    }
    let longest = Claim::new(Fingerprint([7; 32]), Duration::MAX, Duration::MAX);
    assert_eq!(store.begin(&key, &longest).await.unwrap(), STARTED);
    assert_eq!(store.begin(&key, &nothing).await.unwrap(), Begun::Running);
    let held = store.renew(&key, longest.token, Duration::MAX, Duration::MAX);
    assert!(held.await.unwrap());
    let held = store.renew(&key, longest.token, Duration::ZERO, Duration::ZERO);
    assert!(held.await.unwrap());
    assert_eq!(store.begin(&key, &longest).await.unwrap(), STARTED);
    let complete = |ttl| store.complete(&key, longest.token, Bytes::new(), ttl);
    assert_eq!(complete(Duration::ZERO).await.unwrap(), Ended::Taken);
    assert_eq!(complete(Duration::MAX).await.unwrap(), Ended::Lost);
    assert_eq!(store.begin(&key, &longest).await.unwrap(), STARTED);
    assert_eq!(complete(Duration::MAX).await.unwrap(), Ended::Taken);
    let begun = store.begin(&key, &nothing).await.unwrap();
    assert_eq!(begun, Begun::Done(Bytes::new()));
    // Tidy up: it would stay for a century.
    let client = redis::Client::open(REDIS.url()).expect("an address");
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let hex: String = key.0.iter().map(|byte| format!("{byte:02x}")).collect();
    let prefix = format!("{store:?}");
    let prefix = prefix.split('"').nth(1).expect("its prefix");
    let removed: u32 = connection.del(format!("{prefix}{hex}")).await.unwrap();
    assert_eq!(removed, 1);
}

#[tokio::test]
async fn stores_with_the_same_prefix_share_their_records() {
    let server = Private::start(&[]);
    let (one, other) = (private_store(&server).await, private_store(&server).await);
    let (key, claim) = (key(), claim());
    assert_eq!(one.begin(&key, &claim).await.unwrap(), STARTED);
    let second = Claim::new(claim.fingerprint, HOUR, HOUR);
    assert_eq!(other.begin(&key, &second).await.unwrap(), Begun::Running);
    let answer = Bytes::from_static(b"done");
    let completed = one.complete(&key, claim.token, answer.clone(), HOUR).await;
    assert_eq!(completed.unwrap(), Ended::Taken);
    let begun = other.begin(&key, &second).await.unwrap();
    assert_eq!(begun, Begun::Done(answer));
    let elsewhere = other.prefix("elsewhere:").unwrap();
    assert_eq!(elsewhere.begin(&key, &second).await.unwrap(), STARTED);
}

#[tokio::test]
async fn of_claims_that_come_at_once_one_is_started() {
    let server = Private::start(&[]);
    let (one, other) = (private_store(&server).await, private_store(&server).await);
    let key = key();
    let claims = (0..64).map(|turn| {
        let store = if turn % 2 == 0 { &one } else { &other }.clone();
        tokio::spawn(async move { store.begin(&key, &claim()).await.unwrap() })
    });
    let mut started = 0;
    for claim in claims.collect::<Vec<_>>() {
        match claim.await.unwrap() {
            Begun::Running => {}
            begun => {
                assert_eq!(begun, STARTED);
                started += 1;
            }
        }
    }
    assert_eq!(started, 1);
}

#[tokio::test]
async fn a_prefix_is_checked_and_shown_a_password_is_not() {
    let server = Private::start(&[]);
    let store = private_store(&server).await;
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
