//! A response body that carries the permit of its call, with its limits.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::http::Response;
use http_body::{Body, Frame, SizeHint};
use pin_project::{pin_project, pinned_drop};

use crate::call::CallOptions;
use crate::clock::Now;
use crate::error::{CallError, Error, Reason, Rejected};
use crate::event::Source;
use crate::gate::{Finish, Permit};
use crate::http::body::end::{BodyEnd, ClassifyEnd};
use crate::http::body::final_outcome::FinalOutcome;
use crate::http::body::limits::{BodyAlarm, Limits};
use crate::http::body::permit::{Carried, Unwinding, abandon, fail, settle};
use crate::http::request::HttpResponse;
use crate::outcome::{Classify, Kind, judge};
use crate::timeout::Limit;

/// Settles a gate's permit at the end of the response's body, and limits the body.
///
/// A head whose outcome is not a success settles the permit at once. After a successful head the body carries the permit
/// and settles it at the trailers, at its end or at an error. A body that is dropped while its caller waits for the next frame is an
/// abandoned call; dropped otherwise, it settles the permit with the outcome of the head. A body that sends nothing for the
/// idle limit, or that outlives the task's deadline, ends with an error; a stalled body is a failure of the service, a passed
/// deadline is not. The inner body is polled with the deadline in scope.
///
/// [`CallOptions::streams`] disables the limits for one call and settles it at the head.
///
/// ```
/// use std::time::Duration;
/// use buttress::breaker::{Breaker, BreakerConfig, BreakerLayer};
/// use buttress::http::{AtBodyEnd, ByStatus};
///
/// let breaker = Breaker::new("search", BreakerConfig::default())?;
/// let layer = BreakerLayer::new(breaker, ByStatus::new())
///     .finish(AtBodyEnd::new("search", Duration::from_secs(10)));
/// # let _ = layer;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
///
/// Without a breaker, put the limits around an [`ObserveLayer`](crate::telemetry::ObserveLayer), which reports how long each
/// call took to the end of its body. The [`DeadlineLayer`](crate::timeout::DeadlineLayer) bounds the whole call.
///
/// ```
/// use std::time::Duration;
/// use buttress::timeout::DeadlineLayer;
/// use buttress::http::{AtBodyEnd, ByStatus};
/// use buttress::telemetry::{ObserveLayer, Observed};
/// use tower::ServiceBuilder;
///
/// let observed = ObserveLayer::new(Observed::new("downloads"), ByStatus::new());
/// let limits = ServiceBuilder::new()
///     .layer(DeadlineLayer::new("downloads", Duration::from_secs(60)))
///     .layer(observed.finish(AtBodyEnd::new("downloads", Duration::from_secs(10))));
/// # let _ = limits;
/// ```
///
/// Clones share the limit.
#[derive(Clone, Debug)]
pub struct AtBodyEnd {
    idle: Arc<Limit>,
}

impl AtBodyEnd {
    /// With this limit between two frames of a body; `Duration::MAX` is none.
    pub fn new(name: impl Into<Arc<str>>, idle: Duration) -> Self {
        Self {
            idle: Limit::new("body", name, idle),
        }
    }

    pub(crate) fn source(&self) -> &Source {
        self.idle.source()
    }

    /// The longest time between two frames; `Duration::MAX` is no limit.
    pub fn idle(&self) -> Duration {
        self.idle.get()
    }

    /// Changes the limit of all clones at run time. A body that has begun is not affected.
    pub fn set_idle(&self, idle: Duration) {
        self.idle.set(idle);
    }
}

impl<B, E, P, C> Finish<Response<B>, E, P, C> for AtBodyEnd
where
    B: Body,
    E: CallError,
    P: Permit,
    C: Classify<Response<B>, E> + ClassifyEnd + Clone,
{
    type Response = Response<GatedBody<B, P, C>>;

    fn finish(
        &self,
        mut result: Result<Response<B>, E>,
        permit: P,
        classify: &C,
    ) -> Result<Self::Response, E> {
        let call = Self::begin(&mut result, permit, classify);
        Ok(result?.map(|body| self.wrap(body, call)))
    }
}

impl AtBodyEnd {
    /// Settles the permit if the head decides the outcome; otherwise returns what the body carries.
    pub(crate) fn begin<Res, E, P, C>(
        result: &mut Result<Res, E>,
        mut permit: P,
        classify: &C,
    ) -> Option<Carried<P, C>>
    where
        Res: HttpResponse,
        E: CallError,
        P: Permit,
        C: Classify<Res, E> + ClassifyEnd + Clone,
    {
        let head = judge(result, classify)?;
        match result {
            Ok(response) if head.kind == Kind::Success && !CallOptions::current_streams() => {
                permit.progress(&Now::unread());
                let followers = classify
                    .is_open(&head)
                    .then(|| FinalOutcome::of(response.extensions_mut()));
                Some(Carried {
                    permit,
                    head,
                    classify: classify.clone(),
                    followers,
                })
            }
            // An error has no body to carry the permit, even if it is classified as a success.
            _ => {
                permit.settle(head, &Now::unread());
                None
            }
        }
    }

