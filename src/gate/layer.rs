//! The layer of every gate pattern.

use tower_layer::Layer;

use super::{AtResult, Gate};

/// Puts a [`Policy`](super::Policy) in front of a service. `C` classifies results; `H` decides when a permit is
/// settled.
///
/// Stateless: all state lives in the policy's handle, which every service this layer makes shares.
#[derive(Clone, Debug)]
pub struct GateLayer<P, C = crate::ErrorIsTransient, H = AtResult> {
    policy: P,
    classify: C,
    finish: H,
}

impl<P, C> GateLayer<P, C> {
    /// A gate with this policy and classifier. A permit is settled with the result.
    pub const fn new(policy: P, classify: C) -> Self {
        Self {
            policy,
            classify,
            finish: AtResult,
        }
    }
}

impl<P, C, H> GateLayer<P, C, H> {
    pub(crate) const fn policy(&self) -> &P {
        &self.policy
    }

    /// Replaces how permits are settled.
    pub fn finish<G>(self, finish: G) -> GateLayer<P, C, G> {
        GateLayer {
            policy: self.policy,
            classify: self.classify,
            finish,
        }
    }

    /// Replaces the classifier.
    pub fn classify<D>(self, classify: D) -> GateLayer<P, D, H> {
        GateLayer {
            policy: self.policy,
            classify,
            finish: self.finish,
        }
    }
}

impl<S, P: Clone, C: Clone, H: Clone> Layer<S> for GateLayer<P, C, H> {
    type Service = Gate<S, P, C, H>;

    fn layer(&self, inner: S) -> Self::Service {
        Gate::new(
            inner,
            self.policy.clone(),
            self.classify.clone(),
            self.finish.clone(),
        )
    }
}
