//! All clients of a trial: each key is sent many times concurrently, until it has its response.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::client::{Connections, Heard, leave};
use crate::fleet::Fleet;
use crate::judge::Witness;
use crate::plan::mixed;

/// The size of the load.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) keys: u64,
    pub(crate) duplicates: u32,
    /// The number of concurrent requests.
    pub(crate) at_once: usize,
    /// The approximate number of processes that are killed.
    pub(crate) kills: usize,
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            keys,
            duplicates,
            at_once,
            kills,
        } = self;
        write!(
            f,
            "{keys} keys a store, each sent {duplicates} times, {at_once} requests at once, {kills} kills"
        )
    }
}

/// The counts of a trial.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) requests: AtomicU64,
    pub(crate) disconnects: AtomicU64,
    pub(crate) conflicts: AtomicU64,
    pub(crate) unavailable: AtomicU64,
    pub(crate) dead: AtomicU64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        write!(
            f,
            "requests={} disconnects={} conflicts={} unavailable={} dead={}",
            of(&self.requests),
            of(&self.disconnects),
            of(&self.conflicts),
            of(&self.unavailable),
            of(&self.dead)
        )
    }
}

/// All clients.
pub(crate) struct Crowd {
    pub(crate) seed: u64,
    pub(crate) size: Size,
    fleet: Fleet,
    connections: Connections,
    room: Arc<Semaphore>,
    pub(crate) counts: Counts,
    witnesses: Vec<Mutex<Witness>>,
}

/// How many of a key's duplicates retry until they have its response. The others stop at a 409.
const PATIENT: u32 = 4;
/// How long a key may have no response before it counts as lost.
const LOST: Duration = Duration::from_secs(60);

impl Crowd {
    pub(crate) fn new(seed: u64, fleet: Fleet, size: Size) -> Arc<Self> {
        Arc::new(Self {
            seed,
            size,
            fleet,
            connections: Connections::default(),
            room: Arc::new(Semaphore::new(size.at_once)),
            counts: Counts::default(),
            witnesses: (0..size.keys)
                .map(|_| Mutex::new(Witness::default()))
                .collect(),
        })
    }

    /// Sends everything, and reports each key that it begins.
    pub(crate) async fn run(
        self: &Arc<Self>,
        begun: mpsc::UnboundedSender<()>,
    ) -> io::Result<Duration> {
        let (start, size) = (Instant::now(), self.size);
        let mut duplicates = JoinSet::new();
        for key in 0..size.keys {
            // Concurrently, or the test would prove nothing.
            let room = Arc::clone(&self.room).acquire_many_owned(size.duplicates);
            let mut room = room.await.map_err(io::Error::other)?;
            let _ = begun.send(());
            for duplicate in 0..size.duplicates {
                let crowd = Arc::clone(self);
                let own = room.split(1);
                duplicates.spawn(async move { crowd.ask(key, duplicate, own).await });
            }
            while let Some(done) = duplicates.try_join_next() {
                done?;
            }
        }
        while let Some(done) = duplicates.join_next().await {
            done?;
        }
        Ok(start.elapsed())
    }

    pub(crate) fn witnesses(&self) -> Vec<Witness> {
        let each = self.witnesses.iter();
        each.map(|witness| crate::locked(witness).clone()).collect()
    }

    /// One client, until it has its response.
    async fn ask(&self, key: u64, duplicate: u32, room: Option<OwnedSemaphorePermit>) {
        let draw = StdRng::seed_from_u64(mixed(&[self.seed, key, duplicate.into(), 2]));
        if timeout(LOST, self.insist(key, duplicate < PATIENT, room, draw))
            .await
            .is_err()
        {
            self.witness(key, |witness| {
                witness.wrong.push(format!("no response within {LOST:?}"));
            });
        }
    }

    async fn insist(
        &self,
        key: u64,
        patient: bool,
        mut room: Option<OwnedSemaphorePermit>,
        mut draw: StdRng,
    ) {
        // Some at once, some while others run, some when they are done.
        if draw.random_bool(0.5) {
            sleep(Duration::from_micros(draw.random_range(0..20_000))).await;
        }
        let mut pause = Duration::from_millis(10);
        loop {
            let to = self.fleet.any(&mut draw);
            let place = match room.take() {
                Some(place) => Some(place),
                None => Arc::clone(&self.room).acquire_owned().await.ok(),
            };
            self.counts.requests.fetch_add(1, Ordering::Relaxed);
            if draw.random_bool(0.08) {
                let _ = leave(to, key, &mut draw).await;
                self.counts.disconnects.fetch_add(1, Ordering::Relaxed);
                if !patient && draw.random_bool(0.5) {
                    return;
                }
            } else {
                let count = match self.connections.ask(to, key).await {
                    Heard::Answer(answer) => {
                        return self.witness(key, |witness| witness.hears(answer));
                    }
                    Heard::Wrong(what) => {
                        return self.witness(key, |witness| witness.wrong.push(what));
                    }
                    Heard::UnderWay if !patient => {
                        self.counts.conflicts.fetch_add(1, Ordering::Relaxed);
                        return;
                    }
                    Heard::UnderWay => &self.counts.conflicts,
                    Heard::Unavailable => &self.counts.unavailable,
                    Heard::Nothing => &self.counts.dead,
                };
                count.fetch_add(1, Ordering::Relaxed);
            }
            // Do not hold a permit while waiting.
            drop(place);
            sleep(pause.mul_f64(draw.random_range(0.5..1.5))).await;
            pause = (pause * 2).min(Duration::from_millis(250));
        }
    }

    fn witness(&self, key: u64, tells: impl FnOnce(&mut Witness)) {
        if let Some(witness) = usize::try_from(key)
            .ok()
            .and_then(|at| self.witnesses.get(at))
        {
            tells(&mut crate::locked(witness));
        }
    }
}
