//! A server that fails its first request on command.

use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::http::{
    DATA, END_STREAM, Frame, GOAWAY, HEADERS, RST_STREAM, accept_http2, frame, next_frame, nobody,
};

/// The treatment of the first request.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Fault {
    /// Nothing listens yet.
    Refuse,
    /// Responds with this status and these headers.
    Answer(u16, Vec<(String, String)>),
    /// Responds with this status before the body has arrived.
    AnswerEarly(u16),
    /// Responds with half of a body, and closes.
    HalfAnswer,
    /// Reads the request and closes in good order.
    Close,
    /// Closes with the request unread, which resets the connection.
    Reset,
    /// Reads the request and never responds.
    Stall,
    /// HTTP/2: resets the stream for this reason.
    ResetStream(u32),
    /// HTTP/2: goes away, having processed no stream.
    GoAway,
    /// HTTP/2: goes away, having perhaps processed this stream, and closes.
    GoAwayAfter,
}

/// The requests that the server has received.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) connections: usize,
    /// The head of each request and its body; of HTTP/2 only their number is known.
    pub(super) requests: Vec<String>,
}

pub(super) struct Server {
    pub(super) address: SocketAddr,
    /// The address of the first connection; not the server's if it is to be refused.
    pub(super) first: SocketAddr,
    pub(super) seen: Arc<Mutex<Seen>>,
}

pub(super) async fn start(fault: &Fault, http2: bool) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (first, fault) = match fault {
        Fault::Refuse => (nobody().await, None),
        fault => (address, Some(fault.clone())),
    };
    let seen = Arc::new(Mutex::new(Seen::default()));
    let (fault, all) = (Arc::new(Mutex::new(fault)), Arc::clone(&seen));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            all.lock().unwrap().connections += 1;
            let connection = Connection {
                stream,
                fault: Arc::clone(&fault),
                seen: Arc::clone(&all),
            };
            tokio::spawn(async move {
                if http2 {
                    connection.http2().await
                } else {
                    connection.http1().await
                }
            });
        }
    });
    Server {
        address,
        first,
        seen,
    }
}

struct Connection {
    stream: TcpStream,
    fault: Arc<Mutex<Option<Fault>>>,
    seen: Arc<Mutex<Seen>>,
}

impl Connection {
    fn sees(&self, request: String) -> Option<Fault> {
        self.seen.lock().unwrap().requests.push(request);
        self.fault.lock().unwrap().take()
    }

    async fn http1(mut self) -> io::Result<()> {
        loop {
            let resets = matches!(*self.fault.lock().unwrap(), Some(Fault::Reset));
            if resets {
                // Closing with bytes unread makes a reset.
                self.stream.peek(&mut [0]).await?;
                self.sees(String::new());
                return Ok(());
            }
            let mut request = String::new();
            while !request.ends_with("\r\n\r\n") {
                request.push(self.stream.read_u8().await?.into());
            }
            let early = matches!(*self.fault.lock().unwrap(), Some(Fault::AnswerEarly(_)));
            if early {
                let Some(Fault::AnswerEarly(status)) = self.sees(request.clone()) else {
                    unreachable!();
                };
                self.respond1(&request, status, &[]).await?;
                self.body(&request).await?;
                continue;
            }
            let body = self.body(&request).await?;
            let head = request.clone();
            match self.sees(request + &body) {
                None => self.respond1(&head, 200, &[]).await?,
                Some(Fault::Answer(status, headers)) => {
                    self.respond1(&head, status, &headers).await?;
                }
                Some(Fault::HalfAnswer) => {
                    let half = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf";
                    self.stream.write_all(half).await?;
                    return self.stream.shutdown().await;
                }
                Some(Fault::Close) => return self.stream.shutdown().await,
                Some(Fault::Stall) => return self.until_closed().await,
                Some(other) => panic!("{other:?} is for HTTP/2"),
            }
        }
    }

