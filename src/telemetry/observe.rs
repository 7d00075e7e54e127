//! Reports each call: rate, errors and duration, three of the four golden signals. (The fourth, saturation, is what the
//! rejections say.)

use std::sync::Arc;

use crate::clock::{Moment, Now};
use crate::error::Rejected;
use crate::event::{Event, Source, emit};
use crate::gate::{GateLayer, Permit, Policy};
use crate::outcome::Outcome;

/// Reports every call that passes it as [`Event::Finished`].
///
/// ```
/// use buttress::ErrorIsTransient;
/// use buttress::telemetry::{ObserveLayer, Observed};
///
/// let outermost = ObserveLayer::new(Observed::new("payments.call"), ErrorIsTransient);
/// let innermost = ObserveLayer::new(Observed::new("payments.attempt"), ErrorIsTransient);
/// # let _ = (outermost, innermost);
/// ```
pub type ObserveLayer<C> = GateLayer<Observed, C>;

/// A gate that is always open, and watches.
#[derive(Clone, Debug)]
pub struct Observed {
    source: Arc<Source>,
}

impl Observed {
    /// Reports calls under this name.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self {
            source: Arc::new(Source::new("observe", name)),
        }
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

/// A call that is being observed. Dropped unsettled, it is reported as a call whose caller left.
#[derive(Debug)]
#[must_use = "dropping it reports a call whose caller left"]
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
