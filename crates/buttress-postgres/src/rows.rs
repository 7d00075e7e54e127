//! The meaning of the rows that statements return.

use std::time::Duration;

use bytes::Bytes;
use tokio_postgres::types::FromSql;
use tokio_postgres::{Row, SimpleQueryRow};

use super::session::Rows;
use super::statements::VERSION;
use buttress::idempotency::store::{Begun, Ended, Fingerprint, StoreError};

/// Some 3170 years: today plus two such times is still a valid date of the server.
const LONGEST: i64 = 100_000_000_000_000_000;

/// A duration in microseconds, the resolution of the server's clock, rounded up.
pub(super) fn micros(duration: Duration) -> i64 {
    let micros = duration.as_nanos().div_ceil(1000);
    i64::try_from(micros).unwrap_or(i64::MAX).min(LONGEST)
}

pub(super) fn column<'a, T: FromSql<'a>>(row: &'a Row, index: usize) -> Result<T, StoreError> {
    row.try_get(index)
        .map_err(|error| StoreError::Unreadable(error.to_string()))
}

pub(super) fn check(version: i16) -> Result<(), StoreError> {
    if version == VERSION {
        Ok(())
    } else {
        Err(StoreError::Unreadable(format!(
            "its version is {version}, but this program reads only version {VERSION}; upgrade the program"
        )))
    }
}

fn missing() -> StoreError {
    StoreError::Unreadable("PostgreSQL returned no row for it".to_owned())
}

/// The present record of a claim that was not inserted.
pub(super) enum Current {
    Begun(Begun),
    /// It can be taken over: nobody holds it, or the claimant does.
    Free,
}

pub(super) fn counted(run: i32) -> Result<u32, StoreError> {
    u32::try_from(run).map_err(|_| StoreError::Unreadable(format!("its run is {run}")))
}

/// `None` if the record was deleted in between.
pub(super) fn current(
    row: Option<&Row>,
    fingerprint: Fingerprint,
) -> Result<Option<Current>, StoreError> {
    let Some(row) = row else {
        return Ok(None);
    };
    if column(row, 3)? {
        return Ok(Some(Current::Free));
    }
    check(column(row, 0)?)?;
    let found: &[u8] = column(row, 1)?;
    if found.len() != fingerprint.0.len() {
        let length = found.len();
        return Err(StoreError::Unreadable(format!(
            "its fingerprint has {length} bytes"
        )));
    }
    if found != fingerprint.0 {
        return Ok(Some(Current::Begun(Begun::Mismatch)));
    }
    Ok(Some(match column::<Option<&[u8]>>(row, 2)? {
        Some(answer) => Current::Begun(Begun::Done(Bytes::copy_from_slice(answer))),
        None if column(row, 4)? => Current::Begun(Begun::Running),
        None => Current::Free,
    }))
}

/// The run in which a record was taken over, if it was.
pub(super) fn taken(row: Option<&SimpleQueryRow>) -> Result<Option<u32>, StoreError> {
    let Some(run) = row.and_then(|row| row.get(0)) else {
        return Ok(None);
    };
    let run = run
        .parse()
        .map_err(|_| StoreError::Unreadable(format!("its run is {run}")))?;
    counted(run).map(Some)
}

/// `None` if a concurrent call changed the record.
pub(super) fn ended(row: Option<&Row>) -> Result<Option<Ended>, StoreError> {
    let row = row.ok_or_else(missing)?;
    if column::<Option<bool>>(row, 0)?.is_some() {
        return Ok(Some(Ended::Taken));
    }
    let (Some(version), Some(true)) = (column::<Option<i16>>(row, 1)?, column(row, 2)?) else {
        return Ok(Some(Ended::Lost));
    };
    check(version)?;
    let answer = column::<Option<&[u8]>>(row, 3)?;
    Ok(answer.map(|answer| Ended::Already(Bytes::copy_from_slice(answer))))
}

/// How many rows were due, and how many of them were deleted.
pub(super) fn reaped(rows: &Rows) -> Result<Option<(i64, i64)>, StoreError> {
    let row = rows.typed().ok_or_else(missing)?;
    Ok(Some((column(row, 0)?, column(row, 1)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_rounded_up_and_saturate() {
        assert_eq!(micros(Duration::ZERO), 0);
        assert_eq!(micros(Duration::from_nanos(1)), 1);
        assert_eq!(micros(Duration::from_nanos(1001)), 2);
        assert_eq!(micros(Duration::from_secs(1)), 1_000_000);
        assert_eq!(micros(Duration::MAX), LONGEST);
    }
}
