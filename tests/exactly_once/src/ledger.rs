//! The log of effects, in this process, which outlives all servers. One line each, over a socket, acknowledged.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream};

/// A payment that was made.
#[derive(Clone, Debug)]
pub(crate) struct Effect {
    pub(crate) key: u64,
    pub(crate) run: u32,
    /// `server#n`: the n-th of this server process.
    pub(crate) id: String,
    pub(crate) at: Instant,
}

impl Effect {
    /// The process that made it.
    pub(crate) fn server(&self) -> &str {
        self.id.split('#').next().unwrap_or_default()
    }
}

#[derive(Clone, Default)]
pub(crate) struct Ledger(Arc<Mutex<Vec<Effect>>>);

impl Ledger {
    /// Reads the lines of the servers, in its own thread, so that acknowledgements are not delayed.
    pub(crate) fn open(&self) -> io::Result<SocketAddr> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let ledger = self.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::spawn(move || {
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener)?;
                loop {
                    let (stream, _) = listener.accept().await?;
                    let ledger = ledger.clone();
                    tokio::spawn(async move { ledger.listen(stream).await });
                }
                #[expect(unreachable_code, reason = "says what is returned")]
                io::Result::Ok(())
            })
        });
        Ok(address)
    }

    async fn listen(&self, stream: TcpStream) -> io::Result<()> {
        let _ = stream.set_nodelay(true);
        let mut stream = BufStream::new(stream);
        let mut line = String::new();
        // A line without an end is from a server that was killed while it wrote: nothing was paid.
        while stream.read_line(&mut line).await? > 0 && line.ends_with('\n') {
            let effect = parsed(&line).ok_or(io::ErrorKind::InvalidData)?;
            crate::locked(&self.0).push(effect);
            line.clear();
            stream.write_all(b"ok\n").await?;
            stream.flush().await?;
        }
        Ok(())
    }

    pub(crate) fn effects(&self) -> Vec<Effect> {
        crate::locked(&self.0).clone()
    }
}

fn parsed(line: &str) -> Option<Effect> {
    let mut words = line.split_whitespace();
    Some(Effect {
        key: words.next()?.parse().ok()?,
        run: words.next()?.parse().ok()?,
        id: words.next()?.to_owned(),
        at: Instant::now(),
    })
}

/// The server's end of it.
pub(crate) struct Pen {
    ledger: SocketAddr,
    idle: Mutex<Vec<BufStream<TcpStream>>>,
}

impl Pen {
    pub(crate) fn new(ledger: SocketAddr) -> Self {
        Self {
            ledger,
            idle: Mutex::default(),
        }
    }

    /// Pays. The payment is made when this returns, and may be made if this is cut off.
    pub(crate) async fn write(&self, key: u64, run: u32, id: &str) -> io::Result<()> {
        let idle = || crate::locked(&self.idle);
        let kept = idle().pop();
        let mut stream = if let Some(stream) = kept {
            stream
        } else {
            let stream = TcpStream::connect(self.ledger).await?;
            stream.set_nodelay(true)?;
            BufStream::new(stream)
        };
        stream
            .write_all(format!("{key} {run} {id}\n").as_bytes())
            .await?;
        stream.flush().await?;
        let mut word = String::new();
        stream.read_line(&mut word).await?;
        if word != "ok\n" {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        idle().push(stream);
        Ok(())
    }
}
