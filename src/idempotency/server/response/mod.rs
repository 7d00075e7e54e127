//! Stored responses: which are stored, their format, and the body type.

pub(super) mod body;
pub(super) mod recorded;
pub(super) mod storage;
