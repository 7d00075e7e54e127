//! The layer, which is also the handle for code without tower.

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
use super::shared::{Inner, Terms};
use crate::allowance::SharedAllowance;
use crate::budget::{BudgetConfig, RetryBudget};
use crate::clock::Now;
use crate::error::{CallError, ConfigError};
use crate::event::{Observe, RetryStop, Source};
use crate::live_names::register;
use crate::outcome::{Classify, ErrorIsTransient, Kind, judge};
use crate::sync::Mutex;

/// Repeats failed calls. Clones, and the services they make, share one budget; the [module's page](super) says how it works.
#[derive(Debug)]
pub struct RetryLayer<R = ByClone, C = ErrorIsTransient, K = (), D = ()> {
    shared: Arc<Inner<R, C, K, D>>,
}

impl<R> RetryLayer<R> {
    /// A layer of this name, which repeats requests in this way. It has a budget of the same name and takes every `Err` for
    /// transient; [`budget`](Self::budget) and [`classify`](Self::classify) change that.
    ///
    /// # Errors
    ///
    /// If a setting cannot work, or the name is empty or has control characters.
    #[track_caller]
    pub fn new(
        name: impl Into<Arc<str>>,
        config: RetryConfig,
        repeat: R,
    ) -> Result<Self, ConfigError> {
        let location = Location::caller();
        let name = name.into();
        ConfigError::check_name("retry", &name)?;
        let budget = RetryBudget::part(name.clone(), BudgetConfig::default())?;
        let layer = Self::part(name, config, repeat, Some(budget))?;
        register(layer.source(), location, config);
        Ok(layer)
    }

    /// With a name that is not registered, because it is a part of a stack that is.
    pub(crate) fn part(
        name: impl Into<Arc<str>>,
        config: RetryConfig,
        repeat: R,
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
                    once: false,
                    source: Source::new("retry", name),
                },
                repeat,
                classify: ErrorIsTransient,
                budgets: (),
                discard: (),
            }),
        })
    }
}

impl<R: Clone, C: Clone, K: Clone, D: Clone> RetryLayer<R, C, K, D> {
    /// What results mean is for `classify` to say.
    #[must_use]
    pub fn classify<N>(self, classify: N) -> RetryLayer<R, N, K, D> {
        self.change(|of| Inner {
            terms: of.terms,
            repeat: of.repeat,
            classify,
            budgets: of.budgets,
            discard: of.discard,
        })
    }

    /// Repeats in the way that `make` makes of the one it has: wraps it, or puts another in its place.
    #[must_use]
    pub fn repeat<T>(self, make: impl FnOnce(R) -> T) -> RetryLayer<T, C, K, D> {
        self.change(|of| Inner {
            terms: of.terms,
            repeat: make(of.repeat),
            classify: of.classify,
            budgets: of.budgets,
            discard: of.discard,
        })
    }

    /// Retries are paid from this budget, which others may share.
    #[must_use]
    pub fn budget(self, budget: RetryBudget) -> Self {
        self.with_budget(Some(budget))
    }

    /// Retries are paid from the budget of each request's key, such as one per authority, instead of one for all.
    #[must_use]
    pub fn budgets<L>(self, budgets: L) -> RetryLayer<R, C, L, D> {
        self.without_budget().change(|of| Inner {
            terms: of.terms,
            repeat: of.repeat,
            classify: of.classify,
            budgets,
            discard: of.discard,
        })
    }

    /// What becomes of a failed response once the next attempt has begun. Default: it is dropped.
    #[must_use]
    pub fn discard<N>(self, discard: N) -> RetryLayer<R, C, K, N> {
        self.change(|of| Inner {
            terms: of.terms,
            repeat: of.repeat,
            classify: of.classify,
            budgets: of.budgets,
            discard,
        })
    }

    /// Retries are bounded by nothing but the attempts of each call: when the service fails, its load multiplies by
    /// [`max_attempts`](RetryConfig::max_attempts).
    #[must_use]
    pub fn without_budget(self) -> Self {
        self.with_budget(None)
    }

    /// Whether nothing at all is repeated, not even what was not executed.
    #[cfg_attr(
        not(feature = "http"),
        expect(
            dead_code,
            reason = "a stack that may do without retries comes with HTTP"
        )
    )]
    pub(crate) fn once(self, once: bool) -> Self {
        self.change(|mut of| {
            of.terms.once = once;
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
    /// Sends the events of this layer to `observer` too, for as long as the layer or one of its services lives. The budget has
    /// [events of its own](RetryBudget::observe_with).
    pub fn observe_with(&self, observer: impl Observe + 'static) {
        self.source().observe_with(Arc::new(observer));
    }

    pub(crate) fn source(&self) -> &Source {
        &self.shared.terms.source
    }

    /// The name it was given.
    pub fn name(&self) -> &Arc<str> {
        self.shared.terms.source.name()
    }

    /// Its settings.
    pub fn config(&self) -> RetryConfig {
        *self.shared.terms.config.lock()
    }

    /// Takes new settings over while running, for all clones and services. A call under way goes by them from its next
    /// failure on.
    ///
    /// # Errors
    ///
    /// The first setting that cannot work; nothing was changed then.
    pub fn reconfigure(&self, config: RetryConfig) -> Result<(), ConfigError> {
        config
            .validate()
            .map_err(|error| error.of("retry", self.name()))?;
        *self.shared.terms.config.lock() = config;
        Ok(())
    }

    /// The budget that pays for its retries, to be shared.
    pub fn shared_budget(&self) -> Option<&RetryBudget> {
        self.shared.terms.budget.as_ref()
    }

    /// Makes a call without tower: the closure is given the number of the attempt, from 1, and called again by the same rules, from
    /// the same budget. Results mean what `classify` says. What to repeat is no question here, so **every call may run twice**.
    ///
    /// ```
    /// use buttress::retry::{RetryConfig, RetryLayer, by_clone};
    /// use buttress::{Error, ErrorIsTransient};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let retry = RetryLayer::new("lookup", RetryConfig::new(), by_clone())?;
    /// let answer = retry
    ///     .run(ErrorIsTransient, async |attempt| match attempt {
    ///         1 => Err(Error::Inner("not yet")),
    ///         _ => Ok(42),
    ///     })
    ///     .await;
    /// assert_eq!(answer, Ok(42));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// The last error of `call`, untouched; a rejection of this crate's own is returned with what is true of the whole call in
    /// [`executed`](crate::Rejected::executed).
    pub async fn run<T, E, F>(
        &self,
        classify: impl Classify<T, E>,
        mut call: impl FnMut(u32) -> F,
    ) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
        E: CallError,
    {
        // `FnMut`, not `AsyncFnMut`: with that, what borrows anything could not be spawned, as the compiler cannot prove it `Send`.
        let rules = self.shared.terms.rules(None);
        let mut progress = Progress::new(rules);
        progress.polled();
        loop {
            let scope = progress.begin(rules, true);
            let mut attempt = pin!(Attempt::new(scope, || call(scope.attempt)));
            // The guard must not live across a wait; and a classifier that is lent to the future would have to be `Sync`.
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
