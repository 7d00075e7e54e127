//! Clocks that were set back, damaged records and failing disks.

use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Barrier, Mutex};
use std::task::Poll;

use redb::StorageBackend;

use super::database::RECORDS;
use super::*;
use crate::idempotency::record::Fingerprint;
use crate::idempotency::store::EntryState;

const SECOND: Duration = Duration::from_secs(1);
const LEASE: Duration = Duration::from_secs(10);
const TTL: Duration = Duration::from_secs(100);

/// A disk in memory that outlives those who use it.
#[derive(Clone, Debug, Default)]
struct Disk {
    bytes: Arc<Mutex<Vec<u8>>>,
    fault: Arc<AtomicU8>,
    hangs: Hangs,
}

/// Synchronizes a hanging write with the test: when it starts to hang, and when it may continue.
#[derive(Clone, Debug)]
struct Hangs(Arc<Barrier>);

impl Default for Hangs {
    fn default() -> Self {
        Self(Arc::new(Barrier::new(2)))
    }
}

const FULL: u8 = 1;
const BROKEN: u8 = 2;
const PANICS: u8 = 3;
/// Once.
const HANGS: u8 = 4;

impl Disk {
    fn open(&self, wall: SystemTime) -> Result<FileStore, StoreError> {
        let disk = self.clone();
        let opening = Box::new(move || {
            let opened = redb::Builder::new().create_with_backend(disk.clone());
            opened.map_err(StoreError::unavailable)
        });
        FileStore::over("disk".into(), opening, MAX_BYTES, wall)
    }

