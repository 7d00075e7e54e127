//! Connections that need TLS.

use std::future::{Ready, ready};
use std::sync::{Arc, Mutex};

use buttress::BoxError;
use buttress::idempotency::store::Store;
use buttress_postgres::PostgresStore;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_postgres::Socket;
use tokio_postgres::tls::{MakeTlsConnect, NoTlsStream, TlsConnect};

use super::{KEY, claim, unavailable};

/// Records the hosts it was used for, and accepts no certificate.
#[derive(Clone, Debug, Default)]
struct Distrustful {
    hosts: Arc<Mutex<Vec<String>>>,
}

impl MakeTlsConnect<Socket> for Distrustful {
    type Stream = NoTlsStream;
    type TlsConnect = Self;
    type Error = BoxError;

    fn make_tls_connect(&mut self, host: &str) -> Result<Self, BoxError> {
        self.hosts.lock().expect("a lock").push(host.to_owned());
        Ok(self.clone())
    }
}

impl TlsConnect<Socket> for Distrustful {
    type Stream = NoTlsStream;
    type Error = BoxError;
    type Future = Ready<Result<NoTlsStream, BoxError>>;

    fn connect(self, _: Socket) -> Self::Future {
        ready(Err("a certificate of nobody".into()))
    }
}

#[tokio::test]
async fn an_address_that_requires_tls_is_connected_by_the_connector_alone() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // The server reports that it supports TLS.
            let mut request = [0; 8];
            if stream.read_exact(&mut request).await.is_ok() {
                let _ = stream.write_all(b"S").await;
            }
        }
    });
    let url = format!("postgres://nobody@127.0.0.1:{port}/none?sslmode=require");
    let error = PostgresStore::connect(&url).expect_err("it has no TLS");
    assert!(error.to_string().contains("connect_with"), "{error}");
    let connector = Distrustful::default();
    let store = PostgresStore::connect_with(&url, connector.clone()).expect("an address");
    let message = unavailable(store.begin(&KEY, &claim())).await;
    assert!(message.contains("TLS"), "{message}");
    let hosts = connector.hosts.lock().expect("a lock");
    assert_eq!(hosts.first().map(String::as_str), Some("127.0.0.1"));
}
