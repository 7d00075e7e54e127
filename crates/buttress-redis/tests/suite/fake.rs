//! A server with scripted responses.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// The response to a command on the connection with this number, counted from 1. With `None` there is no response.
type Responses = dyn Fn(usize, &str) -> Option<String> + Send + Sync;

pub(super) struct Fake {
    pub(super) url: String,
    accepted: Arc<AtomicUsize>,
    commands: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    /// `responses` gets every command that is not part of connecting.
    pub(super) async fn start(
        responses: impl Fn(usize, &str) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let accepted = Arc::new(AtomicUsize::new(0));
        let commands = Arc::new(Mutex::new(Vec::new()));
        let responses: Arc<Responses> = Arc::new(responses);
        let (count, seen) = (Arc::clone(&accepted), Arc::clone(&commands));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let number = count.fetch_add(1, Ordering::SeqCst) + 1;
                let (responses, seen) = (Arc::clone(&responses), Arc::clone(&seen));
                tokio::spawn(serve(stream, number, responses, seen));
            }
        });
        Self {
            url,
            accepted,
            commands,
        }
    }

    pub(super) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// The commands so far that are not part of connecting.
    pub(super) fn commands(&self) -> Vec<String> {
        self.commands.lock().unwrap().clone()
    }
}

async fn serve(
    stream: TcpStream,
    number: usize,
    responses: Arc<Responses>,
    seen: Arc<Mutex<Vec<String>>>,
) {
    let mut stream = BufReader::new(stream);
    while let Some(command) = read(&mut stream).await {
        let response = match &*command {
            "CLIENT" => Some("+OK\r\n".to_owned()),
            "CONFIG" => Some("*2\r\n$16\r\nmaxmemory-policy\r\n$10\r\nnoeviction\r\n".to_owned()),
            "AUTH" => responses(number, &command),
            _ => {
                seen.lock().unwrap().push(command.clone());
                responses(number, &command)
            }
        };
        if let Some(response) = response {
            if stream.write_all(response.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

/// The name of the next command.
async fn read(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let count = number(stream, '*').await?;
    let mut name = None;
    for _ in 0..count {
        let length = number(stream, '$').await?;
        let mut word = vec![0; length + 2];
        stream.read_exact(&mut word).await.ok()?;
        word.truncate(length);
        name.get_or_insert_with(|| String::from_utf8_lossy(&word).to_uppercase());
    }
    name
}

async fn number(stream: &mut BufReader<TcpStream>, of: char) -> Option<usize> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    line.strip_prefix(of)?.trim().parse().ok()
}
