//! What lasts until the end of a body: the permit of the call, time limits, and the final outcome.

pub(super) mod end;
pub(super) mod final_outcome;
pub(super) mod gated;
pub(super) mod header_timeout;
pub(super) mod limits;
mod permit;
