//! The layer.

use std::fmt;
use std::sync::Arc;

use ::http::request::Parts;
use bytes::Bytes;
use tower_layer::Layer;

use super::config::IdempotencyConfig;
use super::policy::Policy;
use super::scope::Scope;
use super::service::Idempotency;
use super::shared::Shared;
use crate::error::ConfigError;
use crate::idempotency::store::Store;

/// Runs an operation once, whatever is sent twice. See the [module](super).
///
/// Clones, and the services they make, share the store and the settings.
#[derive(Clone)]
pub struct IdempotencyLayer {
    shared: Arc<Shared>,
}

impl IdempotencyLayer {
    /// A layer of this name, which is part of what its records are kept under: the same for all processes that serve the same
    /// operations, another for other ones.
    ///
    /// # Errors
    ///
    /// A setting that cannot work.
    pub fn new(
        name: &str,
        store: impl Store,
        scope: Scope,
        config: IdempotencyConfig,
    ) -> Result<Self, ConfigError> {
        match Shared::new(name, Arc::new(store), scope, config) {
            Ok(shared) => Ok(Self {
                shared: Arc::new(shared),
            }),
            Err(error) => Err(error.of("idempotency", name)),
        }
    }

    /// Guards only the requests for which this holds, of those with a guarded method. All others pass untouched.
    #[must_use]
    pub fn guard(mut self, guards: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        Arc::make_mut(&mut self.shared).guards = Some(Arc::new(guards));
        self
    }

    /// What stands for the route in the place of the path: the same key on two routes stands for two operations. A path that is
    /// written in two ways, or a router that cuts off its beginning, wants one.
    #[must_use]
    pub fn route(mut self, route: impl Fn(&Parts) -> String + Send + Sync + 'static) -> Self {
        Arc::make_mut(&mut self.shared).route = Some(Arc::new(route));
        self
    }

    /// What must be equal in two requests with one key, or the second is refused with 422: by default method, path and query,
    /// `content-type` and body. For clients that write the same request in more than one way.
    #[must_use]
    pub fn fingerprint(
        mut self,
        fingerprint: impl Fn(&Parts, &Bytes) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        Arc::make_mut(&mut self.shared).fingerprint = Some(Arc::new(fingerprint));
        self
    }

    /// The settings.
    pub fn config(&self) -> &IdempotencyConfig {
        &self.shared.config
    }

    /// What its clients must know, made from the settings: to be served, or put into the service's documentation.
    pub fn policy(&self) -> Policy {
        Policy::new(Arc::clone(&self.shared))
    }

    /// How many operations are under way in this process.
    pub fn running(&self) -> usize {
        *self.shared.running.borrow()
    }

    /// Waits until no operation is under way. Handlers go on when their callers leave, and when the server stops to listen:
    /// wait here, for as long as you can, before the process ends.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn idle(&self) {
        let mut running = self.shared.running.subscribe();
        // An error would mean that the sender is gone, which this very layer holds.
        let _ = running.wait_for(|running| *running == 0).await;
    }
}

impl fmt::Debug for IdempotencyLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.fmt(f)
    }
}

impl<S> Layer<S> for IdempotencyLayer {
    type Service = Idempotency<S>;

    fn layer(&self, inner: S) -> Idempotency<S> {
        Idempotency::new(inner, Arc::clone(&self.shared))
    }
}
