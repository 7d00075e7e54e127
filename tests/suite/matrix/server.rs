//! A server that fails on command: the first request it sees, and no other.

use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::http::{frame, nobody};

/// What the server does with the first request.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Fault {
    /// Nothing listens yet.
    Refuse,
    /// Answers with this status and these headers.
    Answer(u16, Vec<(String, String)>),
    /// Answers with this status before the body has come.
    AnswerEarly(u16),
    /// Answers with half of a body, and closes.
    HalfAnswer,
    /// Reads the request and closes in good order.
    Close,
    /// Closes with the request unread, which resets the connection.
    Reset,
    /// Reads the request and never answers.
    Stall,
    /// HTTP/2: resets the stream for this reason.
    ResetStream(u32),
    /// HTTP/2: goes away, having processed no stream.
    GoAway,
    /// HTTP/2: goes away, having perhaps processed this stream, and closes.
    GoAwayAfter,
}

/// What the server has seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) connections: usize,
    /// The head of each request and its body; of HTTP/2 only their number is known.
    pub(super) requests: Vec<String>,
}

pub(super) struct Server {
    pub(super) address: SocketAddr,
    /// Where the first connection is made to: for a refused one, not the server's address.
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
                self.answer1(&request, status, &[]).await?;
                self.body(&request).await?;
                continue;
            }
            let body = self.body(&request).await?;
            let head = request.clone();
            match self.sees(request + &body) {
                None => self.answer1(&head, 200, &[]).await?,
                Some(Fault::Answer(status, headers)) => {
                    self.answer1(&head, status, &headers).await?;
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

    async fn answer1(
        &mut self,
        request: &str,
        status: u16,
        headers: &[(String, String)],
    ) -> io::Result<()> {
        let mut answer = format!("HTTP/1.1 {status} Said\r\ncontent-length: 2\r\n");
        for (name, value) in headers {
            answer.extend([name, ": ", value, "\r\n"]);
        }
        answer += "\r\n";
        if !request.starts_with("HEAD") {
            answer += "ok";
        }
        self.stream.write_all(answer.as_bytes()).await
    }

    async fn until_closed(&mut self) -> io::Result<()> {
        while self.stream.read_u8().await.is_ok() {}
        Ok(())
    }

    /// Just enough of RFC 9113. A stream is served when the client has ended it.
    async fn http2(mut self) -> io::Result<()> {
        if matches!(*self.fault.lock().unwrap(), Some(Fault::Reset)) {
            self.stream.peek(&mut [0]).await?;
            self.sees(String::new());
            return Ok(());
        }
        self.stream.read_exact(&mut [0; 24]).await?;
        self.stream.write_all(&frame(SETTINGS, 0, &[])).await?;
        let mut served = 0;
        loop {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).await?;
            let [a, b, c, kind, flags, id @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.stream.read_exact(&mut payload).await?;
            let id = u32::from_be_bytes(id);
            let early = matches!(*self.fault.lock().unwrap(), Some(Fault::AnswerEarly(_)));
            match kind {
                SETTINGS | PING if flags & ACK == 0 => {
                    let mut ack = frame(kind, 0, if kind == PING { &payload } else { &[] });
                    ack[4] = ACK;
                    self.stream.write_all(&ack).await?;
                }
                HEADERS | DATA if id > served && (flags & END_STREAM != 0 || early) => {
                    served = id;
                    if self.stream2(id).await?.is_break() {
                        return self.stream.shutdown().await;
                    }
                }
                _ => {}
            }
        }
    }

    async fn stream2(&mut self, id: u32) -> io::Result<ControlFlow<()>> {
        let goaway = |last: u32| frame(GOAWAY, 0, &[last.to_be_bytes(), [0; 4]].concat());
        let (bytes, then) = match self.sees(String::new()) {
            None => (answer2(id, 200, &[]), ControlFlow::Continue(())),
            Some(Fault::Answer(status, headers)) => {
                (answer2(id, status, &headers), ControlFlow::Continue(()))
            }
            Some(Fault::AnswerEarly(status)) => {
                (answer2(id, status, &[]), ControlFlow::Continue(()))
            }
            Some(Fault::HalfAnswer) => {
                let mut half = answer2(id, 200, &[]);
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

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A whole answer without a body: header fields as literals that are not indexed (RFC 7541 §6.2.2).
fn answer2(id: u32, status: u16, headers: &[(String, String)]) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    // `:status` is the eighth name of the static table.
    let mut block = vec![8];
    block.extend(text(&status.to_string()));
    for (name, value) in headers {
        block.push(0);
        block.extend(text(name));
        block.extend(text(value));
    }
    let mut answer = frame(HEADERS, id, &block);
    answer[4] = END_STREAM | END_HEADERS;
    answer
}
