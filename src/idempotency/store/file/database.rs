//! The file itself: three tables, read by key and written in whole batches.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::ops::Bound;
use std::path::Path;

use redb::{
    Builder, Database, DatabaseError, ReadOnlyTable, ReadableTable, Table, TableDefinition,
};

use super::encoding::{Session, answer_length, decode, encode};
use crate::clock::Moment;
use crate::idempotency::record::{self, Record, RecordKey};
use crate::idempotency::store::{Entry, Listed, RECORD, StoreError, response_len};

pub(super) const RECORDS: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("records");
/// Ordered by expiry.
const ENDS: TableDefinition<(u64, &[u8; 32]), ()> = TableDefinition::new("ends");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// Which opening of the file this is.
const SESSION: &str = "session";
/// The latest time of a write.
const LATEST: &str = "latest";
/// Size of all records.
const BYTES: &str = "bytes";

/// Size of the page cache, in bytes.
const CACHE: usize = 64 << 20;

#[derive(Debug)]
pub(super) struct File {
    database: Database,
    pub(super) session: u64,
    pub(super) latest: Moment,
    pub(super) bytes: u64,
}

/// A record as it was, and as it will be.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) before: Option<Record>,
    pub(super) after: Option<Record>,
}

impl File {
    /// Opens the tables, in the session with this number or in a new one.
    pub(super) fn open(database: Database, session: Option<u64>) -> Result<Self, StoreError> {
        let write = database.begin_write().map_err(failed)?;
        let file = {
            write.open_table(RECORDS).map_err(failed)?;
            write.open_table(ENDS).map_err(failed)?;
            let mut meta = write.open_table(META).map_err(failed)?;
            let last = get(&meta, SESSION)?;
            let session = session.unwrap_or(last.saturating_add(1));
            meta.insert(SESSION, session).map_err(failed)?;
            (session, get(&meta, LATEST)?, get(&meta, BYTES)?)
        };
        write.commit().map_err(failed)?;
        let (session, latest, bytes) = file;
        Ok(Self {
            database,
            session,
            latest: Moment::from_nanos(latest),
            bytes,
        })
    }

    /// A snapshot of the records.
    pub(super) fn view(&self, opened: Moment) -> Result<View, StoreError> {
        let read = self.database.begin_read().map_err(failed)?;
        Ok(View {
            records: read.open_table(RECORDS).map_err(failed)?,
            session: Session {
                number: self.session,
                opened,
            },
        })
    }

    /// Whether any record has expired.
    pub(super) fn has_ended(&self, now: Moment) -> Result<bool, StoreError> {
        let read = self.database.begin_read().map_err(failed)?;
        let ends = read.open_table(ENDS).map_err(failed)?;
        let first = ends.first().map_err(failed)?;
        Ok(first.is_some_and(|(end, _)| Moment::from_nanos(end.value().0) <= now))
    }

    /// Writes all changes in one transaction and deletes up to `max` expired records. They are on disk when this returns.
    pub(super) fn write<'a>(
        &mut self,
        changes: impl IntoIterator<Item = (&'a RecordKey, &'a Change)>,
        max: usize,
        now: Moment,
    ) -> Result<(), StoreError> {
        let write = self.database.begin_write().map_err(failed)?;
        let mut bytes = self.bytes;
        {
            let mut records = write.open_table(RECORDS).map_err(failed)?;
            let mut ends = write.open_table(ENDS).map_err(failed)?;
            for (key, Change { before, after }) in changes {
                if let Some(record) = before {
                    let end = (record.gone_at.as_nanos(), &key.0);
                    ends.remove(end).map_err(failed)?;
                }
                let old = if let Some(record) = after {
                    let value = encode(record, self.session);
                    let end = (record.gone_at.as_nanos(), &key.0);
                    ends.insert(end, ()).map_err(failed)?;
                    bytes = bytes.saturating_add(stored(&value));
                    let old = records.insert(&key.0, &value[..]).map_err(failed)?;
                    old.map(|old| stored(old.value()))
                } else {
                    let old = records.remove(&key.0).map_err(failed)?;
                    old.map(|old| stored(old.value()))
                };
                bytes = bytes.saturating_sub(old.unwrap_or_default());
            }
            let freed = sweep(&mut records, &mut ends, max, now)?;
            bytes = bytes.saturating_sub(freed);
            let mut meta = write.open_table(META).map_err(failed)?;
            meta.insert(BYTES, bytes).map_err(failed)?;
            meta.insert(LATEST, now.as_nanos()).map_err(failed)?;
        }
        write.commit().map_err(failed)?;
        self.bytes = bytes;
        self.latest = now;
        Ok(())
    }
}

