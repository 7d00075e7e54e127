//! Reports each call: rate, errors and duration, three of the four golden signals. (The fourth, saturation, is shown by the
//! rejections.)

use std::sync::Arc;

use crate::clock::{Moment, Now};
use crate::error::Rejected;
use crate::event::{Event, Observe, Source, emit};
use crate::gate::{GateLayer, Permit, Policy};
use crate::outcome::Outcome;

/// Reports every call that passes it as [`Event::Finished`].
///
/// ```
/// use buttress::ErrorIsTransient;
/// use buttress::telemetry::{ObserveLayer, Observed};
///
/// let outermost = ObserveLayer::new(Observed::new("payments"), ErrorIsTransient);
/// let innermost = ObserveLayer::new(Observed::attempts("payments"), ErrorIsTransient);
/// # let _ = (outermost, innermost);
/// ```
pub type ObserveLayer<C> = GateLayer<Observed, C>;

/// A policy that admits and reports every call.
#[derive(Clone, Debug)]
pub struct Observed {
    source: Arc<Source>,
}

impl Observed {
    /// Reports calls under this name, with the scope `"call"`: for an observer outside of retries.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self::scoped(name, "call")
    }

    /// Reports attempts under this name, with the scope `"attempt"`: for an observer inside of retries.
    pub fn attempts(name: impl Into<Arc<str>>) -> Self {
        Self::scoped(name, "attempt")
    }

    fn scoped(name: impl Into<Arc<str>>, scope: &'static str) -> Self {
        Self {
            source: Arc::new(Source::scoped("observe", name, scope)),
        }
    }

    /// Sends the events of these calls to `observer` too, for as long as a clone of this lives.
    pub fn observe_with(&self, observer: impl Observe + 'static) {
        self.source.observe_with(Arc::new(observer));
    }

    #[cfg(feature = "http")]
    pub(crate) fn source(&self) -> &Source {
        &self.source
    }

    /// The name it was given.
    pub fn name(&self) -> &Arc<str> {
        self.source.name()
    }
}

impl<Req: ?Sized> Policy<Req> for Observed {
    type Permit = Observation;

    fn admit(&self, _request: &Req, now: &Now) -> Result<Observation, Rejected> {
        Ok(Observation {
            source: Some(Arc::clone(&self.source)),
            started: now.moment(),
        })
    }
}

/// The permit of an observed call. Dropping it unsettled reports the call as abandoned.
#[derive(Debug)]
#[must_use = "dropping it reports the call as abandoned"]
pub struct Observation {
    source: Option<Arc<Source>>,
    started: Moment,
}

impl Observation {
    fn report(&mut self, outcome: Option<Outcome>, now: &Now) {
        if let Some(source) = self.source.take() {
            emit(&Event::Finished {
                source: &source,
                outcome,
                took: now.moment().since(self.started),
            });
        }
    }
}

impl Permit for Observation {
    fn settle(mut self, outcome: Outcome, now: &Now) {
        self.report(Some(outcome), now);
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        self.report(None, &Now::unread());
    }
}
