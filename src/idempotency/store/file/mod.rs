//! Records in a file.

mod database;
mod encoding;
mod writer;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::oneshot;

use self::database::File;
use self::writer::{Command, Opening, Room, Timeline, Work, Writer, same, send_reply};
use super::lookup::cursor_key;
use super::{
    Entry, Listed, RECORD, Resolve, Resolved, SMALL, Store, StoreError, StoreFuture, check_bound,
};
use crate::clock::{Moment, Now, nanos, wall};
use crate::idempotency::record::{self, Begun, Claim, Ended, Record, RecordKey, Token};

/// The most records on one page of [`FileStore::list`](Store::list).
const LONGEST_PAGE: usize = 1000;

/// Default of [`FileStore::with_max_bytes`].
const MAX_BYTES: u64 = 1 << 30;

/// Stores records in a file, for one process at a time. They survive a restart and a crash of the machine.
///
/// Use it for a service on one machine. To share records between processes, use a server: Redis or PostgreSQL.
///
/// A change is on disk once its call returns `Ok`. The calls made during a write share the next one, so a thousand calls take
/// hardly longer than one. A call that changes nothing does not wait for a write of its own.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use std::time::Duration;
/// use buttress::idempotency::store::{Begun, Claim, FileStore, Fingerprint, RecordKey, Store};
///
/// # let folder = std::env::temp_dir().join(format!("buttress-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// # let path = folder.join("payments.redb");
/// let (key, hour) = (RecordKey([7; 32]), Duration::from_secs(3600));
/// let claim = Claim::new(Fingerprint([1; 32]), hour, hour);
///
/// let store = FileStore::open(&path)?;
/// store.begin(&key, &claim).await?;
/// store.complete(&key, claim.token, "paid".into(), hour).await?;
/// drop(store);
///
/// // After a restart:
/// let store = FileStore::open(&path)?;
/// assert_eq!(store.begin(&key, &claim).await?, Begun::Done("paid".into()));
/// # drop(store);
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok(()) }
/// ```
///
/// # After a restart
///
/// Opening the file ends all leases, because their holders are gone: the next claim of a running record takes it over, in the
/// next run. After a crash the whole file is checked when it is opened, which takes longer.
///
/// # Time
///
/// The wall clock is read once, when the file is opened; after that the monotonic clock counts, so a step of the wall clock has
/// no effect while the file is open. If the wall clock was set back before the file is opened, time continues from the last
/// write. If it was set forward, records expire early.
///
/// # Defaults
///
/// | setting | default | why |
/// |---|---|---|
/// | [`max_bytes`](Self::with_max_bytes) | 1 GiB | a million operations with responses of half a kilobyte |
///
/// # Errors
///
/// [`StoreError::Full`] for a new key, or for a response of more than 128 bytes, beyond `max_bytes`, or if the disk is full. Room
/// becomes free as records expire. [`StoreError::Unavailable`] if the disk fails; the next call opens the file again.
/// [`StoreError::Unreadable`] for a record that is damaged or of a newer version: its operation is not executed again until the
/// record expires.
///
/// # Cancel safety
///
/// A future that is dropped before its first poll does nothing. After that its call is executed, except that a claim may be
/// skipped if it is dropped before its turn. Clones share the file. Dropping the last one waits for the disk: it finishes all
/// calls and closes the file.
#[derive(Clone)]
pub struct FileStore {
    shared: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    max_bytes: u64,
    /// `None` only while this is dropped.
    commands: Option<mpsc::Sender<Command>>,
    thread: Option<JoinHandle<()>>,
}

