//! Errors of calls and of settings.

use std::borrow::Cow;
use std::fmt;

use thiserror::Error as ThisError;

pub use crate::rejected::{Quota, Reason, Rejected};

/// The error of a service that can hold a [`Rejected`]. The layers require it.
///
/// It is implemented for [`Rejected`], [`Error<E>`] and [`BoxError`]. A [`BoxError`] finds a rejection only if it certainly concerns
/// the same call: boxed directly, in an [`Error<E>`], or as the source of a known client's error. Below any other error, a
/// rejection may belong to another call and is not found. Implement the trait for your own enum as shown below. For a foreign
/// error, add `.map_err(buttress::Error::Inner)` innermost in the stack.
///
/// ```
/// use buttress::{CallError, Rejected};
///
/// #[derive(Debug, thiserror::Error)]
/// enum PaymentError {
///     #[error("the payment was declined")]
///     Declined,
///     #[error("the payment service cannot be called now")]
///     Unavailable(#[from] #[source] Rejected),
/// }
///
/// impl CallError for PaymentError {
///     fn rejected(&self) -> Option<&Rejected> {
///         if let Self::Unavailable(rejected) = self { Some(rejected) } else { None }
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "the error `{Self}` cannot hold a rejection of this crate",
    label = "this service's error must implement `buttress::CallError`",
    note = "wrap a foreign error innermost in the stack: `.map_err(buttress::Error::Inner)`",
    note = "a client without layers: wrap it in a stack, for example `client(\"name\", ClientConfig::default())?.layer(reqwest_client)`",
    note = "an `Infallible` service (axum): wrap the layers in `buttress::http::handle_rejections(layers)`",
    note = "your own error enum: add a variant `Rejected(#[from] #[source] buttress::Rejected)` and implement `buttress::CallError`"
)]
pub trait CallError: From<Rejected> {
    /// The rejection, if this error is one.
    fn rejected(&self) -> Option<&Rejected>;
}

impl CallError for Rejected {
    fn rejected(&self) -> Option<&Rejected> {
        Some(self)
    }
}

/// Any error, boxed: the error of tower's own `Buffer` and `Timeout`.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A rejection, or the unchanged error of the service.
///
/// A rejection displays as the event and the layer. Its [`source`](std::error::Error::source) is the [`Rejected`], which displays
/// the reason with its numbers. Code that prints the whole chain prints each part once. `{:#}` prints both parts on one line. The
/// service's error displays as itself, with its own sources.
///
/// ```
/// use buttress::{Error, Reason, Rejected};
///
/// let error: Error<std::io::Error> = Rejected::new(Reason::CircuitOpen, "payments").into();
/// assert_eq!(error.to_string(), "call rejected by circuit breaker `payments`");
/// assert_eq!(
///     format!("{error:#}"),
///     "call rejected by circuit breaker `payments`: circuit breaker `payments` is open"
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error<E> {
    /// This crate rejected or ended the call.
    Rejected(Rejected),
    /// The service's own error.
    Inner(E),
}

impl<E> From<Rejected> for Error<E> {
    fn from(rejected: Rejected) -> Self {
        Self::Rejected(rejected)
    }
}

impl<E: fmt::Display> fmt::Display for Error<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(rejected) if f.alternate() => {
                write!(f, "{}: {rejected}", rejected.summary())
            }
            Self::Rejected(rejected) => rejected.summary().fmt(f),
            Self::Inner(error) => error.fmt(f),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for Error<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Rejected(rejected) => Some(rejected),
            Self::Inner(error) => error.source(),
        }
    }

    // In a box, only the description distinguishes a rejection in an `Error` of any type from a foreign error whose source is a
    // rejection.
    #[allow(deprecated)]
    fn description(&self) -> &str {
        match self {
            Self::Rejected(_) => REJECTION,
            Self::Inner(error) => error.description(),
        }
    }
}

/// The description of an [`Error::Rejected`], whose source is the [`Rejected`].
pub(crate) const REJECTION: &str = "a call that buttress has rejected";

impl<E> Error<E> {
    /// The service's own error, if it is one.
    pub fn into_inner(self) -> Option<E> {
        match self {
            Self::Inner(error) => Some(error),
            Self::Rejected(_) => None,
        }
    }
}

impl<E> CallError for Error<E> {
    fn rejected(&self) -> Option<&Rejected> {
        match self {
            Self::Rejected(rejected) => Some(rejected),
            Self::Inner(_) => None,
        }
    }
}

/// An invalid setting: its field, its value, and the allowed values.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
#[error("{}`{field}` is {value}, but it must be {allowed}", whose(.owner.as_deref()))]
#[non_exhaustive]
pub struct ConfigError {
    /// The owner of the setting, if it has a name yet: ``circuit breaker `payments` ``.
    pub owner: Option<Box<str>>,
    /// The field, with its path in a stack: `breaker.probes`.
    pub field: Cow<'static, str>,
    /// The value of the field.
    pub value: String,
    /// The allowed values.
    pub allowed: Cow<'static, str>,
}

