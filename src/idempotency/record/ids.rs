//! The identifiers of a record, a request and a holder.

use std::fmt;
use std::str::FromStr;

use crate::chance::draw;
use crate::operation_id::{OperationId, from_hex, to_hex};

/// The key of a record: a digest of the layer's name, the tenant, the method, the route and the caller's key. Stores never
/// see the caller's key itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordKey(pub [u8; 32]);

impl RecordKey {
    /// The key as 64 hexadecimal digits, which [`FromStr`] reads back.
    pub fn to_hex(&self) -> String {
        to_hex(&self.0)
    }

    /// The short name of the operation.
    pub fn operation_id(&self) -> OperationId {
        let mut id = [0; 16];
        id.copy_from_slice(&self.0[..16]);
        OperationId(id)
    }
}

impl FromStr for RecordKey {
    type Err = ParseRecordKeyError;

    /// Reads 64 hexadecimal digits.
    fn from_str(digits: &str) -> Result<Self, ParseRecordKeyError> {
        let mut key = [0; 32];
        from_hex(digits, &mut key)
            .map(|()| Self(key))
            .ok_or(ParseRecordKeyError(()))
    }
}

/// The text is not a record key, which has 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a record key has 64 hexadecimal digits")]
pub struct ParseRecordKeyError(());

/// A digest of a request. A request with a used key and another fingerprint is rejected.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

/// The fencing token of a record's holder: 128 random bits, new for each claim. Changes by a holder that has lost the
/// record have no effect. Tokens are compared for equality, not ordered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Token(pub [u8; 16]);

impl Token {
    /// The holder that [`Store::abandon`](super::super::store::Store::abandon) leaves in a record of a later run. No claim has this token.
    pub const NOBODY: Self = Self([0; 16]);

    /// A new random token.
    pub fn new() -> Self {
        let mut bits = [0; 16];
        bits[..8].copy_from_slice(&draw().bits().to_le_bytes());
        bits[8..].copy_from_slice(&draw().bits().to_le_bytes());
        Self(bits)
    }
}

impl Default for Token {
    fn default() -> Self {
        Self::new()
    }
}

/// Shows the first four bytes.
fn shortened(f: &mut fmt::Formatter<'_>, name: &str, bytes: &[u8]) -> fmt::Result {
    write!(f, "{name}(")?;
    for byte in bytes.iter().take(4) {
        write!(f, "{byte:02x}")?;
    }
    f.write_str("…)")
}

macro_rules! debug_shortened {
    ($($name:ident)*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                shortened(f, stringify!($name), &self.0)
            }
        }
    )*};
}

debug_shortened!(RecordKey Fingerprint Token);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_a_fingerprint_and_a_token_show_their_first_four_bytes() {
        let shown = [
            format!("{:?}", RecordKey([0xab; 32])),
            format!("{:?}", Fingerprint([0x0c; 32])),
            format!("{:?}", Token([0xff; 16])),
        ];
        let expected = [
            "RecordKey(abababab…)",
            "Fingerprint(0c0c0c0c…)",
            "Token(ffffffff…)",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn the_digits_of_a_key_are_read_back_and_nothing_else_is() {
        let mut key = RecordKey([0xab; 32]);
        key.0[0] = 0x0c;
        let id = key.operation_id();
        let shown = format!("0c{}", "ab".repeat(15));
        assert_eq!(
            [id.to_string(), format!("{id:?}")],
            [shown.clone(), shown.clone()]
        );
        assert_eq!(shown.parse(), Ok(id));
        let error = shown[1..].parse::<OperationId>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "an operation ID has 32 hexadecimal digits"
        );
        let digits = key.to_hex();
        assert_eq!(digits, format!("0c{}", "ab".repeat(31)));
        assert_eq!(digits.parse(), Ok(key));
        assert_eq!(digits.to_uppercase().parse(), Ok(key));
        for wrong in [
            String::new(),
            digits[2..].to_owned(),
            format!("{digits}00"),
            digits.replace('c', "g"),
            digits.replacen("0c", "+c", 1),
            digits.replacen("0c", "\u{e9}", 1),
        ] {
            let error = wrong.parse::<RecordKey>().unwrap_err();
            let text = "a record key has 64 hexadecimal digits";
            assert_eq!(error.to_string(), text, "{wrong}");
        }
    }
}
