//! How a failed check shows steps and results.

use std::fmt;

use bytes::Bytes;

use super::step::{Found, FoundState, Request, Said, Seen, Step};

/// What is long is shown by its ends.
fn answer(answer: &Bytes) -> String {
    let (length, shown) = (answer.len(), 12);
    if length <= 2 * shown {
        return format!("{answer:?}");
    }
    let (first, last) = (answer.slice(..shown), answer.slice(length - shown..));
    format!("{length} bytes, {first:?} to {last:?}")
}

impl fmt::Debug for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started(run) => write!(f, "`Started` in run {run}"),
            Self::Running => f.write_str("`Running`"),
            Self::Done(bytes) => write!(f, "`Done` with {}", answer(bytes)),
            Self::Mismatch => f.write_str("`Mismatch`"),
            Self::Renewed(held) => write!(f, "`{held}`"),
            Self::Taken => f.write_str("`Taken`"),
            Self::Already(bytes) => write!(f, "`Already` with {}", answer(bytes)),
            Self::Lost => f.write_str("`Lost`"),
            Self::Nothing => f.write_str("`None`"),
            Self::Found(Found { run, holder, state }) => {
                let state = match state {
                    FoundState::Running => "running".to_owned(),
                    FoundState::Stopped => "stopped".to_owned(),
                    FoundState::Done(bytes) => format!("done with {}", answer(bytes)),
                };
                match holder {
                    Some(who) => write!(f, "run {run} of holder {who}, {state}"),
                    None => write!(f, "run {run} of another holder, {state}"),
                }
            }
            Self::Resolved(resolved) => write!(f, "`{resolved:?}`"),
        }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::This => "this request",
            Self::Other => "another request",
        })
    }
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Begin(who, request, lease, ttl) => write!(
                f,
                "begin by holder {who} of {request:?}, lease {lease:?}, ttl {ttl:?}"
            ),
            Self::Renew(who, lease, ttl) => {
                write!(f, "renew by holder {who}, lease {lease:?}, ttl {ttl:?}")
            }
            Self::Complete(who, bytes, ttl) => {
                let answer = answer(bytes);
                write!(f, "complete by holder {who} with {answer}, ttl {ttl:?}")
            }
            Self::Abandon(who) => write!(f, "abandon by holder {who}"),
            Self::Find => f.write_str("find"),
            Self::Resolve(seen, stopped_for, end) => {
                match seen {
                    Seen::Current => f.write_str("resolve what is found"),
                    Seen::Open(who, run) => write!(f, "resolve run {run} of holder {who}"),
                    Seen::Done(who, run) => {
                        write!(f, "resolve run {run} that holder {who} completed")
                    }
                }?;
                write!(f, ", stopped for {stopped_for:?}, ")?;
                match end {
                    None => f.write_str("as released"),
                    Some((bytes, ttl)) => write!(f, "as {}, ttl {ttl:?}", answer(bytes)),
                }
            }
        }
    }
}