    /// The body with its limits and the permit that it carries.
    pub(crate) fn wrap<B: Body, P: Permit, C: ClassifyEnd>(
        &self,
        body: B,
        mut call: Option<Carried<P, C>>,
    ) -> GatedBody<B, P, C> {
        if body.is_end_stream() {
            settle(&mut call, BodyEnd::Complete(None));
        }
        GatedBody {
            body,
            alarm: None,
            limits: (!CallOptions::current_streams()).then(|| Limits::new(&self.idle)),
            call,
            cut: false,
        }
    }
}

/// A response body that settles its gate's permit at its end. Made by [`AtBodyEnd`].
///
/// # Errors
///
/// [`Error::Rejected`] when the idle limit or the deadline passes, after which it is over; else the body's own error.
#[pin_project(PinnedDrop)]
#[derive(Debug)]
pub struct GatedBody<B, P: Permit, C: ClassifyEnd> {
    #[pin]
    body: B,
    alarm: BodyAlarm,
    limits: Option<Limits>,
    /// `None` once it is settled.
    call: Option<Carried<P, C>>,
    /// Whether a limit has passed and the body has ended.
    cut: bool,
}

/// A response of this crate's own has no limits and nothing to settle.
impl<B: From<String>, P: Permit, C: ClassifyEnd> From<String> for GatedBody<B, P, C> {
    fn from(text: String) -> Self {
        Self::free(text.into())
    }
}

impl<B, P: Permit, C: ClassifyEnd> GatedBody<B, P, C> {
    /// A body with no limits, and nothing to settle.
    pub(crate) const fn free(body: B) -> Self {
        Self {
            body,
            alarm: None,
            limits: None,
            call: None,
            cut: false,
        }
    }

    /// Ends the body with this rejection.
    #[cold]
    fn cut<E>(self: Pin<&mut Self>, rejected: Rejected) -> Error<E> {
        let this = self.project();
        *this.cut = true;
        if rejected.reason == Reason::Deadline {
            // A caller whose deadline has passed has left.
            abandon(this.call, this.limits.as_ref());
        } else {
            fail(this.call);
        }
        rejected.into()
    }
}

impl<B, P, C> Body for GatedBody<B, P, C>
where
    B: Body,
    P: Permit,
    C: ClassifyEnd,
{
    type Data = B::Data;
    type Error = Error<B::Error>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, Self::Error>>> {
        let mut this = self.as_mut().project();
        if *this.cut {
            return Poll::Ready(None);
        }
        let polled = {
            let _entered = this.limits.as_ref().and_then(Limits::enter);
            // The reader's options do not apply to the calls that produce the frames.
            let _hidden = CallOptions::hide_all();
            let unwinding = Unwinding(this.call);
            let polled = this.body.as_mut().poll_frame(cx);
            std::mem::forget(unwinding);
            polled
        };
        let Poll::Ready(frame) = polled else {
            let Some(limits) = this.limits else {
                return Poll::Pending;
            };
            ready!(limits.poll(this.alarm, cx));
            let rejected = limits.passed();
            return Poll::Ready(Some(Err(self.cut(rejected))));
        };
        let late = || this.limits.as_ref().filter(|limits| limits.is_late());
        match &frame {
            None => settle(this.call, BodyEnd::Complete(None)),
            Some(Ok(some)) if some.is_trailers() => {
                settle(this.call, BodyEnd::Complete(some.trailers_ref()));
            }
            Some(Ok(_)) if this.body.is_end_stream() => {
                settle(this.call, BodyEnd::Complete(None));
            }
            // A body that always has a frame ready would never poll the timer.
            Some(Ok(_)) => {
                if let Some(rejected) = late().map(Limits::late) {
                    return Poll::Ready(Some(Err(self.cut(rejected))));
                }
                if let Some(carried) = this.call {
                    carried.permit.progress(&Now::unread());
                }
            }
            // Perhaps cut short further in, by the same deadline.
            Some(Err(_)) if late().is_some() => abandon(this.call, this.limits.as_ref()),
            Some(Err(_)) => fail(this.call),
        }
        if let Some(limits) = this.limits {
            limits.progressed();
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Error::Inner)))
    }

    fn is_end_stream(&self) -> bool {
        self.cut || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.cut {
            return SizeHint::with_exact(0);
        }
        self.body.size_hint()
    }
}

/// A body dropped while its caller waits for a frame is an abandoned call: whether the frame would have come is unknown.
/// Dropped otherwise, the head decides the outcome.
#[pinned_drop]
impl<B, P: Permit, C: ClassifyEnd> PinnedDrop for GatedBody<B, P, C> {
    fn drop(self: Pin<&mut Self>) {
        let this = self.project();
        if this.call.is_none() {
            return;
        }
        match this.limits.as_ref() {
            Some(limits) if limits.is_awaited() => abandon(this.call, Some(limits)),
            _ => settle(this.call, BodyEnd::Dropped),
        }
    }
}
