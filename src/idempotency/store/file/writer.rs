//! The one thread that owns the file.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::Receiver;

use redb::Database;
use tokio::sync::oneshot;

use super::database::{Change, File, View, size};
use crate::clock::Moment;
use crate::idempotency::record::{Record, RecordKey};
use crate::idempotency::store::{Listed, StoreError, full};

/// How many commands are answered by one write at most, and how many bytes of answers.
const BATCH: usize = 1024;
const BATCH_BYTES: usize = 16 << 20;

/// How many records whose time is over are forgotten with each write.
const SWEPT: usize = 256;

/// What is asked of the writer.
pub(super) struct Command {
    pub(super) asked: Moment,
    /// The most room that it may need.
    pub(super) needs: usize,
    pub(super) work: Work,
}

/// Does its part in a batch, or tells why there is none.
pub(super) type Work = Box<dyn FnOnce(Result<&mut Batch, &StoreError>, Moment) + Send>;

/// Told once what it says is on the disk, or why it may not be.
type Reply = Box<dyn FnOnce(Option<&StoreError>)>;

pub(super) type Opening = Box<dyn Fn() -> Result<Database, StoreError> + Send>;

pub(super) struct Writer {
    opening: Opening,
    session: u64,
    /// None after it failed: it is opened anew for the next batch.
    file: Option<File>,
    timeline: Timeline,
    max_bytes: u64,
}

/// The file's time: the wall clock's when it was opened, and from then on the monotonic clock's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeline {
    pub(super) opened: Moment,
    pub(super) latest: Moment,
    pub(super) base: Moment,
}

impl Timeline {
    fn at(&mut self, now: Moment) -> Moment {
        let moment = self.base.after(now.since(self.opened));
        self.latest = self.latest.max(moment);
        self.latest
    }
}

impl Writer {
    pub(super) fn new(opening: Opening, file: File, timeline: Timeline, max_bytes: u64) -> Self {
        Self {
            opening,
            session: file.session(),
            file: Some(file),
            timeline,
            max_bytes,
        }
    }

    /// Answers until nobody can ask any more.
    pub(super) fn run(mut self, commands: &Receiver<Command>) {
        while let Ok(first) = commands.recv() {
            let mut bytes = first.needs;
            let mut batch = vec![first];
            while batch.len() < BATCH && bytes < BATCH_BYTES {
                let Ok(command) = commands.try_recv() else {
                    break;
                };
                bytes = bytes.saturating_add(command.needs);
                batch.push(command);
            }
            // A damaged file makes redb panic in places. Whoever waits is told by his channel, which is dropped.
            let answered = catch_unwind(AssertUnwindSafe(|| self.answer(batch, bytes)));
            if !matches!(answered, Ok(Ok(()))) {
                close(self.file.take());
            }
        }
        close(self.file.take());
    }

    fn answer(&mut self, commands: Vec<Command>, needs: usize) -> Result<(), StoreError> {
        let file = match &mut self.file {
            Some(file) => file,
            closed => match (self.opening)().and_then(|d| File::open(d, Some(self.session))) {
                Ok(file) => closed.insert(file),
                Err(error) => return refuse(commands, error),
            },
        };
        let mut times = Vec::with_capacity(commands.len());
        for command in &commands {
            times.push(self.timeline.at(command.asked));
        }
        let now = self.timeline.latest;
        let needs = u64::try_from(needs).unwrap_or(u64::MAX);
        let view = make_room(file, needs, self.max_bytes, now)
            .and_then(|()| file.view(self.timeline.base));
        let view = match view {
            Ok(view) => view,
            Err(error) => return refuse(commands, error),
        };
        let mut batch = Batch {
            view,
            changes: HashMap::new(),
            replies: Vec::new(),
            room: Room {
                bytes: file.bytes,
                max_bytes: self.max_bytes,
            },
        };
        for (command, time) in commands.into_iter().zip(times) {
            (command.work)(Ok(&mut batch), time);
        }
        let Batch {
            view,
            changes,
            replies,
            ..
        } = batch;
        drop(view);
        if changes.is_empty() {
            return Ok(());
        }
        let written = file.write(&changes, SWEPT, now);
        for reply in replies {
            reply(written.as_ref().err());
        }
        written
    }
}

