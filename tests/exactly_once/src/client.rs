//! The client: sends each request until it has a response, over reused connections, and sometimes disconnects halfway.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rand::rngs::StdRng;
use rand::{Rng, RngExt};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::plan::{key, order};

/// How long a client waits for a connection, and for the response to a request.
const WAITS: Duration = Duration::from_secs(20);

/// A final response to an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) kind: String,
    /// The payment in the response, if there is one.
    pub(crate) effect: Option<String>,
    pub(crate) body: Bytes,
}

/// The result of a request.
pub(crate) enum Heard {
    Answer(Answer),
    /// 409: the operation is in progress.
    UnderWay,
    /// 503: the store or the handler is not available.
    Unavailable,
    /// The connection was refused, or broke.
    Nothing,
    /// Anything else, which is a failure of the test.
    Wrong(String),
}

type Sender = SendRequest<Full<Bytes>>;

#[derive(Default)]
pub(crate) struct Connections {
    idle: Mutex<HashMap<SocketAddr, Vec<Sender>>>,
}

impl Connections {
    async fn get(&self, to: SocketAddr) -> io::Result<Sender> {
        while let Some(kept) = crate::locked(&self.idle).get_mut(&to).and_then(Vec::pop) {
            if kept.is_ready() {
                return Ok(kept);
            }
        }
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        tokio::spawn(connection);
        Ok(sender)
    }

    /// Sends the request once.
    pub(crate) async fn ask(&self, to: SocketAddr, number: u64) -> Heard {
        // A killed server may leave half-open connections, which the kernel closes much later.
        let Ok(Ok(sender)) = timeout(WAITS, self.get(to)).await else {
            return Heard::Nothing;
        };
        // A request without a response for this time counts as lost. The limit of each key finds a server that never responds.
        match timeout(WAITS, self.exchange(sender, to, number)).await {
            Ok(Ok(heard)) => heard,
            Ok(Err(_)) => Heard::Nothing,
            // Under load, a killed server sometimes leaves a connection that is never closed for the client.
            Err(_) if TcpStream::connect(to).await.is_err() => Heard::Nothing,
            Err(_) => Heard::Wrong(format!(
                "{}: {to} is alive, and sent no response within {WAITS:?}",
                key(number)
            )),
        }
    }

    async fn exchange(&self, mut sender: Sender, to: SocketAddr, number: u64) -> io::Result<Heard> {
        let request = Request::post("/orders")
            .header("host", "shop")
            .header("idempotency-key", format!("\"{}\"", key(number)))
            .body(Full::from(order(number)))
            .map_err(io::Error::other)?;
        let response = sender
            .send_request(request)
            .await
            .map_err(io::Error::other)?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        if sender.ready().await.is_ok() {
            crate::locked(&self.idle)
                .entry(to)
                .or_default()
                .push(sender);
        }
        Ok(heard(number, &Response::from_parts(head, body)))
    }
}

fn heard(number: u64, response: &Response<Bytes>) -> Heard {
    let field = |name| {
        let value = response.headers().get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let status = response.status().as_u16();
    let text = String::from_utf8_lossy(response.body());
    match status {
        409 if text.contains("variant.InProgress") => Heard::UnderWay,
        503 => Heard::Unavailable,
        201 | 500 => Heard::Answer(Answer {
            status,
            kind: field("content-type").unwrap_or_default(),
            effect: field("x-effect"),
            body: response.body().clone(),
        }),
        _ => Heard::Wrong(format!("{}: {status} {text}", key(number))),
    }
}

/// Sends the request, or a part of it, and disconnects at any time.
pub(crate) async fn leave(to: SocketAddr, number: u64, draw: &mut StdRng) -> io::Result<()> {
    let body = order(number);
    let request = format!(
        "POST /orders HTTP/1.1\r\nhost: shop\r\nidempotency-key: \"{}\"\r\ncontent-length: {}\r\n\r\n{body}",
        key(number),
        body.len(),
    );
    let mut stream = TcpStream::connect(to).await?;
    // With a reset, which the server may see at any point, or with a regular close.
    if draw.random_bool(0.5) {
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    }
    let cut = if draw.random_bool(0.25) {
        draw.random_range(0..request.len())
    } else {
        request.len()
    };
    stream.write_all(&request.as_bytes()[..cut]).await?;
    sleep(Duration::from_micros(u64::from(draw.next_u32() % 6000))).await;
    Ok(())
}