    /// What `content-length` announces. The requests here are never chunked.
    async fn body(&mut self, head: &str) -> io::Result<String> {
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        self.stream.read_exact(&mut body).await?;
        Ok(String::from_utf8(body).unwrap())
    }

    async fn respond1(
        &mut self,
        request: &str,
        status: u16,
        headers: &[(String, String)],
    ) -> io::Result<()> {
        let mut response = format!("HTTP/1.1 {status} Said\r\ncontent-length: 2\r\n");
        for (name, value) in headers {
            response.extend([name, ": ", value, "\r\n"]);
        }
        response += "\r\n";
        if !request.starts_with("HEAD") {
            response += "ok";
        }
        self.stream.write_all(response.as_bytes()).await
    }

    async fn until_closed(&mut self) -> io::Result<()> {
        while self.stream.read_u8().await.is_ok() {}
        Ok(())
    }

    /// A stream is served when the client has ended it.
    async fn http2(mut self) -> io::Result<()> {
        if matches!(*self.fault.lock().unwrap(), Some(Fault::Reset)) {
            self.stream.peek(&mut [0]).await?;
            self.sees(String::new());
            return Ok(());
        }
        accept_http2(&mut self.stream).await?;
        let mut served = 0;
        loop {
            let Frame {
                kind, flags, id, ..
            } = next_frame(&mut self.stream).await?;
            let early = matches!(*self.fault.lock().unwrap(), Some(Fault::AnswerEarly(_)));
            let is_served = id > served && (flags & END_STREAM != 0 || early);
            if is_served && matches!(kind, HEADERS | DATA) {
                served = id;
                if self.stream2(id).await?.is_break() {
                    return self.stream.shutdown().await;
                }
            }
        }
    }

    async fn stream2(&mut self, id: u32) -> io::Result<ControlFlow<()>> {
        let goaway = |last: u32| frame(GOAWAY, 0, &[last.to_be_bytes(), [0; 4]].concat());
        let (bytes, then) = match self.sees(String::new()) {
            None => (response2(id, 200, &[]), ControlFlow::Continue(())),
            Some(Fault::Answer(status, headers)) => {
                (response2(id, status, &headers), ControlFlow::Continue(()))
            }
            Some(Fault::AnswerEarly(status)) => {
                (response2(id, status, &[]), ControlFlow::Continue(()))
            }
            Some(Fault::HalfAnswer) => {
                let mut half = response2(id, 200, &[]);
                half[4] = END_HEADERS;
                half.extend(frame(DATA, id, b"half"));
                (half, ControlFlow::Break(()))
            }
            Some(Fault::Close) => (Vec::new(), ControlFlow::Break(())),
            Some(Fault::Stall) => (Vec::new(), ControlFlow::Continue(())),
            Some(Fault::ResetStream(reason)) => (
                frame(RST_STREAM, id, &reason.to_be_bytes()),
                ControlFlow::Continue(()),
            ),
            Some(Fault::GoAway) => (goaway(0), ControlFlow::Continue(())),
            Some(Fault::GoAwayAfter) => (goaway(id), ControlFlow::Break(())),
            Some(other @ (Fault::Refuse | Fault::Reset)) => unreachable!("{other:?}"),
        };
        self.stream.write_all(&bytes).await?;
        Ok(then)
    }
}

const END_HEADERS: u8 = 4;

/// A response without a body: header fields as literals that are not indexed (RFC 7541 §6.2.2).
fn response2(id: u32, status: u16, headers: &[(String, String)]) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    // `:status` is the eighth name of the static table.
    let mut block = vec![8];
    block.extend(text(&status.to_string()));
    for (name, value) in headers {
        block.push(0);
        block.extend(text(name));
        block.extend(text(value));
    }
    let mut response = frame(HEADERS, id, &block);
    response[4] = END_STREAM | END_HEADERS;
    response
}
