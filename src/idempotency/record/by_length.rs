//! Stored responses in `Debug` output.

use std::fmt;

use bytes::Bytes;

/// Shows the length of a stored response in place of its bytes, which may be confidential.
pub(crate) struct ByLength<'a>(pub(crate) &'a Bytes);

impl fmt::Debug for ByLength<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}
