//! What a client is told to do about each problem.

use super::config::{AfterCrash, IdempotencyConfig};
use super::keep::StoragePolicy;
use super::scope::Scope;
use crate::key_problem::{KeyFault, KeyProblem};

/// Whether a request that was refused should be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// The same request, with the same key.
    Same,
    /// Only after it was corrected.
    Corrected,
    /// Not at all.
    Never,
}

impl Again {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Corrected => "corrected",
            Self::Never => "never",
        }
    }

    pub(super) const fn in_words(self) -> &'static str {
        match self {
            Self::Same => "yes, with the same key",
            Self::Corrected => "when corrected",
            Self::Never => "no",
        }
    }
}

/// One problem, and what to do about it.
pub(super) struct Advice {
    pub(super) problem: KeyProblem,
    /// Whether it can come up with these settings.
    pub(super) occurs: bool,
    pub(super) again: Again,
    pub(super) what: &'static str,
}

/// All problems, by status.
pub(super) fn advice(config: &IdempotencyConfig, scope: &Scope) -> Vec<Advice> {
    let each = [
        KeyProblem::Missing,
        KeyProblem::Malformed(KeyFault::NotOneString),
        KeyProblem::Incomplete,
        KeyProblem::NoTenant,
        KeyProblem::InProgress,
        KeyProblem::NotKept,
        KeyProblem::Unknown,
        KeyProblem::TooSlow,
        KeyProblem::TooLarge(Some(config.max_request_body)),
        KeyProblem::Reused,
        KeyProblem::Failed,
        KeyProblem::NotExecuted,
        KeyProblem::TooManyOperations,
        KeyProblem::StoreUnavailable,
    ];
    each.into_iter()
        .map(|problem| {
            let (again, what) = about(problem, config);
            let occurs = match problem {
                KeyProblem::Missing => config.required,
                KeyProblem::NoTenant => !matches!(scope, Scope::Global),
                _ => true,
            };
            Advice {
                problem,
                occurs,
                again,
                what,
            }
        })
        .collect()
}

fn about(problem: KeyProblem, config: &IdempotencyConfig) -> (Again, &'static str) {
    match problem {
        KeyProblem::Missing => (
            Again::Corrected,
            "Nothing was done. Choose a key, and send it with this request and each repetition of it.",
        ),
        KeyProblem::Malformed(_) => (
            Again::Corrected,
            "Nothing was done. Correct the key; the detail says what is wrong with it.",
        ),
        KeyProblem::NoTenant => (
            Again::Corrected,
            "Nothing was done. Say who you are, as the service asks you to.",
        ),
        KeyProblem::Incomplete => (
            Again::Same,
            "Nothing was done: the body of the request broke off.",
        ),
        KeyProblem::TooSlow => (
            Again::Same,
            "Nothing was done: the body of the request arrived too slowly.",
        ),
        KeyProblem::TooLarge(_) => (
            Again::Corrected,
            "Nothing was done. Make the body of the request smaller.",
        ),
        // A client refuses it, not this server.
        KeyProblem::SecondCall => (Again::Corrected, "Nothing was done."),
        KeyProblem::Reused => (
            Again::Corrected,
            "Nothing was done. An operation of its own needs a key of its own; a repetition must be the same request.",
        ),
        KeyProblem::InProgress => (
            Again::Same,
            "The operation is under way. Ask for its answer after `Retry-After`, and again until it is there.",
        ),
        KeyProblem::NotKept => (
            Again::Never,
            "The operation was done; its answer is not kept. Look up its result in another way.",
        ),
        KeyProblem::Unknown if config.after_crash == AfterCrash::Refuse => (
            Again::Never,
            "The operation took too long or was cut off, and may have been done. Find out before you do it under a new key.",
        ),
        KeyProblem::Unknown => (
            Again::Never,
            "The operation took too long, and may have been done. Find out before you do it under a new key.",
        ),
        KeyProblem::Failed if config.keep == StoragePolicy::Definitive => (
            Again::Never,
            "The operation failed, and may have been done in part. Find out before you do it under a new key.",
        ),
        KeyProblem::Failed => (
            Again::Same,
            "The operation failed, and the key is free: the same request runs it again.",
        ),
        KeyProblem::NotExecuted => (
            Again::Same,
            "The operation failed before it had an effect. Send it again after `Retry-After`.",
        ),
        KeyProblem::TooManyOperations | KeyProblem::StoreUnavailable => (
            Again::Same,
            "Nothing was done by this request. Send it again after `Retry-After`.",
        ),
    }
}
