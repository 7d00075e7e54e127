//! Keys that nobody has used.

use crate::chance;
use crate::idempotency::store::RecordKey;

/// A key that nobody has used.
pub(super) fn new_key() -> RecordKey {
    let mut key = [0; 32];
    for part in key.chunks_exact_mut(8) {
        part.copy_from_slice(&chance::unseeded().bits().to_le_bytes());
    }
    RecordKey(key)
}
