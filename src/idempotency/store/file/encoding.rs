//! A record as bytes in the file.
//!
//! Version 2, numbers in little-endian order, times in nanoseconds since 1970:
//!
//! | bytes | |
//! |---|---|
//! | 0 | version, 2 |
//! | 1 | 0 running, 1 done |
//! | 2..6 | run |
//! | 6..14 | the session that wrote it |
//! | 14..22 | end of the lease; 0 if done |
//! | 22..30 | when it expires |
//! | 30..62 | fingerprint |
//! | 62..78 | token |
//! | 78..86 | when it was first claimed |
//! | 86.. | response, if done |

use bytes::Bytes;

use crate::clock::Moment;
use crate::idempotency::record::{Fingerprint, Record, State, Token};
use crate::idempotency::store::StoreError;

const VERSION: u8 = 2;
pub(super) const HEAD: usize = 86;

/// The session that reads a record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Session {
    pub(super) number: u64,
    /// When it opened the file.
    pub(super) opened: Moment,
}

/// Length of the response in these bytes.
pub(super) fn answer_length(bytes: &[u8]) -> usize {
    bytes.len().saturating_sub(HEAD)
}

pub(super) fn encode(record: &Record, session: u64) -> Vec<u8> {
    let (state, lease_until, answer) = match &record.state {
        State::Running { lease_until } => (0, *lease_until, &[][..]),
        State::Done { answer } => (1, Moment::START, &answer[..]),
    };
    let mut bytes = Vec::with_capacity(HEAD + answer.len());
    bytes.extend([VERSION, state]);
    bytes.extend(record.run.to_le_bytes());
    bytes.extend(session.to_le_bytes());
    bytes.extend(lease_until.as_nanos().to_le_bytes());
    bytes.extend(record.gone_at.as_nanos().to_le_bytes());
    bytes.extend(record.fingerprint.0);
    bytes.extend(record.token.0);
    bytes.extend(record.begun_at.as_nanos().to_le_bytes());
    bytes.extend_from_slice(answer);
    bytes
}

/// Decodes a record as seen from this session. Leases of an earlier session have ended, because its holders are gone.
///
/// The end of such a lease is not known exactly: it is its own time or the time the file was opened, whichever is first.
pub(super) fn decode(bytes: &[u8], session: Session) -> Result<Record, StoreError> {
    let unreadable = |why: &str| Err(StoreError::Unreadable(why.to_owned()));
    match bytes.first() {
        Some(&VERSION) => {}
        Some(version) => {
            return Err(StoreError::Unreadable(format!(
                "its version is {version}, but this program reads only version {VERSION}; upgrade the program"
            )));
        }
        None => return unreadable("it is empty"),
    }
    let mut rest = bytes.get(1..).unwrap_or_default();
    let head = (|| {
        let [state] = take(&mut rest)?;
        let run = u32::from_le_bytes(take(&mut rest)?);
        let writer = u64::from_le_bytes(take(&mut rest)?);
        let lease_until = Moment::from_nanos(u64::from_le_bytes(take(&mut rest)?));
        let gone_at = Moment::from_nanos(u64::from_le_bytes(take(&mut rest)?));
        let fingerprint = Fingerprint(take(&mut rest)?);
        let token = Token(take(&mut rest)?);
        let begun_at = Moment::from_nanos(u64::from_le_bytes(take(&mut rest)?));
        let lease_until = if writer == session.number {
            lease_until
        } else {
            lease_until.min(session.opened)
        };
        let record = Record {
            fingerprint,
            token,
            run,
            state: State::Running { lease_until },
            begun_at,
            gone_at,
        };
        Some((state, record))
    })();
    let Some((state, mut record)) = head else {
        return unreadable("it is truncated");
    };
    match state {
        0 if rest.is_empty() => {}
        1 => {
            record.state = State::Done {
                answer: Bytes::copy_from_slice(rest),
            };
        }
        _ => return unreadable("it is neither running nor done"),
    }
    Ok(record)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, others) = rest.split_first_chunk()?;
    *rest = others;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(state: State) -> Record {
        Record {
            fingerprint: Fingerprint([0xf1; 32]),
            token: Token([0x70; 16]),
            run: 2,
            state,
            begun_at: Moment::from_nanos(0x2122_2324_2526_2728),
            gone_at: Moment::from_nanos(0x0102_0304_0506_0708),
        }
    }

    fn session(number: u64) -> Session {
        Session {
            number,
            opened: Moment::from_nanos(0x3132_3334_3536_3738),
        }
    }

    fn running() -> Record {
        let lease_until = Moment::from_nanos(0x1112_1314_1516_1718);
        record(State::Running { lease_until })
    }

    fn done() -> Record {
        let answer = Bytes::from_static(b"yes");
        record(State::Done { answer })
    }

    fn hex(bytes: &[u8]) -> String {
        let digits = |shown: String, byte: &u8| shown + &format!("{byte:02x}");
        bytes.iter().fold(String::new(), digits)
    }

    /// Later versions must still read these bytes.
    #[test]
    fn the_bytes_of_version_2_stay_as_they_are() {
        let tail = format!(
            "0807060504030201{}{}2827262524232221",
            "f1".repeat(32),
            "70".repeat(16)
        );
        for (record, golden) in [
            (
                running(),
                format!("0200020000000900000000000000{}{tail}", "1817161514131211"),
            ),
            (
                done(),
                format!("0201020000000900000000000000{}{tail}796573", "00".repeat(8)),
            ),
        ] {
            let bytes = encode(&record, 9);
            assert_eq!(hex(&bytes), golden);
            assert_eq!(decode(&bytes, session(9)).expect("readable"), record);
            assert_eq!(answer_length(&bytes), bytes.len() - HEAD);
        }
    }

    #[test]
    fn other_bytes_are_unreadable() {
        let bytes = encode(&running(), 9);
        for length in 0..bytes.len() {
            let cut = decode(&bytes[..length], session(9));
            assert!(matches!(cut, Err(StoreError::Unreadable(_))), "{length}");
        }
        for (at, byte) in [(0, 1), (0, 3), (0, 255), (1, 2), (1, 255)] {
            let mut garbage = bytes.clone();
            garbage[at] = byte;
            let read = decode(&garbage, session(9));
            assert!(
                matches!(read, Err(StoreError::Unreadable(_))),
                "{at}: {byte}"
            );
        }
        let longer = [bytes, vec![0]].concat();
        assert!(decode(&longer, session(9)).is_err());
    }
}
