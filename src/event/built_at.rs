//! The place where a handle was built.

use std::fmt;
use std::panic::Location;

/// Where a handle was built, and with which settings.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct BuiltAt<'a> {
    /// The line that built it.
    pub location: &'static Location<'static>,
    /// The settings it was built with.
    pub settings: &'a (dyn fmt::Debug + Send + Sync),
}
