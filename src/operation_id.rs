//! The ID of an operation in events, logs and lookups.

use std::fmt;
use std::str::FromStr;

/// The short ID of an operation, for logs and support: the first 16 bytes of its record key, as 32 hexadecimal digits.
///
/// It is a digest: it reveals neither the idempotency key nor the tenant.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OperationId(pub [u8; 16]);

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&to_hex(&self.0))
    }
}

impl fmt::Debug for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for OperationId {
    type Err = ParseOperationIdError;

    /// Reads 32 hexadecimal digits.
    fn from_str(digits: &str) -> Result<Self, ParseOperationIdError> {
        let mut id = [0; 16];
        from_hex(digits, &mut id)
            .map(|()| Self(id))
            .ok_or(ParseOperationIdError(()))
    }
}

/// The text is not an operation ID, which has 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseOperationIdError(());

impl fmt::Display for ParseOperationIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an operation ID has 32 hexadecimal digits")
    }
}

impl std::error::Error for ParseOperationIdError {}

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

/// Fills the bytes from exactly twice as many hexadecimal digits.
pub(crate) fn from_hex(digits: &str, bytes: &mut [u8]) -> Option<()> {
    let digits = digits.as_bytes();
    if digits.len() != 2 * bytes.len() {
        return None;
    }
    let digit = |digit: u8| {
        char::from(digit)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(())
}
