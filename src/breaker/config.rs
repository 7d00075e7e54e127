//! The settings of a breaker.

use std::time::Duration;

use crate::chance::Draw;
use crate::error::ConfigError;

/// Settings: when a circuit opens, for how long, and when it closes.
///
/// The rules combine with *or*: the first that trips opens the circuit. A rule set to `None` is off; with all of them off,
/// and [`Abandoned::Ignore`], the circuit only opens manually, which is allowed. In a file, `None` is `"off"`.
///
/// ```
/// use std::time::Duration;
/// use buttress::breaker::{BreakerConfig, Window};
///
/// let config = BreakerConfig::default()
///     .failure_rate(Some(0.3))
///     .window(Window::Time(Duration::from_secs(30)))
///     .open_for(Duration::from_secs(5));
/// config.validate()?;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct BreakerConfig {
    /// Opens after this many failures in a row, 1 to 1 000 000. Default: 10.
    #[cfg_attr(feature = "serde", serde(with = "crate::text::off"))]
    pub consecutive_failures: Option<u32>,
    /// The first and the last failure of such a run lie at least so far apart, 0 to 1 day: one dying connection that takes
    /// its calls with it must not close off a whole service. Default: 200 ms.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub consecutive_min_span: Duration,
    /// Opens when at least this share of the calls in the window failed, above 0, at most 1. Default: 0.5.
    #[cfg_attr(feature = "serde", serde(with = "crate::text::off"))]
    pub failure_rate: Option<f64>,
    /// Opens when at least this share of the calls in the window was slow, above 0, at most 1. Slow and failed are counted
    /// apart. With this rule on, a slow probe has failed. Default: off.
    #[cfg_attr(feature = "serde", serde(with = "crate::text::off"))]
    pub slow_rate: Option<f64>,
    /// A call is slow if it took longer than this, above 0, at most 1 day. Default: 1 s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub slow_call: Duration,
    /// The calls that both rates are computed over. Default: those of the last 10 s. In a file, `window = { time = "10s" }` or
    /// `window = { calls = 100 }`.
    pub window: Window,
    /// No rate is judged before the window holds this many calls; nor does a shorter run of abandoned calls open the
    /// circuit. 1 to 1 000 000, and not more than a window of calls holds. Default: 20.
    pub min_calls: u32,
    /// How long the circuit stays open, above 0, at most 1 day. Default: 2 s. A longer time only delays callers
    /// after the service has recovered: a dead service gets three calls per probe round either way.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub open_for: Duration,
    /// Varies the open time at random by up to this share in either direction, 0 to 1. Default: 0.2. With 0, many clients
    /// probe at the same instant.
    pub open_jitter: f64,
    /// Each further open time without a close between is this many times longer, 1 to 100. Default: 1, they are all alike.
    pub open_growth: f64,
    /// The longest such grown time, before jitter: at least `open_for`, at most 1 day. Without growth it plays no part.
    /// Default: 60 s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub max_open_for: Duration,
    /// If the failure that opens the circuit carries a server's wait (`Retry-After`), the circuit stays open at least that
    /// long, up to this limit. Above 0, at most 1 day. Default: `None`, such waits are ignored.
    #[cfg_attr(feature = "serde", serde(with = "crate::text::off_duration"))]
    pub max_server_wait: Option<Duration>,
    /// How many calls a half-open circuit admits as probes, 1 to 1000. Default: 3.
    pub probes: u32,
    /// How many of them must succeed to close it, 1 to `probes`. Default: `None`, all.
    #[cfg_attr(feature = "serde", serde(with = "crate::text::off"))]
    pub probes_to_close: Option<u32>,
    /// A probe that makes no progress for this time has failed, above 0, at most 1 day. It restarts when the head of the
    /// response arrives, and at every frame of its body. A probe whose body still makes progress this long after a good head
    /// has succeeded. Set it no shorter than a call may take to its head, or than a body may pause. Default: 10 s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub probe_idle_timeout: Duration,
    /// After closing, a share of calls that grows to all of them over this time is admitted; it begins with a tenth. It
    /// helps services that start cold; others lose seconds. 0 to 1 day. Default: 0, off.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub ramp_up: Duration,
    /// How abandoned calls count. Default: [`Abandoned::Detect`].
    pub abandoned: Abandoned,
    /// An abandoned call is short if its caller waited less than this for the response, or for the next frame of its body.
    /// 0 to 1 day. Default: 1 s. Impatient callers do not open the circuit of a service that responds: short calls open it
    /// only if there is no other result for 10 s. Lower values detect a hung service sooner, but count callers who leave
    /// before a healthy service had time to respond. Only [`Abandoned::Detect`] reads it.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub abandoned_after: Duration,
    /// Reports decisions but rejects no call. Default: no.
    pub dry_run: bool,
}

