//! The hash of record keys and fingerprints.

use sha2::{Digest, Sha256};

/// SHA-256 over these parts. Each part is preceded by its length, which makes the encoding unambiguous.
pub(super) fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}
