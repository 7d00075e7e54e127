//! A private Redis that a test can stop, fill, pause and monitor.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use redis::aio::MultiplexedConnection;

/// "Ready" or "The server is now ready", depending on the version.
const READY: &str = "eady to accept connections";

/// Dropping it ends the server and removes its folder.
pub(crate) struct Private {
    folder: PathBuf,
    settings: Vec<String>,
    child: Child,
    log: BufReader<ChildStdout>,
}

impl Private {
    /// A server with these settings, `name value …`, at a socket in a new folder.
    pub(super) fn start(settings: &[&str]) -> Self {
        Self::started(settings, false)
    }

    /// A sentinel, which has no data.
    pub(super) fn start_sentinel(settings: &[&str]) -> Self {
        Self::started(settings, true)
    }

    fn started(settings: &[&str], is_sentinel: bool) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let folder = std::env::temp_dir().join(format!(
            "buttress-redis-{}-{}",
            std::process::id(),
            STARTED.fetch_add(1, Ordering::Relaxed)
        ));
        fs::create_dir(&folder).expect("a new folder");
        let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
        if is_sentinel {
            // A sentinel rewrites its settings, so it needs a file.
            let lines: String = settings.iter().flat_map(|line| [line, "\n"]).collect();
            fs::write(folder.join("sentinel.conf"), lines).expect("a file of settings");
        }
        let (child, log) = spawn(&folder, &settings, is_sentinel);
        let mut server = Self {
            folder,
            settings,
            child,
            log,
        };
        server.await_line(if is_sentinel { "Sentinel ID is" } else { READY });
        server
    }

    pub(super) fn url(&self) -> String {
        format!("redis+unix://{}", self.socket())
    }

    pub(super) fn socket(&self) -> String {
        self.folder.join("socket").display().to_string()
    }

    /// A connection in addition to that of the store.
    pub(super) async fn connection(&self) -> MultiplexedConnection {
        redis::Client::open(self.url())
            .expect("an address")
            .get_multiplexed_async_connection()
            .await
            .expect("a connection to the private server")
    }

    /// Ends it like a crash.
    pub(super) fn kill(&mut self) {
        self.child.kill().expect("a server to kill");
        self.child.wait().expect("its end");
    }

    /// Stops it from responding. The system still receives what is sent.
    pub(super) fn freeze(&self) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-STOP", &id]).status();
        assert!(sent.expect("the program `kill`").success());
    }

    /// Starts it again, at the same place with the same data.
    pub(super) fn restart(&mut self) {
        (self.child, self.log) = spawn(&self.folder, &self.settings, false);
        self.await_line(READY);
    }

    /// Waits for this text in its log.
    pub(super) fn await_line(&mut self, text: &str) {
        let mut log = String::new();
        while !log.ends_with('\n') || !log.lines().last().is_some_and(|line| line.contains(text)) {
            let read = self.log.read_line(&mut log).expect("its log");
            assert!(
                read > 0,
                "the private Redis ended before it logged `{text}`:\n{log}"
            );
        }
    }
}

/// Free ports of this machine.
pub(super) fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    // All are bound at the same time, so that they differ.
    let held = [(); COUNT].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
    held.map(|listener| listener.local_addr().expect("an address").port())
}

impl Drop for Private {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn spawn(
    folder: &PathBuf,
    settings: &[String],
    is_sentinel: bool,
) -> (Child, BufReader<ChildStdout>) {
    let mut command = Command::new("redis-server");
    command.current_dir(folder);
    if is_sentinel {
        command.args(["sentinel.conf", "--sentinel"]);
    } else {
        command.args(["--port", "0", "--unixsocket", "socket", "--save", ""]);
        for setting in settings {
            let (name, value) = setting.split_once(' ').expect("a name and a value");
            command.arg(format!("--{name}")).args(value.split(' '));
        }
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!(
                "this test needs the program `redis-server` in its PATH: {error}\n\
                 `scripts/services.sh` installs it or explains how, if REDIS_URL is not set"
            )
        });
    let log = child.stdout.take().expect("its log");
    (child, BufReader::new(log))
}