/// A snapshot of the records.
pub(super) struct View {
    records: ReadOnlyTable<&'static [u8; 32], &'static [u8]>,
    session: Session,
}

impl View {
    pub(super) fn record(&self, key: &RecordKey) -> Result<Option<Record>, StoreError> {
        let found = self.records.get(&key.0).map_err(failed)?;
        found
            .map(|value| decode(value.value(), self.session))
            .transpose()
    }

    /// A page in the order of the keys.
    pub(super) fn list(
        &self,
        after: Option<&RecordKey>,
        limit: usize,
        now: Moment,
    ) -> Result<Listed, StoreError> {
        let start = after.map_or(Bound::Unbounded, |key| Bound::Excluded(&key.0));
        let range = (start, Bound::Unbounded);
        let mut rows = self.records.range::<&[u8; 32]>(range).map_err(failed)?;
        let mut page = Listed::default();
        let mut last = None;
        for row in rows.by_ref().take(limit) {
            let (key, value) = row.map_err(failed)?;
            let key = RecordKey(*key.value());
            match decode(value.value(), self.session) {
                Ok(record) => {
                    let entry = record::find(Some(&record), &key, now);
                    page.entries.extend(entry.map(Entry::shortened));
                }
                Err(_) => page.unreadable += 1,
            }
            last = Some(key);
        }
        page.next = last
            .filter(|_| rows.next().is_some())
            .as_ref()
            .map(RecordKey::to_hex);
        Ok(page)
    }
}

/// The size of a record that counts toward `max_bytes`.
pub(super) fn size(record: &Record) -> u64 {
    with_response(response_len(record))
}

/// The same, from the encoded record.
fn stored(value: &[u8]) -> u64 {
    with_response(answer_length(value))
}

fn with_response(length: usize) -> u64 {
    u64::try_from(length.saturating_add(RECORD)).unwrap_or(u64::MAX)
}

type Records<'a> = Table<'a, &'static [u8; 32], &'static [u8]>;
type Ends<'a> = Table<'a, (u64, &'static [u8; 32]), ()>;

/// Deletes expired records and returns their size.
fn sweep(
    records: &mut Records<'_>,
    ends: &mut Ends<'_>,
    max: usize,
    now: Moment,
) -> Result<u64, StoreError> {
    let mut freed = 0_u64;
    for _ in 0..max {
        let Some((end, key)) = ends.first().map_err(failed)?.map(|(entry, _)| {
            let (end, key) = entry.value();
            (end, *key)
        }) else {
            break;
        };
        if Moment::from_nanos(end) > now {
            break;
        }
        ends.remove((end, &key)).map_err(failed)?;
        let old = records.remove(&key).map_err(failed)?;
        freed = freed.saturating_add(old.map_or(0, |old| stored(old.value())));
    }
    Ok(freed)
}

fn get(meta: &impl ReadableTable<&'static str, u64>, name: &str) -> Result<u64, StoreError> {
    let value = meta.get(name).map_err(failed)?;
    Ok(value.map_or(0, |value| value.value()))
}

/// Opens or creates the file.
pub(super) fn database(path: &Path) -> Result<Database, StoreError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    // Responses may be confidential.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let shown = path.display();
    let file = options
        .open(path)
        .map_err(|error| StoreError::unavailable(format!("`{shown}` cannot be opened: {error}")))?;
    let mut builder = Builder::new();
    builder
        .set_cache_size(CACHE)
        .create_with_file_format_v3(true);
    builder.create_file(file).map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::unavailable(format!(
            "`{shown}` is already open in this process or in another one; only one store can use a file at a time"
        )),
        DatabaseError::Storage(redb::StorageError::Io(error)) if error.kind() == ErrorKind::InvalidData => {
            StoreError::unavailable(format!("`{shown}` is not a file of this store: {error}"))
        }
        error => failed(error),
    })
}

/// Maps an error of redb.
fn failed(error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        redb::Error::Io(error)
            if matches!(
                error.kind(),
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
            ) =>
        {
            StoreError::Full(error.to_string())
        }
        redb::Error::ValueTooLarge(length) => {
            StoreError::Full(format!("a record of {length} bytes is too large"))
        }
        error => StoreError::unavailable(error),
    }
}
