//! Locks, atomics and shards: std's, or loom's under `--cfg buttress_loom`.

#[cfg(buttress_loom)]
pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(buttress_loom))]
pub(crate) use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(buttress_loom)]
use loom::sync as imp;
#[cfg(not(buttress_loom))]
use std::sync as imp;

#[cfg(buttress_loom)]
pub(crate) use loom::sync::MutexGuard;
#[cfg(not(buttress_loom))]
pub(crate) use std::sync::MutexGuard;

/// A mutex without poisoning: it guards machines, which are never left in an inconsistent state.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(imp::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(imp::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The number of shards of a handle: one per core, at most eight.
pub(crate) fn shard_count() -> usize {
    static COUNT: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    if cfg!(buttress_loom) {
        return 2;
    }
    *COUNT.get_or_init(|| {
        std::thread::available_parallelism()
            .map_or(1, std::num::NonZero::get)
            .next_power_of_two()
            .min(8)
    })
}

/// The shard of this thread, below `count`.
pub(crate) fn shard_index(count: usize) -> usize {
    use std::cell::Cell;
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    let mine = MINE.get();
    let mine = if mine == usize::MAX {
        let mine = NEXT.fetch_add(1, Ordering::Relaxed) & (usize::MAX >> 1);
        MINE.set(mine);
        mine
    } else {
        mine
    };
    // `count` is a power of two.
    mine & (count - 1)
}

/// A value in cache lines of its own, to avoid false sharing. Two lines, because they are fetched in pairs.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Apart<T>(pub(crate) T);
