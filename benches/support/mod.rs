//! Loops, clones on threads, the counting allocator and the table.

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::hint::black_box;
use std::pin::pin;
use std::sync::Barrier;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use buttress::Error;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tower::Service;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<std::alloc::System> = &INSTRUMENTED_SYSTEM;

/// A service that answers at once.
#[derive(Clone, Copy, Debug)]
pub struct Noop;

impl Service<u64> for Noop {
    type Response = u64;
    type Error = Error<Infallible>;
    type Future = Ready<Result<u64, Self::Error>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: u64) -> Self::Future {
        ready(Ok(request))
    }
}

/// A service that answers at once, and badly every hundredth time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flaky(u32);

impl Service<u64> for Flaky {
    type Response = u64;
    type Error = Error<()>;
    type Future = Ready<Result<u64, Self::Error>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: u64) -> Self::Future {
        self.0 += 1;
        if self.0 == 100 {
            self.0 = 0;
            return ready(Err(Error::Inner(())));
        }
        ready(Ok(request))
    }
}

/// Bytes in use.
pub fn heap() -> u64 {
    let stats = ALLOCATOR.stats();
    (stats.bytes_allocated as u64) - (stats.bytes_deallocated as u64)
}

/// Polls a future that never waits.
#[inline(always)]
pub fn block_on<F: Future>(future: F) -> F::Output {
    let mut cx = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut cx) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("the benchmark's services answer at once"),
    }
}

/// One measured line.
struct Row {
    name: String,
    nanos: f64,
    allocations: f64,
    threads: usize,
}

pub struct Table {
    rows: Vec<Row>,
    _runtime: tokio::runtime::Runtime,
}

const CALLS: u32 = 200_000;
const ROUNDS: usize = 15;

impl Table {
    pub fn new() -> Self {
        let _runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
        println!(
            "{:36} {:>9} {:>9} {:>13} {:>8}",
            "layer", "ns", "allocs", "ns, 2 threads", "scaling"
        );
        Self {
            rows: Vec::new(),
            _runtime,
        }
    }

    /// A service that is polled ready and called.
    pub fn service<S>(&mut self, name: &str, make: impl Fn() -> S + Sync)
    where
        S: Service<u64, Response = u64>,
    {
        self.row(name, || {
            let mut service = make();
            move || {
                let mut cx = Context::from_waker(Waker::noop());
                black_box(service.poll_ready(&mut cx).is_ready());
                black_box(block_on(service.call(black_box(7))).ok());
            }
        });
    }

    /// Anything that can be repeated; `make` runs on each thread.
    pub fn row<F: FnMut()>(&mut self, name: &str, make: impl Fn() -> F + Sync) {
        // Like the standard harness: a word on the command line picks the rows that contain it.
        let wanted = std::env::args()
            .skip(1)
            .filter(|word| !word.starts_with('-'))
            .all(|word| name.contains(&word));
        if !wanted {
            return;
        }
        let (one, allocations) = measure(&make, 1);
        let (two, _) = measure(&make, 2);
        // Two threads make twice the calls: their aggregate against one thread's.
        println!(
            "{name:36} {one:9.1} {allocations:9.2} {two:13.1} {:7.2}×",
            2.0 * one / two
        );
        for (threads, nanos) in [(1, one), (2, two)] {
            self.rows.push(Row {
                name: name.to_owned(),
                nanos,
                allocations,
                threads,
            });
        }
    }

    pub fn finish(self) {
        let rows: Vec<String> = self
            .rows
            .iter()
            .map(|row| {
                format!(
                    r#"{{"name":"{}","ns":{:.2},"allocs":{:.3},"threads":{}}}"#,
                    row.name, row.nanos, row.allocations, row.threads
                )
            })
            .collect();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/target/overhead.json");
        let written = std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/target"))
            .and_then(|()| std::fs::write(path, format!("[{}]\n", rows.join(",\n "))));
        match written {
            Ok(()) => println!("\nwritten to {path}"),
            Err(error) => eprintln!("cannot write {path}: {error}"),
        }
    }
}

/// Nanoseconds a call of one thread, and allocations a call: medians of many rounds.
fn measure<F: FnMut()>(make: &(impl Fn() -> F + Sync), threads: usize) -> (f64, f64) {
    let barrier = Barrier::new(threads);
    let results: Vec<(Vec<f64>, f64)> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let mut call = make();
                    for _ in 0..CALLS / 4 {
                        call();
                    }
                    let mut nanos = Vec::with_capacity(ROUNDS);
                    barrier.wait();
                    let region = Region::new(ALLOCATOR);
                    for _ in 0..ROUNDS {
                        let started = Instant::now();
                        for _ in 0..CALLS {
                            call();
                        }
                        nanos.push(started.elapsed().as_nanos() as f64 / f64::from(CALLS));
                    }
                    let allocations =
                        region.change().allocations as f64 / (f64::from(CALLS) * ROUNDS as f64);
                    (nanos, allocations)
                })
            })
            .collect();
        running
            .into_iter()
            .map(|thread| thread.join().expect("a thread"))
            .collect()
    });
    let mut nanos: Vec<f64> = results
        .iter()
        .flat_map(|(nanos, _)| nanos.clone())
        .collect();
    nanos.sort_by(f64::total_cmp);
    (nanos[nanos.len() / 2], results[0].1)
}
