//! Response bodies: the permit that is held to the end, time limits, and the final outcome.

pub(super) mod end;
pub(super) mod final_outcome;
pub(super) mod gated;
pub(super) mod header_timeout;
pub(super) mod limits;
mod permit;
