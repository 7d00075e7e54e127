//! The outcome at the end of a body.

use ::http::HeaderMap;

use crate::outcome::Outcome;

/// Decides the outcome at the end of a body whose head was a success.
pub trait ClassifyEnd {
    /// The outcome of a response whose head had the outcome `head` and whose body ended this way.
    fn end(&self, head: Outcome, end: BodyEnd<'_>) -> Outcome {
        let _ = end;
        head
    }

    /// Whether the outcome of a response with this head is known only at the end of its body, as in gRPC. Retry budgets and
    /// observers of the standard stack then wait for the end. Default: no.
    fn is_open(&self, head: &Outcome) -> bool {
        let _ = head;
        false
    }
}

/// How the body of a response ended.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum BodyEnd<'a> {
    /// It is complete, with these trailers if it has any.
    Complete(Option<&'a HeaderMap>),
    /// It was dropped before its end, by a caller who was not waiting for the next frame.
    Dropped,
}
