//! One binary, a module a pattern.

mod budget;
mod retry;