/// Forgets what it must if this much more may not fit.
fn make_room(file: &mut File, needs: u64, max: u64, now: Moment) -> Result<(), StoreError> {
    loop {
        let before = file.bytes;
        if before.saturating_add(needs) <= max {
            return Ok(());
        }
        if !file.has_ended(now)? {
            return Ok(());
        }
        file.write(None, 16 * SWEPT, now)?;
        if file.bytes >= before {
            return Ok(());
        }
    }
}

/// That too may find damage.
fn close(file: Option<File>) {
    let closed = catch_unwind(AssertUnwindSafe(|| drop(file)));
    drop(closed);
}

/// Tells all of them why.
fn refuse(commands: Vec<Command>, error: StoreError) -> Result<(), StoreError> {
    for command in commands {
        (command.work)(Err(&error), Moment::START);
    }
    Err(error)
}

/// What is answered by one write.
pub(super) struct Batch {
    view: View,
    changes: HashMap<RecordKey, Change>,
    replies: Vec<Reply>,
    room: Room,
}

/// How much more may be kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    bytes: u64,
    max_bytes: u64,
}

impl Room {
    pub(super) fn has(&self, more: usize) -> Result<(), StoreError> {
        let more = u64::try_from(more).unwrap_or(u64::MAX);
        if self.bytes.saturating_add(more) <= self.max_bytes {
            return Ok(());
        }
        Err(full(self.max_bytes))
    }
}

impl Batch {
    /// A page of what is on the disk. Changes of this batch are not in it: their callers get a reply later than this one.
    pub(super) fn list(
        &self,
        after: Option<&RecordKey>,
        limit: usize,
        now: Moment,
    ) -> Result<Listed, StoreError> {
        self.view.list(after, limit, now)
    }

    /// Applies a rule to one record, and replies: at once if that changes nothing, else after the write.
    pub(super) fn apply<T: 'static>(
        &mut self,
        key: &RecordKey,
        rule: impl FnOnce(&mut Option<Record>, Room) -> Result<T, StoreError>,
        reply: oneshot::Sender<Result<T, StoreError>>,
    ) {
        let known = match self.changes.get(key) {
            Some(change) => Ok(change.after.clone()),
            None => self.view.record(key),
        };
        let mut place = match known {
            Ok(place) => place,
            Err(error) => return tell(reply, Err(error)),
        };
        let before = place.clone();
        let told = rule(&mut place, self.room);
        let changed = place != before;
        if changed {
            let bytes = self
                .room
                .bytes
                .saturating_add(place.as_ref().map_or(0, size));
            self.room.bytes = bytes.saturating_sub(before.as_ref().map_or(0, size));
            let change = self.changes.entry(*key).or_insert(Change {
                before,
                after: None,
            });
            change.after = place;
        } else if !self.changes.contains_key(key) {
            return tell(reply, told);
        }
        self.replies.push(Box::new(move |failure| {
            tell(reply, failure.map_or(told, |error| Err(same(error))));
        }));
    }
}

/// Whoever does not wait any more need not be told.
pub(super) fn tell<T>(reply: oneshot::Sender<Result<T, StoreError>>, told: Result<T, StoreError>) {
    drop(reply.send(told));
}

/// The same error for one more.
pub(super) fn same(error: &StoreError) -> StoreError {
    match error {
        StoreError::Unavailable(source) => StoreError::unavailable(source.to_string()),
        StoreError::Full(why) => StoreError::Full(why.clone()),
        StoreError::Unreadable(why) => StoreError::Unreadable(why.clone()),
    }
}
