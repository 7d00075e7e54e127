//! Version 1 of a record in Redis, which later versions must still read.

use buttress::idempotency::store::{
    Begun, Claim, Ended, EntryState, Fingerprint, RecordKey, Store as _, StoreError, Token,
};
use std::time::Duration;

use bytes::Bytes;
use redis::AsyncCommands as _;
use redis::aio::MultiplexedConnection;

use super::private::Private;
use super::{HOUR, private_store};

const KEY: RecordKey = RecordKey([0xab; 32]);
const NAME: &str = "buttress:abababababababababababababababababababababababababababababababab";
const FINGERPRINT: [u8; 32] = [0xf1; 32];
const TOKEN: Token = Token([0x0d; 16]);
/// 3 November 2096, in microseconds.
const FAR: &str = "4003000000123456";

type Fields<'a> = [(&'a str, &'a [u8])];

async fn write(connection: &mut MultiplexedConnection, fields: &Fields<'_>) {
    let _: () = connection.del(NAME).await.unwrap();
    let _: () = connection.hset_multiple(NAME, fields).await.unwrap();
}

fn claim() -> Claim {
    Claim::new(Fingerprint(FINGERPRINT), HOUR, HOUR)
}

#[tokio::test]
async fn records_of_version_1_are_read() {
    let server = Private::start(&[]);
    let (store, mut raw) = (private_store(&server).await, server.connection().await);
    let running = |until: &'static str| {
        [
            ("version", &b"1"[..]),
            ("fingerprint", &FINGERPRINT),
            ("token", &TOKEN.0),
            ("run", b"4294967294"),
            ("lease_until", until.as_bytes()),
        ]
    };
    write(&mut raw, &running(FAR)).await;
    assert_eq!(store.begin(&KEY, &claim()).await.unwrap(), Begun::Running);
    let other = Claim::new(Fingerprint([0; 32]), HOUR, HOUR);
    assert_eq!(store.begin(&KEY, &other).await.unwrap(), Begun::Mismatch);
    assert!(store.renew(&KEY, TOKEN, HOUR, HOUR).await.unwrap());
    let mut own = claim();
    own.token = TOKEN;
    let same_run = Begun::Started { run: u32::MAX - 1 };
    assert_eq!(store.begin(&KEY, &own).await.unwrap(), same_run);

    write(&mut raw, &running("1700000000000000")).await;
    // Records without the time of their first claim.
    let entry = store.find(&KEY).await.unwrap().expect("an entry");
    assert_eq!((entry.run, entry.age), (u32::MAX - 1, Duration::ZERO));
    assert!(matches!(entry.state, EntryState::Stopped { .. }));
    let next_run = Begun::Started { run: u32::MAX };
    assert_eq!(store.begin(&KEY, &claim()).await.unwrap(), next_run);

    let done = [
        ("version", &b"1"[..]),
        ("fingerprint", &FINGERPRINT),
        ("token", &TOKEN.0),
        ("run", b"1"),
        ("answer", b"\0\r\n\xff$5"),
    ];
    write(&mut raw, &done).await;
    let answer = Bytes::from_static(b"\0\r\n\xff$5");
    let begun = store.begin(&KEY, &claim()).await.unwrap();
    assert_eq!(begun, Begun::Done(answer.clone()));
    // Nor a time to live.
    let entry = store.find(&KEY).await.unwrap().expect("an entry");
    assert!(entry.expires_in > 1_000 * HOUR);
    let state = EntryState::Done {
        answer: answer.clone(),
    };
    assert_eq!(entry.state, state);
    let abandoned = store.abandon(&KEY, TOKEN).await.unwrap();
    assert_eq!(abandoned, Ended::Already(answer));
}

