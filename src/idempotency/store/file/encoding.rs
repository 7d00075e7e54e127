//! A record as bytes in the file.
//!
//! Version 1, numbers in little-endian order, times in nanoseconds since 1970:
//!
//! | bytes | |
//! |---|---|
//! | 0 | version, 1 |
//! | 1 | 0 running, 1 done |
//! | 2..6 | run |
//! | 6..14 | the session that wrote it |
//! | 14..22 | end of the lease; 0 if done |
//! | 22..30 | when it is forgotten |
//! | 30..62 | fingerprint |
//! | 62..78 | token |
//! | 78.. | answer, if done |

use bytes::Bytes;

use crate::clock::Moment;
use crate::idempotency::record::{Fingerprint, Record, State, Token};
use crate::idempotency::store::StoreError;

const VERSION: u8 = 1;
pub(super) const HEAD: usize = 78;

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
    bytes.extend_from_slice(answer);
    bytes
}

/// The record, as it is for this session: of a session that ended, the holders are gone, and all leases over.
pub(super) fn decode(bytes: &[u8], session: u64) -> Result<Record, StoreError> {
    let unreadable = |why: &str| Err(StoreError::Unreadable(why.to_owned()));
    match bytes.first() {
        Some(&VERSION) => {}
        Some(version) => {
            return Err(StoreError::Unreadable(format!(
                "it is of version {version}, and this is a program that knows version {VERSION}"
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
        Some((state, run, writer, lease_until, gone_at, fingerprint, token))
    })();
    let Some((state, run, writer, lease_until, gone_at, fingerprint, token)) = head else {
        return unreadable("it is cut off");
    };
    let state = match state {
        0 if rest.is_empty() => State::Running {
            lease_until: if writer == session {
                lease_until
            } else {
                Moment::START
            },
        },
        1 => State::Done {
            answer: Bytes::copy_from_slice(rest),
        },
        _ => return unreadable("it is neither running nor done"),
    };
    Ok(Record {
        fingerprint,
        token,
        run,
        state,
        gone_at,
    })
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
            gone_at: Moment::from_nanos(0x0102_0304_0506_0708),
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

    /// Whatever later versions write, they must still read this.
    #[test]
    fn the_bytes_of_version_1_stay_as_they_are() {
        let tail = format!("0807060504030201{}{}", "f1".repeat(32), "70".repeat(16));
        for (record, golden) in [
            (
                running(),
                format!("0100020000000900000000000000{}{tail}", "1817161514131211"),
            ),
            (
                done(),
                format!("0101020000000900000000000000{}{tail}796573", "00".repeat(8)),
            ),
        ] {
            let bytes = encode(&record, 9);
            let hex = |shown: String, byte: &u8| shown + &format!("{byte:02x}");
            let shown = bytes.iter().fold(String::new(), hex);
            assert_eq!(shown, golden);
            assert_eq!(decode(&bytes, 9).expect("readable"), record);
        }
    }

    #[test]
    fn the_leases_of_a_session_that_ended_are_over_and_its_answers_stand() {
        let left = decode(&encode(&running(), 9), 10).expect("readable");
        let lease_until = Moment::START;
        assert_eq!(left.state, State::Running { lease_until });
        assert_eq!(left.gone_at, running().gone_at);
        assert_eq!(decode(&encode(&done(), 9), 10).expect("readable"), done());
    }

    #[test]
    fn what_is_no_record_is_unreadable() {
        let bytes = encode(&running(), 9);
        for length in 0..bytes.len() {
            let cut = decode(&bytes[..length], 9);
            assert!(matches!(cut, Err(StoreError::Unreadable(_))), "{length}");
        }
        for (at, byte) in [(0, 0), (0, 2), (0, 255), (1, 2), (1, 255)] {
            let mut garbage = bytes.clone();
            garbage[at] = byte;
            let read = decode(&garbage, 9);
            assert!(
                matches!(read, Err(StoreError::Unreadable(_))),
                "{at}: {byte}"
            );
        }
        let longer = [bytes, vec![0]].concat();
        assert!(decode(&longer, 9).is_err());
    }
}
