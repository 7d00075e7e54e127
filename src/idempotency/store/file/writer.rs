//! The thread that owns the file.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::Receiver;

use redb::Database;
use tokio::sync::oneshot;

use super::database::{Change, File, View, size};
use crate::clock::Moment;
use crate::idempotency::record::{Record, RecordKey};
use crate::idempotency::store::{StoreError, full};

/// The largest batch of one write: in commands, and in bytes of responses.
const BATCH: usize = 1024;
const BATCH_BYTES: usize = 16 << 20;

/// How many expired records each write deletes.
const SWEPT: usize = 256;

/// A request to the writer.
pub(super) struct Command {
    pub(super) sent_at: Moment,
    /// The largest number of bytes that it may add.
    pub(super) needs: usize,
    pub(super) work: Work,
}

/// Runs as part of a batch, or with the error that prevented one.
pub(super) type Work = Box<dyn FnOnce(Result<&mut Batch, &StoreError>, Moment) + Send>;

/// Called once its change is on disk, or with the error of the write.
type Reply = Box<dyn FnOnce(Option<&StoreError>)>;

pub(super) type Opening = Box<dyn Fn() -> Result<Database, StoreError> + Send>;

pub(super) struct Writer {
    opening: Opening,
    session: u64,
    /// `None` after a failure: the next batch opens the file again.
    file: Option<File>,
    timeline: Timeline,
    max_bytes: u64,
}

/// The clock of the file: the wall clock when it was opened, advanced by the monotonic clock.
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
            session: file.session,
            file: Some(file),
            timeline,
            max_bytes,
        }
    }

    /// Runs until all senders are dropped.
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
            // redb may panic on a damaged file. That drops the reply channels, so each caller gets an error.
            let processed = catch_unwind(AssertUnwindSafe(|| self.process(batch, bytes)));
            if !matches!(processed, Ok(Ok(()))) {
                close(self.file.take());
            }
        }
        close(self.file.take());
    }

    fn process(&mut self, commands: Vec<Command>, needs: usize) -> Result<(), StoreError> {
        let file = match &mut self.file {
            Some(file) => file,
            closed => match (self.opening)().and_then(|d| File::open(d, Some(self.session))) {
                Ok(file) => closed.insert(file),
                Err(error) => return fail_all(commands, error),
            },
        };
        let mut times = Vec::with_capacity(commands.len());
        for command in &commands {
            times.push(self.timeline.at(command.sent_at));
        }
        let now = self.timeline.latest;
        let needs = u64::try_from(needs).unwrap_or(u64::MAX);
        let view = make_room(file, needs, self.max_bytes, now)
            .and_then(|()| file.view(self.timeline.base));
        let view = match view {
            Ok(view) => view,
            Err(error) => return fail_all(commands, error),
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

/// Deletes expired records if `needs` more bytes may not fit.
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

/// Closing a damaged file may panic too.
fn close(file: Option<File>) {
    let closed = catch_unwind(AssertUnwindSafe(|| drop(file)));
    drop(closed);
}

/// Reports the error to all callers of a batch.
fn fail_all(commands: Vec<Command>, error: StoreError) -> Result<(), StoreError> {
    for command in commands {
        (command.work)(Err(&error), Moment::START);
    }
    Err(error)
}

/// The commands of one write.
pub(super) struct Batch {
    /// The records on disk, without the changes of this batch.
    pub(super) view: View,
    changes: HashMap<RecordKey, Change>,
    replies: Vec<Reply>,
    room: Room,
}

/// The room that is left.
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
    /// Applies a rule to one record. Replies at once if that changes nothing, otherwise after the write.
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
            Err(error) => return send_reply(reply, Err(error)),
        };
        let before = place.clone();
        let result = rule(&mut place, self.room);
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
            return send_reply(reply, result);
        }
        self.replies.push(Box::new(move |failure| {
            send_reply(reply, failure.map_or(result, |error| Err(same(error))));
        }));
    }
}

/// Replies to the caller, who may have gone.
pub(super) fn send_reply<T>(
    reply: oneshot::Sender<Result<T, StoreError>>,
    result: Result<T, StoreError>,
) {
    drop(reply.send(result));
}

/// A copy of the error for another caller.
pub(super) fn same(error: &StoreError) -> StoreError {
    match error {
        StoreError::Unavailable(source) => StoreError::unavailable(source.to_string()),
        StoreError::Full(why) => StoreError::Full(why.clone()),
        StoreError::Unreadable(why) => StoreError::Unreadable(why.clone()),
    }
}