impl ConfigError {
    /// `field` is `value`, but it must be `allowed`.
    pub fn new(
        field: impl Into<Cow<'static, str>>,
        value: &(impl fmt::Debug + ?Sized),
        allowed: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            owner: None,
            field: field.into(),
            value: format!("{value:?}"),
            allowed: allowed.into(),
        }
    }

    /// Sets the owner of the setting.
    pub(crate) fn of(mut self, kind: &str, name: &str) -> Self {
        self.owner = Some(format!("{kind} `{name}`").into());
        self
    }

    /// Prefixes the field with `part`.
    #[must_use]
    pub fn within(mut self, part: &str) -> Self {
        self.field = format!("{part}.{}", self.field).into();
        self
    }

    /// Checks the name of a handle or a stack, which appears in errors, logs and metrics.
    pub(crate) fn check_name(kind: &str, name: &str) -> Result<(), Self> {
        let holds = !name.is_empty() && !name.contains(char::is_control);
        let allowed = "non-empty and without control characters";
        Self::unless(holds, "name", name, allowed).map_err(|error| Self {
            owner: Some(kind.into()),
            ..error
        })
    }

    /// This error, unless `holds`.
    pub(crate) fn unless(
        holds: bool,
        field: &'static str,
        value: &(impl fmt::Debug + ?Sized),
        allowed: impl Into<Cow<'static, str>>,
    ) -> Result<(), Self> {
        if holds {
            Ok(())
        } else {
            Err(Self::new(field, value, allowed))
        }
    }
}

fn whose(owner: Option<&str>) -> String {
    owner.map_or_else(String::new, |owner| format!("{owner}: "))
}

/// The messages of an error and all its sources.
#[cfg(any(test, feature = "reqwest"))]
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> Vec<String> {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_of_errors_prints_a_rejection_once() {
        let open = || Rejected::new(Reason::CircuitOpen, "payments");
        let error: Error<std::io::Error> = open().into();
        assert_eq!(
            chain(&error),
            [
                "call rejected by circuit breaker `payments`",
                "circuit breaker `payments` is open"
            ]
        );
        let inner = Error::Inner(Error::<std::io::Error>::from(open()));
        assert_eq!(chain(&inner), chain(&error), "the service's own error");
        assert_eq!(
            format!("{inner:#}"),
            "call rejected by circuit breaker `payments`: circuit breaker `payments` is open"
        );
        let boxed: BoxError = open().into();
        assert_eq!(chain(&*boxed), ["circuit breaker `payments` is open"]);
    }

    #[test]
    fn a_boxed_rejection_is_found_unless_it_may_belong_to_another_call() {
        #[derive(Debug, ThisError)]
        #[error("outer")]
        struct Outer(#[source] Error<std::io::Error>);
        let error = || Error::<std::io::Error>::from(Rejected::new(Reason::CircuitOpen, "x"));
        let boxed: BoxError = Box::new(error());
        assert_eq!(boxed.rejected().map(|r| &*r.name), Some("x"));
        let boxed: BoxError = Box::new(Rejected::new(Reason::CircuitOpen, "x"));
        assert!(boxed.rejected().is_some());
        let anothers: BoxError = Box::new(Outer(error()));
        assert!(anothers.rejected().is_none());
        let other: BoxError = "something else".into();
        assert!(other.rejected().is_none());
    }

    #[test]
    fn a_name_is_not_empty_and_has_no_control_characters() {
        for name in [
            "payments",
            " ",
            "api.example.com:443",
            "Zahlung \u{fc}ber \u{1f4b6}",
        ] {
            assert_eq!(ConfigError::check_name("client", name), Ok(()));
        }
        for (name, shown) in [
            ("", r#""""#),
            ("pay\nments", r#""pay\nments""#),
            ("\u{7f}", r#""\u{7f}""#),
            ("\u{85}", r#""\u{85}""#),
            ("a\0", r#""a\0""#),
        ] {
            assert_eq!(
                ConfigError::check_name("client", name)
                    .unwrap_err()
                    .to_string(),
                format!(
                    "client: `name` is {shown}, but it must be non-empty and without control characters"
                )
            );
        }
    }

    #[test]
    fn a_config_error_names_field_value_and_range() {
        let error = ConfigError::new("probes", &0, "from 1 to 1000").within("breaker");
        assert_eq!(
            error.to_string(),
            "`breaker.probes` is 0, but it must be from 1 to 1000"
        );
        assert_eq!(
            ConfigError::new("probes", &0, "more")
                .of("circuit breaker", "payments")
                .to_string(),
            "circuit breaker `payments`: `probes` is 0, but it must be more"
        );
    }
}
