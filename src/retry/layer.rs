//! The layer, which is also the handle for calls without tower.

use std::future::{Future, poll_fn};
use std::panic::Location;
use std::pin::pin;
use std::sync::Arc;

use tower_layer::Layer;

use super::attempt::Attempt;
use super::config::RetryConfig;
use super::progress::Progress;
use super::replay::ByClone;
use super::service::Retry;
use super::terms::{Inner, Terms};
use crate::allowance::SharedAllowance;
use crate::budget::{BudgetConfig, RetryBudget};
use crate::clock::Now;
use crate::error::{CallError, ConfigError};
use crate::event::{Observe, RetryStop, Source};
use crate::live_names::register;
use crate::outcome::{Classify, ErrorIsTransient, Kind, judge};
use crate::sync::Mutex;

/// Retries failed calls. Clones of the layer and its services share one budget. See the [module](super).
#[derive(Debug)]
pub struct RetryLayer<R = ByClone, C = ErrorIsTransient, K = (), D = ()> {
    shared: Arc<Inner<R, C, K, D>>,
}

impl<R> RetryLayer<R> {
    /// A layer with this name and replay policy. It has a budget of the same name and treats every `Err` as transient;
    /// [`budget`](Self::budget) and [`classify`](Self::classify) change that.
    ///
    /// # Errors
    ///
    /// If a setting cannot work, or the name is empty or has control characters.
    #[track_caller]
    pub fn new(
        name: impl Into<Arc<str>>,
        config: RetryConfig,
        replay: R,
    ) -> Result<Self, ConfigError> {
        let location = Location::caller();
        let name = name.into();
        ConfigError::check_name("retry", &name)?;
        let budget = RetryBudget::part(name.clone(), BudgetConfig::default())?;
        let layer = Self::part(name, config, replay, Some(budget))?;
        register(layer.source(), location, config);
        Ok(layer)
    }

    /// A layer whose name is not registered, because it is part of a stack that is registered.
    pub(crate) fn part(
        name: impl Into<Arc<str>>,
        config: RetryConfig,
        replay: R,
        budget: Option<RetryBudget>,
    ) -> Result<Self, ConfigError> {
        let name = name.into();
        ConfigError::check_name("retry", &name)?;
        config
            .validate()
            .map_err(|error| error.of("retry", &name))?;
        Ok(Self {
            shared: Arc::new(Inner {
                terms: Terms {
                    config: Arc::new(Mutex::new(config)),
                    budget,
                    allowance: Arc::new(SharedAllowance::full()),
                    enabled: true,
                    source: Source::new("retry", name),
                },
                replay,
                classify: ErrorIsTransient,
                budgets: (),
                discard: (),
            }),
        })
    }
}

impl<R: Clone, C: Clone, K: Clone, D: Clone> RetryLayer<R, C, K, D> {
    /// Sets the classifier of results.
    #[must_use]
    pub fn classify<N>(self, classify: N) -> RetryLayer<R, N, K, D> {
        self.change(|of| Inner {
            terms: of.terms,
            replay: of.replay,
            classify,
            budgets: of.budgets,
            discard: of.discard,
        })
    }

    /// Replaces the replay policy by the one that `make` returns. `make` receives the present policy, to wrap or to drop.
    #[must_use]
    pub fn replay<T>(self, make: impl FnOnce(R) -> T) -> RetryLayer<T, C, K, D> {
        self.change(|of| Inner {
            terms: of.terms,
            replay: make(of.replay),
            classify: of.classify,
            budgets: of.budgets,
            discard: of.discard,
        })
    }

    /// Sets the budget that pays for retries. Layers can share a budget.
    #[must_use]
    pub fn budget(self, budget: RetryBudget) -> Self {
        self.with_budget(Some(budget))
    }

    /// Sets a budget per key, such as one per authority, in place of one budget for all requests.
    #[must_use]
    pub fn budgets<L>(self, budgets: L) -> RetryLayer<R, C, L, D> {
        self.without_budget().change(|of| Inner {
            terms: of.terms,
            replay: of.replay,
            classify: of.classify,
            budgets,
            discard: of.discard,
        })
    }

    /// Sets how failed responses are disposed of after the next attempt has begun. Default: they are dropped.
    #[must_use]
    pub fn discard<N>(self, discard: N) -> RetryLayer<R, C, K, N> {
        self.change(|of| Inner {
            terms: of.terms,
            replay: of.replay,
            classify: of.classify,
            budgets: of.budgets,
            discard,
        })
    }

    /// Removes the budget. Only the attempts of each call bound the retries: when the service fails, its load multiplies by
    /// [`max_attempts`](RetryConfig::max_attempts).
    #[must_use]
    pub fn without_budget(self) -> Self {
        self.with_budget(None)
    }

