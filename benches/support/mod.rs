//! Services that respond immediately, the loops that call them, and the table.
//!
//! A round is long enough for its clock and short enough to fit between two time slices of a busy machine; a figure is the
//! median of many rounds. With two threads the slower one counts, and only rounds in which both ran at the same time.

#![allow(dead_code, reason = "shared by benchmarks that use a part each")]
#![allow(
    clippy::disallowed_methods,
    clippy::inline_always,
    reason = "it is the time of the loop itself that is measured, without a frame of ours in it"
)]

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::hint::{black_box, spin_loop};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use buttress::Error;
use tower::Service;

/// A service that responds immediately.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Noop;

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

/// A service that responds immediately; every hundredth response is an error.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faulty {
    calls: u32,
}

impl Service<u64> for Faulty {
    type Response = u64;
    type Error = Error<u64>;
    type Future = Ready<Result<u64, Self::Error>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: u64) -> Self::Future {
        self.calls += 1;
        if self.calls == 100 {
            self.calls = 0;
            return ready(Err(Error::Inner(request)));
        }
        ready(Ok(request))
    }
}

/// Polls a future that does not wait for anything but, perhaps, another thread's lock.
#[inline(always)]
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let mut cx = Context::from_waker(Waker::noop());
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
        spin_loop();
    }
}

/// Ready, call, await, as a caller does.
#[inline(always)]
pub(crate) fn call<Req, S: Service<Req>>(service: &mut S, request: Req) {
    let mut cx = Context::from_waker(Waker::noop());
    while black_box(service.poll_ready(&mut cx).is_pending()) {
        spin_loop();
    }
    black_box(block_on(service.call(black_box(request))).ok());
}

/// By how much the future of `S` is larger than that of the service it wraps.
pub(crate) const fn extra_bytes<Req, S: Service<Req>, Bare: Service<Req>>() -> usize {
    size_of::<S::Future>().saturating_sub(size_of::<Bare::Future>())
}

/// One measured line.
struct Row {
    name: String,
    nanos: f64,
    allocations: f64,
    threads: usize,
}

pub(crate) struct Table {
    rows: Vec<Row>,
    /// The present group of rows, and its first row's time.
    group: Option<(String, Option<f64>)>,
    runtime: tokio::runtime::Runtime,
}

const ROUND: Duration = Duration::from_millis(1);
const ROUNDS: usize = 101;
/// How long one row may take for its rounds.
const PATIENCE: Duration = Duration::from_secs(2);
const PREPARED: u32 = 64;

impl Table {
    pub(crate) fn new() -> Self {
        // With its own thread, so that timers fire while other threads spin.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_time()
            .build()
            .expect("a runtime");
        println!(
            "{:44} {:>9} {:>7} {:>7} {:>13} {:>8}",
            "layer", "ns", "allocs", "bytes", "ns, 2 threads", "scaling"
        );
        Self {
            rows: Vec::new(),
            group: None,
            runtime,
        }
    }

