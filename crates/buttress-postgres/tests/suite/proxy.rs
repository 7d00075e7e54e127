//! A proxy that counts requests, stalls, and closes connections.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_postgres::config::Host;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Forwards,
    /// Receives data and forwards nothing.
    Stalls,
    /// Closes all connections, and each new one at once.
    Closes,
}

pub(super) struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    asked: Arc<AtomicUsize>,
    connected: Arc<AtomicUsize>,
    cut: Arc<Mutex<Option<Cut>>>,
}

/// An address at which nobody listens.
pub(super) async fn nowhere() -> tokio_postgres::Config {
    let unused = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = unused.local_addr().expect("an address");
    let url = format!("postgres://nobody@{address}/none");
    url.parse().expect("an address")
}

/// Where a connection is cut: at the request of this number.
#[derive(Clone, Copy)]
pub(super) enum Cut {
    Before(usize),
    /// The server executes the request, but its response is dropped.
    Behind(usize),
}

impl Proxy {
    pub(super) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (mode, modes) = watch::channel(Mode::Forwards);
        let asked = Arc::new(AtomicUsize::new(0));
        let connected = Arc::new(AtomicUsize::new(0));
        let answered = Arc::new(AtomicUsize::new(0));
        let cut = Arc::new(Mutex::new(None));
        let cuts = Arc::clone(&cut);
        let (counter, connections) = (Arc::clone(&asked), Arc::clone(&connected));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *modes.borrow() != Mode::Closes {
                    connections.fetch_add(1, Ordering::SeqCst);
                    let counters = (Arc::clone(&counter), Arc::clone(&answered));
                    tokio::spawn(serve(client, modes.clone(), counters, Arc::clone(&cuts)));
                }
            }
        });
        Self {
            address,
            mode,
            asked,
            connected,
            cut,
        }
    }

    pub(super) fn cut(&self, cut: Cut) {
        *self.cut.lock().expect("a lock") = Some(cut);
    }

    pub(super) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// The address of the server through this proxy.
    pub(super) fn url(&self) -> String {
        let config = super::config();
        format!(
            "postgres://{}:{}@{}/{}",
            config.get_user().unwrap_or("postgres"),
            config
                .get_password()
                .map(String::from_utf8_lossy)
                .unwrap_or_default(),
            self.address,
            config.get_dbname().unwrap_or("postgres"),
        )
    }

    /// The number of round trips.
    pub(super) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    pub(super) fn connected(&self) -> usize {
        self.connected.load(Ordering::SeqCst)
    }
}

async fn server() -> TcpStream {
    let config = super::config();
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) => host.clone(),
        other => panic!("these tests need a server on a port, not {other:?}"),
    };
    TcpStream::connect((host, port)).await.expect("a server")
}

async fn serve(
    client: TcpStream,
    mut modes: watch::Receiver<Mode>,
    (asked, answered): (Arc<AtomicUsize>, Arc<AtomicUsize>),
    cut: Arc<Mutex<Option<Cut>>>,
) {
    let is_cut = |requests: bool| match *cut.lock().expect("a lock") {
        Some(Cut::Before(number)) => requests && asked.load(Ordering::SeqCst) >= number,
        Some(Cut::Behind(number)) => !requests && answered.load(Ordering::SeqCst) >= number,
        None => false,
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server().await.into_split();
    let requests = forward(
        from_client,
        to_server,
        modes.clone(),
        Messages::requests(&asked),
        || is_cut(true),
    );
    let answers = forward(
        from_server,
        to_client,
        modes.clone(),
        Messages::answers(&answered),
        || is_cut(false),
    );
    tokio::select! {
        () = requests => {}
        () = answers => {}
        _ = modes.wait_for(|mode| *mode == Mode::Closes) => {}
    }
}

async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut modes: watch::Receiver<Mode>,
    mut messages: Messages,
    is_cut: impl Fn() -> bool,
) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        messages.read(&buffer[..length]);
        if is_cut() {
            return;
        }
        let ended = modes
            .wait_for(|mode| *mode == Mode::Forwards)
            .await
            .is_err();
        if ended || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

/// Reads messages: one byte of kind (except in the first one of a client) and four of length.
struct Messages {
    count: Arc<AtomicUsize>,
    unread: Vec<u8>,
    started: bool,
    /// Which are counted, and how many of them are not, because they are about the connection itself.
    counted: &'static [u8],
    uncounted: usize,
}

impl Messages {
    /// The server responds to Sync and Query with "ready".
    fn requests(count: &Arc<AtomicUsize>) -> Self {
        Self {
            count: Arc::clone(count),
            unread: Vec::new(),
            started: false,
            counted: b"SQ",
            uncounted: 0,
        }
    }

    fn answers(count: &Arc<AtomicUsize>) -> Self {
        Self {
            started: true,
            counted: b"Z",
            uncounted: 1,
            ..Self::requests(count)
        }
    }

    fn read(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
        loop {
            let kind = usize::from(self.started);
            let Some(length) = self.unread.get(kind..kind + 4) else {
                return;
            };
            let length = u32::from_be_bytes(length.try_into().expect("four bytes"));
            let whole = kind + usize::try_from(length).expect("a length");
            if self.unread.len() < whole {
                return;
            }
            if self.started && self.counted.contains(&self.unread[0]) {
                match self.uncounted.checked_sub(1) {
                    Some(left) => self.uncounted = left,
                    None => _ = self.count.fetch_add(1, Ordering::SeqCst),
                }
            }
            self.started = true;
            self.unread.drain(..whole);
        }
    }
}
