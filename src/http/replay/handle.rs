//! What makes further attempts of a body.

use std::fmt;
use std::sync::Arc;

use http_body::{Body, SizeHint};

use super::body::ReplayBody;
use super::buffer::Buffer;
use crate::sync::Mutex;

/// Makes further attempts of a body. Made by [`ReplayBody::new`]; when it is dropped, nothing more is kept.
pub(crate) struct BodyBuffer<B> {
    /// `None` if the body is empty.
    shared: Option<Arc<Mutex<Shared<B>>>>,
    hint: SizeHint,
}

/// What all attempts of a body share.
pub(super) struct Shared<B> {
    pub(super) buffer: Buffer,
    /// Until it is read.
    pub(super) original: Option<B>,
}

impl<B: Body> BodyBuffer<B> {
    pub(super) fn new(body: B, limit: usize) -> Self {
        let hint = body.size_hint();
        let shared = (!body.is_end_stream()).then(|| {
            Arc::new(Mutex::new(Shared {
                buffer: Buffer::new(limit, hint.lower()),
                original: Some(body),
            }))
        });
        Self { shared, hint }
    }
}

impl<B> BodyBuffer<B> {
    /// The body for another attempt; `None` if there can be none now.
    ///
    /// From then on only this attempt may begin to read the original.
    pub(crate) fn again(&self) -> Option<ReplayBody<B>> {
        let attempt = match &self.shared {
            Some(shared) => shared.lock().buffer.attempt()?,
            None => 1,
        };
        Some(self.body(attempt))
    }

    pub(super) fn first(&self) -> ReplayBody<B> {
        self.body(1)
    }

    /// Whether there can be another attempt now: nothing was read of the body, or all of it, and it was not too large.
    pub(crate) fn is_replayable(&self) -> bool {
        self.shared
            .as_ref()
            .is_none_or(|shared| shared.lock().buffer.is_replayable())
    }

    fn body(&self, attempt: u32) -> ReplayBody<B> {
        ReplayBody::attempt(attempt, self.shared.clone(), SizeHint::clone(&self.hint))
    }
}

impl<B> Drop for BodyBuffer<B> {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            let freed = shared.lock().buffer.unneeded();
            drop(freed);
        }
    }
}

impl<B> fmt::Debug for BodyBuffer<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyBuffer")
            .field("replayable", &self.is_replayable())
            .finish_non_exhaustive()
    }
}