    /// The runtime of all calls, for values that must be created inside it.
    pub(crate) fn enter(&self) -> tokio::runtime::EnterGuard<'_> {
        self.runtime.enter()
    }

    /// The rows that follow do the same thing. Each shows how many times as long as the first one it takes.
    pub(crate) fn group(&mut self, name: &str) {
        println!("\n{name}");
        self.group = Some((name.to_owned(), None));
    }

    /// A service around [`Noop`] that is polled ready and called.
    pub(crate) fn service<S>(&mut self, name: &str, make: impl Fn() -> S + Sync)
    where
        S: Service<u64, Response = u64>,
    {
        self.service_around::<Noop, S>(name, make);
    }

    /// The same, around another service.
    pub(crate) fn service_around<Bare, S>(&mut self, name: &str, make: impl Fn() -> S + Sync)
    where
        Bare: Service<u64>,
        S: Service<u64, Response = u64>,
    {
        let bytes = extra_bytes::<u64, S, Bare>();
        self.sized(name, Some(bytes), || {
            let mut service = black_box(make());
            move || call(&mut service, 7)
        });
    }

    /// A loop body; `make` runs on each thread.
    pub(crate) fn row<F: FnMut()>(&mut self, name: &str, make: impl Fn() -> F + Sync) {
        self.sized(name, None, make);
    }

    /// The same, whose future takes so many bytes more than the bare one.
    pub(crate) fn sized<F: FnMut()>(
        &mut self,
        name: &str,
        bytes: Option<usize>,
        make: impl Fn() -> F + Sync,
    ) {
        self.measured(name, bytes, || {
            let mut call = make();
            move |calls| {
                let started = Instant::now();
                for _ in 0..calls {
                    call();
                }
                started.elapsed()
            }
        });
    }

    /// Calls that use up something, whose making is neither timed nor counted.
    pub(crate) fn prepared<T, F: FnMut(T)>(
        &mut self,
        name: &str,
        bytes: Option<usize>,
        prepare: impl Fn() -> T + Sync,
        make: impl Fn() -> F + Sync,
    ) {
        let prepare = &prepare;
        self.measured(name, bytes, || {
            let mut call = make();
            let mut ready = Vec::with_capacity(PREPARED as usize);
            move |mut calls| {
                let mut took = Duration::ZERO;
                while calls > 0 {
                    let some = calls.min(PREPARED);
                    allocation_counter::opt_out(|| ready.extend((0..some).map(|_| prepare())));
                    let started = Instant::now();
                    for prepared in ready.drain(..) {
                        call(prepared);
                    }
                    took += started.elapsed();
                    calls -= some;
                }
                took
            }
        });
    }

    fn measured<F: FnMut(u32) -> Duration>(
        &mut self,
        name: &str,
        bytes: Option<usize>,
        make: impl Fn() -> F + Sync,
    ) {
        let full = match &self.group {
            Some((group, _)) => format!("{group}: {name}"),
            None => name.to_owned(),
        };
        if !wanted(&full) {
            return;
        }
        let handle = self.runtime.handle();
        let (calls, allocations) = on_a_thread(handle, || calibrate(make()));
        let one = measure(&make, handle, calls, 1);
        let two = measure(&make, handle, calls, 2);
        let bytes = bytes.map_or(String::new(), |bytes| bytes.to_string());
        let label = match self.group {
            Some(_) => format!("  {name}"),
            None => full.clone(),
        };
        print!("{label:44} {one:9.1} {allocations:7.2} {bytes:>7}");
        if two.is_nan() {
            print!(" {:>13} {:>8}", "too busy", "");
        } else {
            // Two threads make twice the calls: their aggregate against one thread's.
            print!(" {two:13.1} {:7.2}×", 2.0 * one / two);
        }
        match &mut self.group {
            Some((_, Some(first))) => println!(" {:6.1}×", one / *first),
            Some((_, first @ None)) => {
                *first = Some(one);
                println!(" {:6.1}×", 1.0);
            }
            None => println!(),
        }
        for (threads, nanos) in [(1, one), (2, two)] {
            if nanos.is_nan() {
                continue;
            }
            self.rows.push(Row {
                name: full.clone(),
                nanos,
                allocations,
                threads,
            });
        }
    }

    /// The memory that `use_it` leaves allocated on two threads, one after the other, for each thing.
    pub(crate) fn memory(&self, name: &str, things: u64, use_it: impl Fn() + Sync) {
        if !wanted(name) {
            return;
        }
        let allocated: i64 = (0..2)
            .map(|_| {
                on_a_thread(self.runtime.handle(), || {
                    allocation_counter::measure(&use_it).bytes_current
                })
            })
            .sum();
        println!("{name:44} {:>9}", allocated.unsigned_abs() / things);
    }

    /// Writes all rows to the folder of build results, as JSON.
    pub(crate) fn finish(self, file: &str) {
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
        write(file, &rows);
    }
}

/// The folder of build results, `target` unless set otherwise. A benchmark runs in `target/release/deps`.
pub(crate) fn target() -> PathBuf {
    let program = std::env::current_exe().expect("the path of this program");
    let target = program.ancestors().nth(3).expect("a program of cargo");
    target.to_owned()
}

/// Writes rows to a file in the folder of build results, as JSON.
pub(crate) fn write(file: &str, rows: &[String]) {
    let path = target().join(file);
    let written = std::fs::write(&path, format!("[{}]\n", rows.join(",\n ")));
    match written {
        Ok(()) => println!("\nwritten to {}", path.display()),
        Err(error) => eprintln!("cannot write {}: {error}", path.display()),
    }
}