impl FileStore {
    /// Opens or creates the file, with a bound of 1 GiB. This waits for the disk: call it when the program starts.
    ///
    /// # Errors
    ///
    /// The file cannot be opened or created, is already open in this process or in another one, or is not a file of this store.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::with_max_bytes(path, MAX_BYTES)
    }

    /// Opens or creates the file, for records that take at most `max_bytes`: 512 bytes each, plus the response. The file may be
    /// twice as large, and does not shrink.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), or `max_bytes` is less than 512.
    pub fn with_max_bytes(path: impl AsRef<Path>, max_bytes: u64) -> Result<Self, StoreError> {
        check_bound("file", max_bytes).map_err(StoreError::unavailable)?;
        let path = path.as_ref().to_owned();
        let opening = {
            let path = path.clone();
            Box::new(move || database::database(&path))
        };
        Self::over(path, opening, max_bytes, wall())
    }

    fn over(
        path: PathBuf,
        opening: Opening,
        max_bytes: u64,
        wall: SystemTime,
    ) -> Result<Self, StoreError> {
        // redb may panic on a damaged file.
        let opened = AssertUnwindSafe(|| opening().and_then(|open| File::open(open, None)));
        let file = catch_unwind(opened).unwrap_or_else(|_| {
            let path = path.display();
            Err(StoreError::unavailable(format!(
                "`{path}` is damaged; restore it from a backup"
            )))
        })?;
        let since_1970 = wall.duration_since(SystemTime::UNIX_EPOCH);
        let base = Moment::from_nanos(nanos(since_1970.unwrap_or_default())).max(file.latest);
        let timeline = Timeline {
            opened: Now::unread().moment(),
            base,
            latest: base,
        };
        let writer = Writer::new(opening, file, timeline, max_bytes);
        let (commands, received) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("buttress-file".to_owned())
            .spawn(move || writer.run(&received))
            .map_err(StoreError::unavailable)?;
        Ok(Self {
            shared: Arc::new(Inner {
                path,
                max_bytes,
                commands: Some(commands),
                thread: Some(thread),
            }),
        })
    }

    /// Has the writer apply this rule. A claim is skipped if its future was dropped before its turn: while a disk hangs, clients
    /// give up and retry, and would find their keys held by calls that are gone.
    async fn apply<T: Send + 'static>(
        &self,
        key: RecordKey,
        is_claim: bool,
        needs: usize,
        rule: impl FnOnce(&mut Option<Record>, Room, Moment) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, result) = oneshot::channel();
        let work: Work = Box::new(move |batch, now| match batch {
            Ok(_) if is_claim && reply.is_closed() => {}
            Ok(batch) => batch.apply(&key, |place, room| rule(place, room, now), reply),
            Err(error) => send_reply(reply, Err(same(error))),
        });
        self.send(needs, work, result).await
    }

    async fn send<T>(
        &self,
        needs: usize,
        work: Work,
        result: oneshot::Receiver<Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let command = Command {
            sent_at: Now::unread().moment(),
            needs,
            work,
        };
        let ended = || StoreError::unavailable("the file failed during the write");
        let commands = self.shared.commands.as_ref().ok_or_else(ended)?;
        commands.send(command).map_err(|_| ended())?;
        result.await.unwrap_or_else(|_| Err(ended()))
    }
}

impl Store for FileStore {
    fn begin<'a>(&'a self, key: &'a RecordKey, claim: &'a Claim) -> StoreFuture<'a, Begun> {
        let claim = *claim;
        Box::pin(self.apply(*key, true, RECORD, move |place, room, now| {
            if place.is_none() {
                room.has(RECORD)?;
            }
            Ok(record::begin(place, &claim, now))
        }))
    }

    fn renew<'a>(
        &'a self,
        key: &'a RecordKey,
        token: Token,
        lease: Duration,
        ttl: Duration,
    ) -> StoreFuture<'a, bool> {
        Box::pin(self.apply(*key, false, 0, move |place, _, now| {
            Ok(record::renew(place, token, lease, ttl, now))
        }))
    }

    fn complete<'a>(
        &'a self,
        key: &'a RecordKey,
        token: Token,
        answer: Bytes,
        ttl: Duration,
    ) -> StoreFuture<'a, Ended> {
        Box::pin(
            self.apply(*key, false, answer.len(), move |place, room, now| {
                let takes = |record: &Record| record.takes_answer(token, now);
                if answer.len() > SMALL && place.as_ref().is_some_and(takes) {
                    room.has(answer.len())?;
                }
                Ok(record::complete(place, token, answer, ttl, now))
            }),
        )
    }

    fn abandon<'a>(&'a self, key: &'a RecordKey, token: Token) -> StoreFuture<'a, Ended> {
        Box::pin(self.apply(*key, false, 0, move |place, _, now| {
            Ok(record::abandon(place, token, now))
        }))
    }

    fn find<'a>(&'a self, key: &'a RecordKey) -> StoreFuture<'a, Option<Entry>> {
        let key = *key;
        Box::pin(self.apply(key, false, 0, move |place, _, now| {
            Ok(record::find(place.as_ref(), &key, now))
        }))
    }

    fn list<'a>(&'a self, after: Option<&'a str>, limit: usize) -> StoreFuture<'a, Listed> {
        // The writer reads the page, and everything else waits for it.
        let limit = limit.clamp(1, LONGEST_PAGE);
        Box::pin(async move {
            let after = after.map(cursor_key).transpose()?;
            let (reply, result) = oneshot::channel();
            let work: Work = Box::new(move |batch, now| {
                let page = match batch {
                    Ok(batch) => batch.view.list(after.as_ref(), limit, now),
                    Err(error) => Err(same(error)),
                };
                send_reply(reply, page);
            });
            self.send(0, work, result).await
        })
    }

    fn resolve<'a>(
        &'a self,
        key: &'a RecordKey,
        resolve: &'a Resolve,
    ) -> StoreFuture<'a, Resolved> {
        let resolve = resolve.clone();
        let needs = resolve
            .response
            .as_ref()
            .map_or(0, |(answer, _)| answer.len());
        Box::pin(self.apply(*key, false, needs, move |place, room, now| {
            let resolved = record::resolvable(place.as_ref(), &resolve, now);
            if needs > SMALL && resolved == Resolved::Resolved {
                room.has(needs)?;
            }
            Ok(record::resolve(place, &resolve, now))
        }))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(self.commands.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl fmt::Debug for FileStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileStore")
            .field("path", &self.shared.path)
            .field("max_bytes", &self.shared.max_bytes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