#[tokio::test]
async fn records_are_written_as_version_1_with_their_end() {
    let server = Private::start(&[]);
    let (store, mut raw) = (private_store(&server).await, server.connection().await);
    let mut claim = claim();
    claim.token = TOKEN;
    store.begin(&KEY, &claim).await.unwrap();
    let fields: Vec<(String, Vec<u8>)> = raw.hgetall(NAME).await.unwrap();
    let [begun_at, lease_until] = [&fields[4], &fields[5]].map(|(_, digits)| {
        let digits = std::str::from_utf8(digits).expect("digits").to_owned();
        assert_eq!(digits.len(), 16, "microseconds: {digits}");
        digits
    });
    let in_an_hour = begun_at.parse::<u64>().expect("a number") + 3_600_000_000;
    assert_eq!(lease_until, in_an_hour.to_string());
    let written: Vec<(&str, &[u8])> = fields.iter().map(|(name, is)| (&**name, &**is)).collect();
    let expected: [(&str, &[u8]); 6] = [
        ("version", b"1"),
        ("fingerprint", &FINGERPRINT),
        ("token", &TOKEN.0),
        ("run", b"1"),
        ("begun_at", begun_at.as_bytes()),
        ("lease_until", lease_until.as_bytes()),
    ];
    assert_eq!(written, expected);
    // A lease and a time to live from now on, up to the next whole millisecond.
    let end: u64 = raw.expire_time_for(NAME).await;
    let lease_until: u64 = lease_until.parse().expect("a number");
    assert_eq!(end, (lease_until + 3_600_000_000).div_ceil(1_000));

    let answer = Bytes::from_static(b"answer");
    store.complete(&KEY, TOKEN, answer, HOUR).await.unwrap();
    let fields: Vec<(String, Vec<u8>)> = raw.hgetall(NAME).await.unwrap();
    let names: Vec<&str> = fields.iter().map(|(name, _)| &**name).collect();
    assert_eq!(
        names,
        [
            "version",
            "fingerprint",
            "token",
            "run",
            "begun_at",
            "answer"
        ]
    );
    assert_eq!(fields[4].1, begun_at.as_bytes());
    assert_eq!(fields[5].1, b"answer");
    let done_end = raw.expire_time_for(NAME).await;
    assert!(done_end > lease_until / 1_000 && done_end < end);
}

trait ExpireTime {
    async fn expire_time_for(&mut self, key: &str) -> u64;
}

impl ExpireTime for MultiplexedConnection {
    /// In milliseconds since 1970.
    async fn expire_time_for(&mut self, key: &str) -> u64 {
        let mut command = redis::cmd("PEXPIRETIME");
        command.arg(key).query_async(self).await.unwrap()
    }
}

#[tokio::test]
async fn an_unreadable_record_is_an_error_and_stays_unchanged() {
    let server = Private::start(&[]);
    let (store, mut raw) = (private_store(&server).await, server.connection().await);
    let good: [(&str, &[u8]); 5] = [
        ("version", b"1"),
        ("fingerprint", &FINGERPRINT),
        ("token", &TOKEN.0),
        ("run", b"1"),
        ("lease_until", FAR.as_bytes()),
    ];
    let wrong: [(&str, &[u8], &str); 13] = [
        ("version", b"2", "its version is 2, but"),
        ("version", b"", "its version is , but"),
        ("fingerprint", &[0; 31], "fingerprint"),
        ("token", b"", "token"),
        ("run", b"0", "run"),
        ("run", b"4294967296", "run"),
        ("run", b"0x10", "run"),
        ("run", b" 1", "run"),
        ("run", b"1.5", "run"),
        ("run", b"99999999999999999999", "run"),
        ("lease_until", b"tomorrow", "neither"),
        ("lease_until", b"-1", "neither"),
        ("answer", b"", "both a lease and a response"),
    ];
    for (field, value, text) in wrong {
        write(&mut raw, &good).await;
        let _: () = raw.hset(NAME, field, value).await.unwrap();
        all_unreadable(&store, text, &mut raw).await;
    }
    for (field, text) in [
        ("version", "no version"),
        ("fingerprint", "fingerprint"),
        ("token", "token"),
        ("run", "run"),
        ("lease_until", "neither"),
    ] {
        write(&mut raw, &good).await;
        let _: () = raw.hdel(NAME, field).await.unwrap();
        all_unreadable(&store, text, &mut raw).await;
    }
    let _: () = raw.set(NAME, "a string").await.unwrap();
    all_unreadable(&store, "not hold a hash", &mut raw).await;
}

async fn all_unreadable(
    store: &buttress_redis::RedisStore,
    text: &str,
    raw: &mut MultiplexedConnection,
) {
    let before: Vec<u8> = redis::cmd("DUMP").arg(NAME).query_async(raw).await.unwrap();
    let mut claim = claim();
    claim.token = TOKEN;
    let answer = Bytes::from_static(b"answer");
    for error in [
        store.begin(&KEY, &claim).await.expect_err("begin"),
        store
            .renew(&KEY, TOKEN, HOUR, HOUR)
            .await
            .expect_err("renew"),
        store
            .complete(&KEY, TOKEN, answer, HOUR)
            .await
            .expect_err("complete"),
        store.abandon(&KEY, TOKEN).await.expect_err("abandon"),
        store.find(&KEY).await.expect_err("find"),
    ] {
        assert!(
            matches!(&error, StoreError::Unreadable(why) if why.contains(text)),
            "{error} does not contain `{text}`"
        );
    }
    let listed = store.list(None, 10).await.unwrap();
    assert_eq!((listed.entries.len(), listed.unreadable), (0, 1));
    let after: Vec<u8> = redis::cmd("DUMP").arg(NAME).query_async(raw).await.unwrap();
    assert_eq!(before, after);
}
