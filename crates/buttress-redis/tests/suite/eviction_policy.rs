//! Reports of servers that evict records.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use buttress::idempotency::store::Store as _;
use buttress_redis::RedisStore;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tracing::Level;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::fmt::MakeWriter;

use super::private::Private;
use super::proxy::Proxy;
use super::{STARTED, claim, key, private_store};

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// The log lines of this thread about the policy of the server at this address.
pub(super) struct Reports {
    address: String,
    lines: Lines,
    _guard: DefaultGuard,
}

impl Reports {
    pub(super) fn of(address: String) -> Self {
        let lines = Lines::default();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::DEBUG)
            .with_ansi(false)
            .without_time()
            .with_writer(lines.clone())
            .finish();
        Self {
            address,
            lines,
            _guard: tracing::subscriber::set_default(subscriber),
        }
    }

    pub(super) fn take(&self) -> Vec<String> {
        let written = std::mem::take(&mut *self.lines.0.lock().unwrap());
        let written = String::from_utf8(written).expect("text");
        let about = format!("server `{}`", self.address);
        let lines = written.lines().filter(|line| line.contains(&about));
        lines.map(|line| line.trim_start().to_owned()).collect()
    }
}

fn evicts(policy: &str) -> [String; 2] {
    [
        "WARN".to_owned(),
        format!(
            "(`{policy}`), and their operations may be executed again: set `maxmemory-policy` to `noeviction`"
        ),
    ]
}

#[tokio::test]
async fn an_evicting_or_unknown_policy_is_reported_on_connecting() {
    let hidden = "rename-command CONFIG hidden";
    let unknown = ["DEBUG", "does not report its `maxmemory-policy`"].map(str::to_owned);
    for (settings, reported, counted) in [
        (["maxmemory-policy noeviction", "databases 1"], None, 0),
        (
            ["maxmemory-policy allkeys-lru", "databases 1"],
            Some(evicts("allkeys-lru")),
            1,
        ),
        (
            ["maxmemory-policy volatile-ttl", "databases 1"],
            Some(evicts("volatile-ttl")),
            1,
        ),
        // If a server rejects CONFIG, the store reads INFO.
        (
            ["maxmemory-policy allkeys-lfu", hidden],
            Some(evicts("allkeys-lfu")),
            1,
        ),
        (["rename-command INFO unseen", hidden], Some(unknown), 0),
    ] {
        let recorder = DebuggingRecorder::new();
        let metrics = recorder.snapshotter();
        let _recording = metrics::set_default_local_recorder(&recorder);
        let server = Private::start(&settings);
        let reports = Reports::of(server.socket());
        let store = private_store(&server).await;
        match (&reports.take()[..], &reported) {
            ([], None) => {}
            ([line], Some([level, text])) => {
                assert!(line.starts_with(level) && line.contains(text), "{line}");
            }
            (lines, _) => panic!("{settings:?}: {lines:?}"),
        }
        let counts = metrics.snapshot().into_vec().into_iter();
        let counts = counts.map(|(key, _, _, count)| (key.key().name().to_owned(), count));
        let name = "buttress.idempotency.evicting_servers_total".to_owned();
        let expected = [(name, DebugValue::Counter(counted))];
        let expected = expected.into_iter().filter(|_| counted > 0);
        assert!(counts.eq(expected), "{settings:?}");
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
    let lines = reports.take();
    assert!(
        matches!(&lines[..], [line] if line.contains("`allkeys-lru`")),
        "{lines:?}"
    );
}