    /// Whether calls are retried. `false` sends each request once, even if it was not executed.
    #[cfg_attr(
        not(feature = "http"),
        expect(
            dead_code,
            reason = "a stack that may do without retries comes with HTTP"
        )
    )]
    pub(crate) fn enabled(self, enabled: bool) -> Self {
        self.change(|mut of| {
            of.terms.enabled = enabled;
            of
        })
    }

    fn with_budget(self, budget: Option<RetryBudget>) -> Self {
        self.change(|mut of| {
            of.terms.budget = budget;
            of
        })
    }

    fn change<R2, C2, K2, D2>(
        self,
        change: impl FnOnce(Inner<R, C, K, D>) -> Inner<R2, C2, K2, D2>,
    ) -> RetryLayer<R2, C2, K2, D2> {
        RetryLayer {
            shared: Arc::new(change(Arc::unwrap_or_clone(self.shared))),
        }
    }
}

impl<R, C, K, D> RetryLayer<R, C, K, D> {
    /// Sends the events of this layer to `observer` as well, while the layer or one of its services exists. The budget has
    /// [its own events](RetryBudget::observe_with).
    pub fn observe_with(&self, observer: impl Observe + 'static) {
        self.source().observe_with(Arc::new(observer));
    }

    pub(crate) fn source(&self) -> &Source {
        &self.shared.terms.source
    }

    /// The name of the layer.
    pub fn name(&self) -> &Arc<str> {
        self.shared.terms.source.name()
    }

    /// The current settings.
    pub fn config(&self) -> RetryConfig {
        *self.shared.terms.config.lock()
    }

    /// Changes the settings at runtime, for all clones and services. A call in progress uses them from its next failure.
    ///
    /// # Errors
    ///
    /// The first invalid setting. Nothing is changed in that case.
    pub fn reconfigure(&self, config: RetryConfig) -> Result<(), ConfigError> {
        config
            .validate()
            .map_err(|error| error.of("retry", self.name()))?;
        *self.shared.terms.config.lock() = config;
        Ok(())
    }

    /// The budget that pays for the retries, to share it with other layers.
    pub fn shared_budget(&self) -> Option<&RetryBudget> {
        self.shared.terms.budget.as_ref()
    }

    /// Makes a call without tower. The closure receives the number of the attempt, from 1. It is called again by the rules of the
    /// layer, at the expense of its budget. There is no replay policy here: **every call may run twice**.
    ///
    /// ```
    /// use buttress::retry::{RetryConfig, RetryLayer, by_clone};
    /// use buttress::{Error, ErrorIsTransient};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let retry = RetryLayer::new("lookup", RetryConfig::new(), by_clone())?;
    /// let result = retry
    ///     .run(ErrorIsTransient, async |attempt| match attempt {
    ///         1 => Err(Error::Inner("not yet")),
    ///         _ => Ok(42),
    ///     })
    ///     .await;
    /// assert_eq!(result, Ok(42));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// The last error of `call`, unchanged. In a rejection of this crate, [`executed`](crate::Rejected::executed) covers the whole
    /// call.
    pub async fn run<T, E, F>(
        &self,
        classify: impl Classify<T, E>,
        mut call: impl FnMut(u32) -> F,
    ) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
        E: CallError,
    {
        // Not `AsyncFnMut`: the compiler could not prove that the future of a borrowing closure is `Send`.
        let rules = self.shared.terms.rules(None);
        let mut progress = Progress::new(rules);
        progress.polled();
        loop {
            let scope = progress.begin(rules, true);
            let mut attempt = pin!(Attempt::new(scope, || call(scope.attempt)));
            // The guard must not live across an await, and a classifier borrowed by the future would have to be `Sync`.
            let ended = |(result, _judging)| result;
            let result = poll_fn(|cx| attempt.as_mut().poll(cx).map(ended)).await;
            let marks = attempt.marks();
            let judged = {
                let _attempt = scope.not_last().enter();
                judge(&result, &classify)
            };
            let outcome = match judged {
                Some(outcome) if outcome.kind != Kind::Success => outcome.heeding(marks),
                judged => {
                    progress.end(rules, judged.is_some());
                    return result;
                }
            };
            match progress.failed(rules, outcome, &result, marks, None) {
                None => return progress.claim(result),
                Some(wait) if wait.is_zero() => {}
                Some(wait) => tokio::time::sleep(wait).await,
            }
            let now = Now::unread();
            if progress.deadline().is_some_and(|at| at.is_over(&now)) {
                return progress.give_up(rules, RetryStop::Deadline, result);
            }
        }
    }
}

impl<R, C, K, D> Clone for RetryLayer<R, C, K, D> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl<S, R, C, K, D> Layer<S> for RetryLayer<R, C, K, D> {
    type Service = Retry<S, R, C, K, D>;

    fn layer(&self, inner: S) -> Retry<S, R, C, K, D> {
        Retry::new(inner, self.shared.clone())
    }
}