/// The calls that a rate is computed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Window {
    /// Those that ended within this time, 10 ms to 1 h, in ten cells: the running one and the nine before it.
    Time(#[cfg_attr(feature = "serde", serde(with = "humantime_serde"))] Duration),
    /// The last so many, 1 to 10 000. It takes a quarter of a byte for each.
    Calls(u32),
}

/// How abandoned calls count: those whose callers cancelled before a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Abandoned {
    /// One abandoned call means nothing. But `min_calls` of them in a row, with no result between, open the circuit: a time
    /// limit outside the breaker must not blind it. Calls that were abandoned after `abandoned_after` must be spread over at
    /// least 1 s, all together over at least 10 s.
    ///
    /// While half-open, a probe that is abandoned after `abandoned_after` has failed. One abandoned before gives its place
    /// back, until such probes are spread over 10 s with no result between; then the circuit opens again.
    Detect,
    /// Nothing.
    Ignore,
    /// Each counts as a failure, of a probe too.
    Failure,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            consecutive_failures: Some(10),
            consecutive_min_span: Duration::from_millis(200),
            failure_rate: Some(0.5),
            slow_rate: None,
            slow_call: Duration::from_secs(1),
            window: Window::Time(Duration::from_secs(10)),
            min_calls: 20,
            open_for: Duration::from_secs(2),
            open_jitter: 0.2,
            open_growth: 1.0,
            max_open_for: Duration::from_secs(60),
            max_server_wait: None,
            probes: 3,
            probes_to_close: None,
            probe_idle_timeout: Duration::from_secs(10),
            ramp_up: Duration::ZERO,
            abandoned: Abandoned::Detect,
            abandoned_after: Duration::from_secs(1),
            dry_run: false,
        }
    }
}

impl BreakerConfig {
    setters! {
        consecutive_failures: Option<u32>,
        consecutive_min_span: Duration,
        failure_rate: Option<f64>,
        slow_rate: Option<f64>,
        slow_call: Duration,
        window: Window,
        min_calls: u32,
        open_for: Duration,
        open_jitter: f64,
        open_growth: f64,
        max_open_for: Duration,
        max_server_wait: Option<Duration>,
        probes: u32,
        probes_to_close: Option<u32>,
        probe_idle_timeout: Duration,
        ramp_up: Duration,
        abandoned: Abandoned,
        abandoned_after: Duration,
        dry_run: bool,
    }

    /// Checks every setting.
    ///
    /// # Errors
    ///
    /// The first invalid field, its value, and what is allowed.
    pub fn validate(&self) -> Result<(), ConfigError> {
        number(
            "consecutive_failures",
            self.consecutive_failures.unwrap_or(1),
            MAX_CALLS,
        )?;
        time(
            "consecutive_min_span",
            self.consecutive_min_span,
            Duration::ZERO,
        )?;
        share("failure_rate", self.failure_rate)?;
        share("slow_rate", self.slow_rate)?;
        time("slow_call", self.slow_call, MIN_TIME)?;
        let (max_calls, reason) = match self.window {
            Window::Time(length) => {
                let holds =
                    (Duration::from_millis(10)..=Duration::from_secs(3600)).contains(&length);
                ConfigError::unless(holds, "window", &length, "from 10 ms to 1 h")?;
                (MAX_CALLS, "")
            }
            Window::Calls(calls) => {
                number("window", calls, 10_000)?;
                (calls, ", the calls that `window` holds")
            }
        };
        number_of("min_calls", self.min_calls, max_calls, reason)?;
        time("open_for", self.open_for, MIN_TIME)?;
        let jitter = self.open_jitter;
        ConfigError::unless(
            (0.0..=1.0).contains(&jitter),
            "open_jitter",
            &jitter,
            "from 0 to 1",
        )?;
        let growth = self.open_growth;
        ConfigError::unless(
            (1.0..=100.0).contains(&growth),
            "open_growth",
            &growth,
            "from 1 to 100",
        )?;
        if growth > 1.0 {
            let holds = (self.open_for..=DAY).contains(&self.max_open_for);
            let allowed = "at least `open_for` and at most 1 day";
            ConfigError::unless(holds, "max_open_for", &self.max_open_for, allowed)?;
        }
        time(
            "max_server_wait",
            self.max_server_wait.unwrap_or(MIN_TIME),
            MIN_TIME,
        )?;
        number("probes", self.probes, 1000)?;
        number_of(
            "probes_to_close",
            self.probes_to_close.unwrap_or(1),
            self.probes,
            ", the value of `probes`",
        )?;
        time("probe_idle_timeout", self.probe_idle_timeout, MIN_TIME)?;
        time("ramp_up", self.ramp_up, Duration::ZERO)?;
        time("abandoned_after", self.abandoned_after, Duration::ZERO)
    }

