//! One binary, a module a pattern: it links once.

mod architecture;
mod timeout;
