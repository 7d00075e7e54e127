//! A Redis that is down, slow, full, restarted, or part of a cluster.

use std::time::Duration;

use buttress::idempotency::store::{Begun, Ended, Store as _, StoreError};
use buttress_redis::RedisStore;
use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, UnixStream};

use super::private::Private;
use super::{HOUR, STARTED, claim, key, started, unavailable};

/// Checks that the call fails without hanging.
async fn fails_in_time<T: std::fmt::Debug>(call: impl Future<Output = Result<T, StoreError>>) {
    let in_time = tokio::time::timeout(Duration::from_secs(60), unavailable(call));
    in_time.await.expect("no hanging");
}

pub(super) async fn command(connection: &mut MultiplexedConnection, words: &str) {
    let mut words = words.split(' ');
    let mut command = redis::cmd(words.next().expect("a command"));
    for word in words {
        command.arg(word);
    }
    command.exec_async(connection).await.unwrap();
}

#[tokio::test]
async fn an_unreachable_server_is_an_error_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    for url in [
        &*format!("redis://{address}"),
        "unix:///nowhere/socket",
        "no address",
    ] {
        fails_in_time(RedisStore::connect(url)).await;
    }
}

#[tokio::test]
async fn a_silent_server_is_an_error_soon() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", silent.local_addr().unwrap());
    fails_in_time(RedisStore::connect(&url)).await;
}

#[tokio::test]
async fn a_server_that_goes_down_and_comes_back_is_used_again() {
    let (mut server, store) = started(&["appendonly yes", "appendfsync always"]).await;
    let (key, claim) = (key(), claim());
    assert_eq!(store.begin(&key, &claim).await.unwrap(), STARTED);
    server.kill();
    for _ in 0..3 {
        fails_in_time(store.begin(&key, &claim)).await;
    }
    server.restart();
    // The first call succeeds, and no record is lost.
    let response = Bytes::from_static(b"response");
    let completed = store
        .complete(&key, claim.token, response.clone(), HOUR)
        .await;
    assert_eq!(completed.unwrap(), Ended::Taken);
    // A restart that no call has noticed.
    server.kill();
    server.restart();
    let begun = store.begin(&key, &claim).await.unwrap();
    assert_eq!(begun, Begun::Done(response));
}

#[tokio::test]
async fn a_slow_server_is_an_error_in_time_and_is_used_again() {
    let (server, store) = started(&[]).await;
    let (key, claim) = (key(), claim());
    let mut beside = server.connection().await;
    command(&mut beside, "CLIENT PAUSE 600000 WRITE").await;
    fails_in_time(store.begin(&key, &claim)).await;
    command(&mut beside, "CLIENT UNPAUSE").await;
    // The claim without a response had taken effect: repeating it returns the same run.
    assert_eq!(store.begin(&key, &claim).await.unwrap(), STARTED);
}

#[tokio::test]
async fn a_full_server_rejects_new_keys_and_completes_running_ones() {
    let (server, store) = started(&["maxmemory-policy noeviction"]).await;
    let claims: Vec<_> = (0..4).map(|_| (key(), claim())).collect();
    for (key, claim) in &claims {
        assert_eq!(store.begin(key, claim).await.unwrap(), STARTED);
    }
    let complete = |(key, claim): &(_, buttress::idempotency::store::Claim), response: &[u8]| {
        let (store, key, token) = (store.clone(), *key, claim.token);
        let response = Bytes::copy_from_slice(response);
        async move { store.complete(&key, token, response, HOUR).await }
    };
    assert_eq!(complete(&claims[0], b"done").await.unwrap(), Ended::Taken);
    let (later_key, mut stopped, later) = (self::key(), self::claim(), self::claim());
    stopped.lease = Duration::ZERO;
    store.begin(&later_key, &stopped).await.unwrap();
    let begun = store.begin(&later_key, &later).await.unwrap();
    assert_eq!(begun, Begun::Started { run: 2 });
    command(&mut server.connection().await, "CONFIG SET maxmemory 1000").await;

    let refused = store.begin(&key(), &claim()).await;
    assert!(matches!(refused, Err(StoreError::Full(_))), "{refused:?}");
    let refused = complete(&claims[1], &[b'x'; 1_000]).await;
    assert!(matches!(refused, Err(StoreError::Full(_))), "{refused:?}");
    let (key, claim) = &claims[1];
    assert!(store.renew(key, claim.token, HOUR, HOUR).await.unwrap());
    assert_eq!(complete(&claims[1], b"short").await.unwrap(), Ended::Taken);
    let (key, claim) = &claims[2];
    let abandoned = store.abandon(key, claim.token).await.unwrap();
    assert_eq!(abandoned, Ended::Taken);
    let abandoned = store.abandon(&later_key, later.token).await.unwrap();
    assert_eq!(abandoned, Ended::Taken);
    let (key, claim) = &claims[0];
    let begun = store.begin(key, claim).await.unwrap();
    assert_eq!(begun, Begun::Done(Bytes::from_static(b"done")));

    command(&mut server.connection().await, "CONFIG SET maxmemory 0").await;
    let completed = complete(&claims[3], &[b'x'; 1_000]).await;
    assert_eq!(completed.unwrap(), Ended::Taken);
}

#[tokio::test]
async fn each_call_is_one_command_and_flushed_scripts_are_loaded_again() {
    let (server, store) = started(&[]).await;
    let mut beside = server.connection().await;
    let one_of_each = async || {
        let (first, second, claim) = (key(), key(), claim());
        let response = Bytes::from_static(b"response");
        store.begin(&first, &claim).await.unwrap();
        store.renew(&first, claim.token, HOUR, HOUR).await.unwrap();
        store
            .complete(&first, claim.token, response, HOUR)
            .await
            .unwrap();
        store.begin(&second, &claim).await.unwrap();
        let response = Bytes::from(vec![b'x'; 1_000]);
        store
            .complete(&second, claim.token, response, HOUR)
            .await
            .unwrap();
        store.abandon(&second, claim.token).await.unwrap();
    };
    one_of_each().await;
    let seen = sent_while(&server, async {
        one_of_each().await;
    });
    assert_eq!(seen.await, ["EVALSHA"; 6]);

    command(&mut beside, "SCRIPT FLUSH").await;
    let seen = sent_while(&server, async {
        store.begin(&key(), &claim()).await.unwrap();
        store.begin(&key(), &claim()).await.unwrap();
    });
    assert_eq!(seen.await, ["EVALSHA", "EVAL", "EVALSHA"]);
}

/// The commands that reach the server from outside, in order.
async fn sent_while(server: &Private, doing: impl Future<Output = ()>) -> Vec<String> {
    let stream = UnixStream::connect(server.socket()).await.unwrap();
    let mut monitor = BufReader::new(stream);
    monitor.write_all(b"MONITOR\r\n").await.unwrap();
    let mut line = String::new();
    monitor.read_line(&mut line).await.unwrap();
    assert_eq!(line, "+OK\r\n");
    doing.await;
    command(&mut server.connection().await, "ECHO end").await;
    let mut seen = Vec::new();
    loop {
        line.clear();
        monitor.read_line(&mut line).await.unwrap();
        // +1700000000.000000 [0 unix:/path] "EVALSHA" "…": commands of a script have `lua` as their address.
        let (head, words) = line.split_once("] ").expect("an address");
        let word = words.split('"').nth(1).expect("a command");
        match word {
            _ if head.ends_with("lua") => {}
            "CLIENT" | "HELLO" => {}
            "ECHO" => return seen,
            _ => seen.push(word.to_owned()),
        }
    }
}
