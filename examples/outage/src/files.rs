//! Every connection is two open files of this process: one at each end.

use std::io;

use crate::args::MIN_CAPACITY;

/// Measured up to load 0.8: a naive call that hangs holds a connection for four seconds.
const FILES_PER_CAPACITY: f64 = 7.0;
const USUAL_LOAD: f64 = 0.8;
/// The runtime, the terminal and the listeners; most of it for arrivals that cluster.
const FILES_BESIDES: u64 = 160;

/// Raises this process's limit as far as needed and allowed; returns the capacity possible under it, at
/// most the one wanted.
pub(crate) fn make_room(wanted: u32, load: f64) -> io::Result<u32> {
    let limit = rlimit::increase_nofile_limit(needed(wanted, load))?;
    (MIN_CAPACITY..=wanted)
        .rev()
        .find(|capacity| needed(*capacity, load) <= limit)
        .ok_or_else(|| {
            io::Error::other(format!(
                "only {limit} files may be open and at least {} are needed: raise `ulimit -n`",
                needed(MIN_CAPACITY, load)
            ))
        })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "at most 400 × 8.75"
)]
fn needed(capacity: u32, load: f64) -> u64 {
    let each = FILES_PER_CAPACITY * (load / USUAL_LOAD).max(1.0);
    FILES_BESIDES + (f64::from(capacity) * each).ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_seven_files_a_request_a_second() {
        assert_eq!(needed(100, 0.8), 860);
        assert_eq!(needed(100, 0.1), 860);
        assert_eq!(needed(400, 1.0), 3_660);
    }
}