    fn set(&self, fault: u8) {
        self.fault.store(fault, Ordering::SeqCst);
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.bytes.lock().unwrap().len() as u64)
    }

    fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, io::Error> {
        let start = usize::try_from(offset).unwrap();
        Ok(self.bytes.lock().unwrap()[start..start + len].to_vec())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        let len = usize::try_from(len).unwrap();
        self.bytes.lock().unwrap().resize(len, 0);
        Ok(())
    }

    fn sync_data(&self, _eventual: bool) -> Result<(), io::Error> {
        match self.fault.load(Ordering::SeqCst) {
            0 => Ok(()),
            FULL => Err(io::ErrorKind::StorageFull.into()),
            BROKEN => Err(io::Error::other("scripted failure")),
            HANGS => {
                self.set(0);
                self.hangs.0.wait();
                self.hangs.0.wait();
                Ok(())
            }
            _ => panic!("scripted panic"),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        if self.fault.load(Ordering::SeqCst) == FULL {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let start = usize::try_from(offset).unwrap();
        self.bytes.lock().unwrap()[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }
}

fn key(number: u8) -> RecordKey {
    RecordKey([number; 32])
}

fn claim() -> Claim {
    Claim::new(Fingerprint([0; 32]), LEASE, TTL)
}

fn day(number: u32) -> SystemTime {
    SystemTime::UNIX_EPOCH + number * Duration::from_secs(86_400)
}

/// Completes this key.
async fn done(store: &FileStore, number: u8) {
    let holder = claim();
    let key = key(number);
    store.begin(&key, &holder).await.unwrap();
    let taken = store.complete(&key, holder.token, "yes".into(), TTL);
    assert_eq!(taken.await.unwrap(), Ended::Taken);
}

async fn begun(store: &FileStore, number: u8) -> Begun {
    store.begin(&key(number), &claim()).await.unwrap()
}

const YES: Begun = Begun::Done(Bytes::from_static(b"yes"));
const NEW: Begun = Begun::Started { run: 1 };

#[tokio::test(start_paused = true)]
async fn a_wall_clock_set_back_does_not_turn_time_back() {
    let disk = Disk::default();
    let store = disk.open(day(1000)).unwrap();
    done(&store, 1).await;
    tokio::time::advance(TTL / 2).await;
    done(&store, 2).await;
    drop(store);
    // Time continues from the last write, whatever the wall clock shows.
    for wall in [day(999), SystemTime::UNIX_EPOCH - SECOND, day(1000)] {
        let store = disk.open(wall).unwrap();
        assert_eq!(begun(&store, 1).await, YES, "{wall:?}");
    }
    let store = disk.open(day(1)).unwrap();
    tokio::time::advance(49 * SECOND).await;
    assert_eq!(begun(&store, 1).await, YES);
    tokio::time::advance(SECOND).await;
    assert_eq!(begun(&store, 1).await, NEW);
    assert_eq!(begun(&store, 2).await, YES);
}

#[tokio::test(start_paused = true)]
async fn the_time_while_the_file_was_closed_counts() {
    let disk = Disk::default();
    let store = disk.open(day(1000)).unwrap();
    done(&store, 1).await;
    drop(store);
    let store = disk.open(day(1000) + TTL - SECOND).unwrap();
    assert_eq!(begun(&store, 1).await, YES);
    drop(store);
    let store = disk.open(day(1000) + TTL).unwrap();
    assert_eq!(begun(&store, 1).await, NEW);
    tokio::time::advance(9 * SECOND).await;
    assert_eq!(begun(&store, 1).await, Begun::Running);
    tokio::time::advance(SECOND).await;
    assert_eq!(begun(&store, 1).await, Begun::Started { run: 2 });
}

#[tokio::test(start_paused = true)]
async fn age_and_end_of_the_lease_are_known_after_a_restart() {
    let disk = Disk::default();
    let store = disk.open(day(1000)).unwrap();
    let found = async |store: &FileStore| store.find(&key(1)).await.unwrap().unwrap();
    assert_eq!(begun(&store, 1).await, NEW);
    tokio::time::advance(4 * SECOND).await;
    // A write, so that the time is on the disk.
    assert_eq!(begun(&store, 2).await, NEW);
    drop(store);
    // The process ended before the lease: opening the file ends the lease.
    let store = disk.open(day(1000) + 6 * SECOND).unwrap();
    let entry = found(&store).await;
    assert_eq!((entry.run, entry.age), (1, 6 * SECOND));
    let since = Duration::ZERO;
    assert_eq!(entry.state, EntryState::Stopped { since });
    drop(store);
    // The file was opened after the lease: it ended at its time.
    let store = disk.open(day(1000) + 70 * SECOND).unwrap();
    let entry = found(&store).await;
    assert_eq!((entry.run, entry.age), (1, 70 * SECOND));
    let since = 60 * SECOND;
    assert_eq!(entry.state, EntryState::Stopped { since });
    assert_eq!(entry.expires_in, 40 * SECOND);
    assert_eq!(begun(&store, 1).await, Begun::Started { run: 2 });
    assert_eq!(found(&store).await.age, 70 * SECOND);
    // A recorded response is on the disk.
    tokio::time::advance(LEASE).await;
    let response = Some(("yes".into(), TTL));
    let resolve = found(&store).await.resolve(Duration::ZERO, response);
    store.resolve(&key(1), &resolve).await.unwrap();
    drop(store);
    let store = disk.open(day(1000) + 90 * SECOND).unwrap();
    assert_eq!(begun(&store, 1).await, YES);
    let entry = found(&store).await;
    assert_eq!((entry.run, entry.age), (2, 90 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_record_is_not_run_again_until_it_expires() {
    let disk = Disk::default();
    let store = disk.open(day(1000)).unwrap();
    done(&store, 1).await;
    done(&store, 2).await;
    drop(store);
    let database = redb::Builder::new()
        .create_with_backend(disk.clone())
        .unwrap();
    let write = database.begin_write().unwrap();
    let newer = [&[3_u8][..], &[0; 200]].concat();
    write
        .open_table(RECORDS)
        .unwrap()
        .insert(&key(1).0, &newer[..])
        .unwrap();
    write.commit().unwrap();
    drop(database);
    let store = disk.open(day(1000)).unwrap();
    let token = claim().token;
    let read = store.begin(&key(1), &claim()).await.unwrap_err();
    assert!(
        matches!(&read, StoreError::Unreadable(why) if why.contains("version is 3")),
        "{read}"
    );
    let ended = store.complete(&key(1), token, "no".into(), TTL).await;
    assert!(matches!(ended, Err(StoreError::Unreadable(_))), "{ended:?}");
    let found = store.find(&key(1)).await;
    assert!(matches!(found, Err(StoreError::Unreadable(_))), "{found:?}");
    // A list skips it, and counts it.
    let page = store.list(None, 10).await.unwrap();
    let keys: Vec<_> = page.entries.iter().map(|entry| entry.key).collect();
    assert_eq!((keys, page.unreadable, page.next), (vec![key(2)], 1, None));
    assert_eq!(begun(&store, 2).await, YES);
    tokio::time::advance(TTL).await;
    // A write deletes expired records.
    assert_eq!(begun(&store, 3).await, NEW);
    assert_eq!(begun(&store, 1).await, NEW);
}

#[tokio::test]
async fn a_disk_that_fails_is_an_error_and_is_used_again_once_it_works() {
    for fault in [FULL, BROKEN, PANICS] {
        let disk = Disk::default();
        let store = disk.open(day(1000)).unwrap();
        done(&store, 1).await;
        disk.set(fault);
        for number in 2..5 {
            let failed = store.begin(&key(number), &claim()).await.unwrap_err();
            let is_full = matches!(failed, StoreError::Full(_));
            // Only the first call gets the cause: after it, the file cannot even be opened.
            assert!(
                is_full == (fault == FULL) || number > 2,
                "{fault}: {failed}"
            );
        }
        disk.set(0);
        assert_eq!(begun(&store, 1).await, YES);
        // A failed write may have taken effect or not.
        let left = begun(&store, 2).await;
        assert!(left == NEW || left == Begun::Running, "{fault}: {left:?}");
        assert_eq!(begun(&store, 5).await, NEW);
        drop(store);
        let store = disk.open(day(1000)).unwrap();
        assert_eq!(begun(&store, 1).await, YES);
        assert_eq!(begun(&store, 5).await, Begun::Started { run: 2 });
    }
}

#[tokio::test]
async fn a_claim_dropped_before_its_turn_is_skipped() {
    let disk = Disk::default();
    let store = disk.open(day(1000)).unwrap();
    let (key, claim) = (key(1), claim());
    disk.set(HANGS);
    let first = store.clone();
    let first = tokio::spawn(async move { begun(&first, 2).await });
    tokio::task::yield_now().await;
    disk.hangs.0.wait();
    let mut left = store.begin(&key, &claim);
    let polled = poll_fn(|cx| Poll::Ready(left.as_mut().poll(cx))).await;
    assert!(polled.is_pending());
    drop(left);
    disk.hangs.0.wait();
    assert_eq!(first.await.unwrap(), NEW);
    assert_eq!(begun(&store, 1).await, NEW, "the key is free");
    // A completion is executed even if its future is dropped.
    let holder = self::claim();
    let key = self::key(3);
    store.begin(&key, &holder).await.unwrap();
    let mut left = store.complete(&key, holder.token, "yes".into(), TTL);
    let _ = poll_fn(|cx| Poll::Ready(left.as_mut().poll(cx))).await;
    drop(left);
    assert_eq!(begun(&store, 3).await, YES);
}
