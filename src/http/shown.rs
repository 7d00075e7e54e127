//! How settings are shown.

use std::fmt;
use std::time::Duration;

/// A limit: `Duration::MAX` is none.
pub(super) struct Shown(pub(super) Duration);

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Duration::MAX => f.write_str("none"),
            limit => limit.fmt(f),
        }
    }
}