    /// How many probes must succeed.
    pub(super) fn needed_probes(&self) -> u32 {
        self.probes_to_close.unwrap_or(self.probes)
    }

    /// How many probes may fail.
    pub(super) fn tolerated_probes(&self) -> u32 {
        self.probes.saturating_sub(self.needed_probes())
    }

    /// The open time after `before` earlier openings since the circuit was last closed, by a failure that named this wait.
    pub(super) fn open_time(&self, before: u32, draw: Draw, wait: Option<Duration>) -> Duration {
        let mut open_for = self.open_for;
        if self.open_growth > 1.0 {
            let factor = self
                .open_growth
                .powi(i32::try_from(before).unwrap_or(i32::MAX));
            let grown = Duration::try_from_secs_f64(open_for.as_secs_f64() * factor);
            // A time that overflows a `Duration` is above the limit too.
            open_for = grown.unwrap_or(Duration::MAX).min(self.max_open_for);
        }
        let server_wait = wait
            .unwrap_or_default()
            .min(self.max_server_wait.unwrap_or_default());
        draw.spread(open_for, self.open_jitter).max(server_wait)
    }
}

const MAX_CALLS: u32 = 1_000_000;
const MIN_TIME: Duration = Duration::from_nanos(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn number(field: &'static str, value: u32, max: u32) -> Result<(), ConfigError> {
    number_of(field, value, max, "")
}

/// `reason` explains `max` if it depends on another setting.
fn number_of(field: &'static str, value: u32, max: u32, reason: &str) -> Result<(), ConfigError> {
    ConfigError::unless(
        (1..=max).contains(&value),
        field,
        &value,
        format!("from 1 to {max}{reason}"),
    )
}

fn time(field: &'static str, value: Duration, min: Duration) -> Result<(), ConfigError> {
    let allowed = if min.is_zero() {
        "from 0 to 1 day"
    } else {
        "more than 0 and at most 1 day"
    };
    ConfigError::unless((min..=DAY).contains(&value), field, &value, allowed)
}

fn share(field: &'static str, value: Option<f64>) -> Result<(), ConfigError> {
    let value = value.unwrap_or(1.0);
    ConfigError::unless(
        value > 0.0 && value <= 1.0,
        field,
        &value,
        "more than 0 and at most 1",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_defaults_work() {
        assert_eq!(BreakerConfig::default().validate(), Ok(()));
    }

    #[test]
    fn rules_and_times_may_be_zero_or_off() {
        let config = BreakerConfig::default()
            .consecutive_failures(None)
            .consecutive_min_span(Duration::ZERO)
            .failure_rate(None)
            .open_jitter(0.0)
            .ramp_up(Duration::ZERO)
            .abandoned(Abandoned::Ignore)
            .abandoned_after(Duration::ZERO)
            .max_server_wait(None)
            .max_open_for(MS);
        assert_eq!(config.validate(), Ok(()));
    }

    #[test]
    fn every_invalid_value_is_named() {
        let good = BreakerConfig::default;
        let day = Duration::from_secs(86_401);
        let mut bad = vec![
            ("consecutive_failures", good().consecutive_failures(Some(0))),
            (
                "consecutive_failures",
                good().consecutive_failures(Some(u32::MAX)),
            ),
            (
                "consecutive_min_span",
                good().consecutive_min_span(Duration::MAX),
            ),
            ("window", good().window(Window::Time(Duration::ZERO))),
            ("window", good().window(Window::Time(9 * MS))),
            ("window", good().window(Window::Time(Duration::MAX))),
            ("window", good().window(Window::Calls(0))),
            ("window", good().window(Window::Calls(10_001))),
            ("min_calls", good().min_calls(0)),
            ("min_calls", good().min_calls(u32::MAX)),
            ("min_calls", good().window(Window::Calls(5)).min_calls(10)),
            ("open_growth", good().open_growth(0.5)),
            ("open_growth", good().open_growth(f64::INFINITY)),
            ("open_growth", good().open_growth(f64::NAN)),
            ("max_open_for", good().open_growth(2.0).max_open_for(MS)),
            ("max_open_for", good().open_growth(2.0).max_open_for(day)),
            ("probes", good().probes(0)),
            ("probes", good().probes(1001)),
            ("probes_to_close", good().probes_to_close(Some(0))),
            ("probes_to_close", good().probes_to_close(Some(4))),
            ("ramp_up", good().ramp_up(day)),
            ("abandoned_after", good().abandoned_after(day)),
        ];
        for rate in [
            0.0,
            -0.0,
            -0.5,
            1.001,
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
        ] {
            bad.push(("failure_rate", good().failure_rate(Some(rate))));
            bad.push(("slow_rate", good().slow_rate(Some(rate))));
        }
        for jitter in [-0.1, 1.001, f64::NAN, f64::INFINITY] {
            bad.push(("open_jitter", good().open_jitter(jitter)));
        }
        for time in [Duration::ZERO, day, Duration::MAX] {
            bad.push(("slow_call", good().slow_call(time)));
            bad.push(("open_for", good().open_for(time)));
            bad.push(("max_server_wait", good().max_server_wait(Some(time))));
            bad.push(("probe_idle_timeout", good().probe_idle_timeout(time)));
        }
        for (field, config) in bad {
            let error = config.validate().expect_err(field);
            assert_eq!(error.field, field, "{error}");
        }
    }

    #[test]
    fn an_error_says_what_is_allowed() {
        let error = BreakerConfig::default().probes_to_close(Some(4)).validate();
        assert_eq!(
            error.map_err(|error| error.to_string()),
            Err(
                "`probes_to_close` is 4, but it must be from 1 to 3, the value of `probes`"
                    .to_owned()
            )
        );
    }

    #[test]
    fn the_open_time_grows_to_its_limit() {
        let config = BreakerConfig::default().open_jitter(0.0);
        let draw = Draw::part(0.5);
        let seconds =
            |config: &BreakerConfig, before| config.open_time(before, draw, None).as_secs();
        assert_eq!(
            [0, 1, u32::MAX].map(|before| seconds(&config, before)),
            [2, 2, 2]
        );
        let growing = config
            .open_growth(2.0)
            .max_open_for(Duration::from_secs(10));
        let times = [0, 1, 2, 3, u32::MAX].map(|before| seconds(&growing, before));
        assert_eq!(times, [2, 4, 8, 10, 10]);
    }

    #[test]
    fn a_servers_wait_prolongs_the_open_time_up_to_its_limit() {
        let config = BreakerConfig::default().open_jitter(0.0);
        let seconds = |config: &BreakerConfig, wait: u64| {
            let wait = Some(Duration::from_secs(wait));
            config.open_time(0, Draw::part(0.5), wait).as_secs()
        };
        assert_eq!(seconds(&config, 60), 2);
        let config = config.max_server_wait(Some(Duration::from_secs(30)));
        assert_eq!(
            [0, 1, 5, 60].map(|wait| seconds(&config, wait)),
            [2, 2, 5, 30]
        );
    }

    #[cfg(feature = "serde")]
    #[test]
    fn durations_are_read_as_people_write_them() {
        use serde::Deserialize;
        use serde::de::value::{Error, MapAccessDeserializer, MapDeserializer};

        let read = |fields: [(&'static str, &'static str); 2]| {
            BreakerConfig::deserialize(MapDeserializer::<_, Error>::new(fields.into_iter()))
        };
        assert_eq!(
            read([("open_for", "250ms"), ("abandoned", "ignore")]),
            Ok(BreakerConfig::default()
                .open_for(250 * MS)
                .abandoned(Abandoned::Ignore))
        );
        assert!(read([("open_for", "250ms"), ("opne_for", "1s")]).is_err());
        let window = MapDeserializer::<_, Error>::new([("time", "1m 30s")].into_iter());
        assert_eq!(
            Window::deserialize(MapAccessDeserializer::new(window)),
            Ok(Window::Time(Duration::from_secs(90)))
        );
    }
}