/// Like the standard harness: words on the command line pick the rows that contain them all, or with `--exact` one row.
fn wanted(name: &str) -> bool {
    let exact = std::env::args().any(|argument| argument == "--exact");
    std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .all(|word| {
            if exact {
                name == word
            } else {
                name.contains(&word)
            }
        })
}

fn on_a_thread<T: Send>(handle: &tokio::runtime::Handle, run: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let _entered = handle.enter();
            run()
        });
        thread.join().expect("a thread")
    })
}

/// How many calls make a round, and the allocations of a call.
fn calibrate(mut run: impl FnMut(u32) -> Duration) -> (u32, f64) {
    let mut calls = PREPARED;
    while run(calls) < ROUND {
        calls *= 2;
    }
    let counted = allocation_counter::measure(|| {
        run(calls);
    });
    #[expect(clippy::cast_precision_loss, reason = "a few millions")]
    let allocations = counted.count_total as f64 / f64::from(calls);
    (calls, allocations)
}

/// The result of one thread for a round.
struct Round {
    started: Instant,
    ended: Instant,
    took: Duration,
}

/// Nanoseconds a call of one thread: the median of many rounds. NaN if threads hardly ever ran at the same time.
fn measure<F: FnMut(u32) -> Duration>(
    make: &(impl Fn() -> F + Sync),
    handle: &tokio::runtime::Handle,
    calls: u32,
    threads: usize,
) -> f64 {
    let (arrived, last) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX));
    // On a busy machine two threads seldom run at the same time.
    let rounds = if threads == 1 { ROUNDS } else { 5 * ROUNDS };
    let begun = Instant::now();
    let results: Vec<Vec<Round>> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let _entered = handle.enter();
                    let mut run = make();
                    run(calls);
                    let mut seen = Vec::with_capacity(rounds);
                    for round in 1..=rounds {
                        if begun.elapsed() > PATIENCE {
                            last.fetch_min(round, Ordering::AcqRel);
                        }
                        arrived.fetch_add(1, Ordering::AcqRel);
                        wait_for(&arrived, round * threads);
                        if last.load(Ordering::Acquire) <= round {
                            break;
                        }
                        let started = Instant::now();
                        let took = run(calls);
                        seen.push(Round {
                            started,
                            ended: Instant::now(),
                            took,
                        });
                    }
                    seen
                })
            })
            .collect();
        running
            .into_iter()
            .map(|thread| thread.join().expect("a thread"))
            .collect()
    });
    let rounds = results.iter().map(Vec::len).min().unwrap_or(0);
    let mut slowest: Vec<Duration> = (0..rounds)
        .map(|round| results.iter().map(move |thread| &thread[round]))
        .filter(|threads| ran_together(threads.clone()))
        .filter_map(|threads| threads.map(|thread| thread.took).max())
        .collect();
    if slowest.len() < 10 {
        return f64::NAN;
    }
    slowest.sort();
    slowest[slowest.len() / 2].as_secs_f64() * 1e9 / f64::from(calls)
}

/// Not a lock, from which one thread would wake up later than the other.
fn wait_for(arrived: &AtomicUsize, all: usize) {
    for spins in 0_u32.. {
        if arrived.load(Ordering::Acquire) >= all {
            return;
        }
        // On a busy machine the other one may be waiting for this processor.
        if spins % 10_000 == 9_999 {
            std::thread::yield_now();
        }
        spin_loop();
    }
}

/// Two threads that share a processor run one after the other, and never meet.
fn ran_together<'a>(threads: impl Iterator<Item = &'a Round> + Clone) -> bool {
    let both = threads
        .clone()
        .map(|thread| thread.ended)
        .min()
        .zip(threads.clone().map(|thread| thread.started).max())
        .map_or(Duration::ZERO, |(first_end, last_start)| {
            first_end.saturating_duration_since(last_start)
        });
    threads
        .map(|thread| thread.ended.saturating_duration_since(thread.started))
        .all(|took| both >= took.mul_f64(0.8))
}
