//! The servers: processes that are killed at any time and started again, or one in this process that nobody kills.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::process::{SPEC, Spec};

/// The addresses of the servers, and the ones that were killed.
#[derive(Clone)]
pub(crate) struct Fleet {
    places: Arc<[Mutex<SocketAddr>]>,
    kills: Arc<Mutex<HashMap<String, Instant>>>,
}

impl Fleet {
    /// One running server.
    pub(crate) fn of(address: SocketAddr) -> Self {
        Self::at(vec![address])
    }

    fn at(addresses: Vec<SocketAddr>) -> Self {
        Self {
            places: addresses.into_iter().map(Mutex::new).collect(),
            kills: Arc::default(),
        }
    }

    /// Starts this number of processes.
    pub(crate) async fn start(spec: &Spec, count: usize) -> io::Result<(Self, Vec<Process>)> {
        let mut processes = Vec::new();
        for place in 0..count {
            processes.push(Process::start(spec, place, 0).await?);
        }
        let addresses = processes.iter().map(|process| process.address).collect();
        Ok((Self::at(addresses), processes))
    }

    /// Any of them, running or not.
    pub(crate) fn any(&self, draw: &mut StdRng) -> SocketAddr {
        let place = &self.places[draw.random_range(0..self.places.len())];
        *crate::locked(place)
    }

    /// When each process was killed, by its name.
    pub(crate) fn kills(&self) -> HashMap<String, Instant> {
        crate::locked(&self.kills).clone()
    }

    /// Kills a random process after about `every` keys were begun, and starts another in its place. `begun` has an entry for each
    /// key that was begun.
    pub(crate) async fn kill(
        self,
        spec: Spec,
        mut processes: Vec<Process>,
        every: usize,
        mut begun: mpsc::UnboundedReceiver<()>,
    ) -> io::Result<Vec<Process>> {
        let mut draw = StdRng::seed_from_u64(spec.seed);
        let mut left = every;
        while begun.recv().await.is_some() {
            left -= 1;
            if left > 0 {
                continue;
            }
            left = draw.random_range(every / 2..=every * 3 / 2).max(1);
            // At any point of its work.
            sleep(Duration::from_micros(draw.random_range(0..10_000))).await;
            let place = draw.random_range(0..processes.len());
            let generation = processes[place].generation + 1;
            self.end(&mut processes[place]).await?;
            processes[place] = Process::start(&spec, place, generation).await?;
            let mut address = crate::locked(&self.places[place]);
            *address = processes[place].address;
        }
        Ok(processes)
    }

    async fn end(&self, process: &mut Process) -> io::Result<()> {
        crate::locked(&self.kills).insert(process.name(), Instant::now());
        process.child.kill().await
    }
}

/// A server process. It is killed when this is dropped.
pub(crate) struct Process {
    child: Child,
    place: usize,
    generation: u32,
    address: SocketAddr,
}

impl Process {
    async fn start(spec: &Spec, place: usize, generation: u32) -> io::Result<Self> {
        let mut spec = spec.clone();
        spec.name = name(place, generation);
        let mut child = Command::new(std::env::current_exe()?)
            .env(SPEC, serde_json::to_string(&spec)?)
            .env("RUST_BACKTRACE", "0")
            // It ends when its input is closed, so it ends with this process.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let out = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line).await?;
        let address = line
            .trim()
            .parse()
            .map_err(|_| io::Error::other(format!("a server did not start: {line:?}")))?;
        Ok(Self {
            child,
            place,
            generation,
            address,
        })
    }

    /// Ends it after its handlers have ended, so that none of their effects is missed.
    pub(crate) async fn finish(mut self) -> io::Result<()> {
        self.child.wait().await.map(drop)
    }

    fn name(&self) -> String {
        name(self.place, self.generation)
    }
}

fn name(place: usize, generation: u32) -> String {
    format!("{place}.{generation}")
}
