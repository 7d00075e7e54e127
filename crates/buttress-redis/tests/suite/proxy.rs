//! One address that leads to one server, and later to another.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, UnixStream};

use super::private::Private;

/// Existing connections stay with their server; new ones lead to the present target.
pub(super) struct Proxy {
    url: String,
    target: Arc<Mutex<PathBuf>>,
    accepted: Arc<AtomicUsize>,
}

impl Proxy {
    pub(super) async fn to(server: &Private) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let target = Arc::new(Mutex::new(PathBuf::from(server.socket())));
        let accepted = Arc::new(AtomicUsize::new(0));
        let (leads_to, count) = (Arc::clone(&target), Arc::clone(&accepted));
        tokio::spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let target = leads_to.lock().unwrap().clone();
                tokio::spawn(async move {
                    if let Ok(mut server) = UnixStream::connect(target).await {
                        let _ = copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        });
        Self {
            url,
            target,
            accepted,
        }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn switch_to(&self, server: &Private) {
        *self.target.lock().unwrap() = PathBuf::from(server.socket());
    }

    /// How many connections were made so far.
    pub(super) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}
