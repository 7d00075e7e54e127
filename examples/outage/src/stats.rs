//! Computes the figures of a run from its calls.

use std::ops::Range;
use std::time::Duration;

use serde::Serialize;

use crate::calls::{Call, CallResult};
use crate::plan::Plan;

/// A response after this time counts as a failure.
const IN_TIME: Duration = Duration::from_secs(3);
const WINDOW: Duration = Duration::from_secs(1);
/// One lucky window is no recovery.
const LASTING: Duration = Duration::from_secs(2);

/// The figures of one side; `None` where nothing of the kind happened (yet).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Figures {
    pub(crate) offered: usize,
    pub(crate) ok: usize,
    pub(crate) goodput_before: Option<f64>,
    pub(crate) goodput_during: Option<f64>,
    pub(crate) goodput_after: Option<f64>,
    pub(crate) attempts_per_call_during: Option<f64>,
    pub(crate) recovered_after_s: Option<f64>,
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
    pub(crate) rejected_fast: usize,
    pub(crate) breaker_opened: u64,
}

impl Figures {
    /// `calls` in the order of arrival, all that arrived before `until`; seen at `now`.
    pub(crate) fn of(
        calls: &[Call],
        plan: &Plan,
        until: Duration,
        now: Duration,
        breaker_opened: u64,
    ) -> Self {
        let (outage, load_end) = (&plan.outage, plan.load_end.min(until));
        let calls = &calls[..calls.partition_point(|call| call.arrived < until)];
        let within = |range: Range<Duration>| {
            let from = calls.partition_point(|call| call.arrived < range.start);
            &calls[from..calls
                .partition_point(|call| call.arrived < range.end)
                .max(from)]
        };
        let (during, after) = (within(outage.clone()), within(outage.end..load_end));
        let attempts = during
            .iter()
            .map(|call| f64::from(call.attempts))
            .sum::<f64>();
        let mut latencies: Vec<Duration> = after.iter().map(|call| latency(call, now)).collect();
        latencies.sort_unstable();
        Self {
            offered: calls.len(),
            ok: calls.iter().filter(|call| is_ok(call)).count(),
            goodput_before: goodput(within(Duration::ZERO..outage.start)),
            goodput_during: goodput(during),
            goodput_after: goodput(after),
            attempts_per_call_during: share(attempts, during.len()),
            recovered_after_s: recovered_after(after, outage.end..load_end)
                .map(|t| rounded(t.as_secs_f64())),
            p50_ms: percentile(&latencies, 50).map(millis),
            p99_ms: percentile(&latencies, 99).map(millis),
            rejected_fast: calls.iter().filter(|call| is_rejected_fast(call)).count(),
            breaker_opened,
        }
    }
}

pub(crate) fn is_ok(call: &Call) -> bool {
    matches!(call.ended, Some((at, CallResult::Answered)) if at.saturating_sub(call.arrived) <= IN_TIME)
}

/// Until when the result of every arrival is known at `now`: up to the first call that may still become
/// ok. Counting later calls that have ended would only count the fast ones.
pub(crate) fn known_until(calls: &[Call], now: Duration) -> Duration {
    let waits = |call: &&Call| call.ended.is_none() && now <= call.arrived + IN_TIME;
    calls.iter().find(waits).map_or(now, |call| call.arrived)
}

/// The p99 of how much later than planned calls started, in milliseconds.
pub(crate) fn late_p99_ms<'a>(calls: impl Iterator<Item = &'a Call>) -> f64 {
    let mut late: Vec<_> = calls
        .filter_map(|call| Some(call.started?.saturating_sub(call.arrived)))
        .collect();
    late.sort_unstable();
    percentile(&late, 99).map_or(0.0, millis)
}

pub(crate) fn goodput(calls: &[Call]) -> Option<f64> {
    share(
        count(calls.iter().filter(|call| is_ok(call)).count()),
        calls.len(),
    )
}

fn is_rejected_fast(call: &Call) -> bool {
    call.attempts == 0 && matches!(call.ended, Some((_, CallResult::Refused)))
}

fn latency(call: &Call, now: Duration) -> Duration {
    call.ended
        .map_or(now, |(at, _)| at)
        .saturating_sub(call.arrived)
}

/// The smallest `t` such that every window of one second from `range.start + t` to the end of the range
/// is at least 95 % ok, at least two seconds of them. A window that nothing arrived in is no evidence
/// against it.
fn recovered_after(calls: &[Call], range: Range<Duration>) -> Option<Duration> {
    if calls.is_empty() {
        return None;
    }
    let last = range
        .end
        .checked_sub(WINDOW)
        .filter(|last| *last >= range.start)?;
    // The window from `s` holds the arrivals in `s..s + 1 s`. It changes only when an arrival leaves at its
    // front or enters at its end, so checking those points is enough.
    let next = Duration::from_nanos(1);
    let mut starts: Vec<Duration> = calls
        .iter()
        .flat_map(|call| {
            [
                Some(call.arrived + next),
                (call.arrived + next).checked_sub(WINDOW),
            ]
        })
        .flatten()
        .chain([range.start])
        .filter(|start| (range.start..=last).contains(start))
        .collect();
    starts.sort_unstable();
    let mut failed_before = vec![0_usize];
    for call in calls {
        failed_before.push(failed_before[failed_before.len() - 1] + usize::from(!is_ok(call)));
    }
    let is_good = |start: Duration| {
        let from = calls.partition_point(|call| call.arrived < start);
        let to = calls.partition_point(|call| call.arrived < start + WINDOW);
        (failed_before[to] - failed_before[from]) * 20 <= to - from
    };
    let good_from = match starts.iter().rposition(|start| !is_good(*start)) {
        None => range.start,
        Some(bad) => *starts.get(bad + 1)?,
    };
    (good_from + LASTING <= range.end).then(|| good_from.saturating_sub(range.start))
}

/// Nearest rank: the smallest value that at least `percent` of them do not exceed.
pub(crate) fn percentile(sorted: &[Duration], percent: usize) -> Option<Duration> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

pub(crate) fn share(part: f64, of: usize) -> Option<f64> {
    (of > 0).then(|| rounded(part / count(of)))
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}

fn rounded(value: f64) -> f64 {
    (value * 10_000.0).round() / 10_000.0
}

#[expect(
    clippy::cast_precision_loss,
    reason = "nobody makes 2^53 calls in a minute"
)]
pub(crate) fn count(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Fault;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn plan() -> Plan {
        Plan {
            fault: Fault::Hang,
            outage: ms(2_000)..ms(10_000),
            cold_until: ms(10_000),
            load_end: ms(22_000),
            end: ms(25_000),
            service: ms(20),
            rate: 80.0,
        }
    }

    fn call(arrived: Duration, attempts: u32, took: Duration, result: CallResult) -> Call {
        Call {
            arrived,
            started: Some(arrived),
            attempts,
            ended: Some((arrived + took, result)),
        }
    }

    /// A call every 10 ms; `ok` selects the successful ones.
    fn steady(ok: impl Fn(u64) -> bool) -> Vec<Call> {
        let result = |at| {
            if ok(at) {
                CallResult::Answered
            } else {
                CallResult::Failed
            }
        };
        (0..22_000)
            .step_by(10)
            .map(|at| call(ms(at), 1, ms(25), result(at)))
            .collect()
    }

    fn figures(calls: &[Call], now: Duration) -> Figures {
        Figures::of(calls, &plan(), known_until(calls, now), now, 7)
    }

    fn recovered(ok: impl Fn(u64) -> bool) -> Option<f64> {
        figures(&steady(ok), ms(25_000)).recovered_after_s
    }

    #[test]
    fn goodput_counts_a_call_for_the_phase_it_arrives_in() {
        let calls = [
            call(ms(1_999), 1, ms(1_500), CallResult::Answered),
            call(ms(2_000), 4, ms(4_000), CallResult::Failed),
            call(ms(3_000), 0, ms(0), CallResult::Refused),
            call(ms(9_999), 2, ms(3_000), CallResult::Answered),
            call(ms(10_000), 3, ms(3_001), CallResult::Answered),
            call(ms(10_001), 1, ms(0), CallResult::Refused),
        ];
        let figures = figures(&calls, ms(25_000));
        assert_eq!((figures.offered, figures.ok), (6, 2));
        assert_eq!(figures.goodput_before, Some(1.0));
        assert_eq!(figures.goodput_during, Some(0.3333));
        assert_eq!(figures.goodput_after, Some(0.0));
        assert_eq!(figures.attempts_per_call_during, Some(2.0));
        assert_eq!((figures.rejected_fast, figures.breaker_opened), (1, 7));
        assert_eq!((figures.p50_ms, figures.p99_ms), (Some(0.0), Some(3_001.0)));
    }

    #[test]
    fn what_is_known_ends_at_the_first_call_that_may_still_be_ok() {
        let waits = Call {
            arrived: ms(11_000),
            attempts: 3,
            ..Call::default()
        };
        let calls = [call(ms(10_000), 1, ms(20), CallResult::Answered), waits];
        assert_eq!(known_until(&calls, ms(14_000)), ms(11_000));
        assert_eq!(known_until(&calls, ms(14_001)), ms(14_001));
        assert_eq!(
            Figures::of(&calls, &plan(), ms(11_000), ms(14_000), 0).offered,
            1
        );
        let figures = figures(&calls, ms(15_500));
        assert_eq!(
            (figures.offered, figures.ok, figures.p99_ms),
            (2, 1, Some(4_500.0))
        );
    }

    #[test]
    fn a_run_that_was_stopped_early_has_no_figures_for_what_did_not_happen() {
        let figures = figures(&steady(|_| true)[..100], ms(1_000));
        assert_eq!(figures.goodput_before, Some(1.0));
        assert_eq!(
            (figures.goodput_during, figures.goodput_after),
            (None, None)
        );
        assert_eq!((figures.recovered_after_s, figures.p50_ms), (None, None));
        assert_eq!(figures.attempts_per_call_during, None);
    }

    #[test]
    fn recovery_is_when_every_later_window_is_good() {
        assert_eq!(recovered(|_| true), Some(0.0));
        assert_eq!(recovered(|_| false), None);
        assert_eq!(recovered(|at| at < 10_000), None);
        // The first window with at most 5 of its 100 calls failed starts 50 ms before the last failure.
        assert_eq!(recovered(|at| at >= 13_000), Some(2.94));
        // A relapse counts, whether or not it fits a grid of seconds.
        assert_eq!(
            recovered(|at| at >= 13_000 && !(15_500..15_600).contains(&at)),
            Some(5.54)
        );
        // Six of a hundred is too much, five is not.
        assert_eq!(recovered(|at| !(15_540..15_600).contains(&at)), Some(5.54));
        assert_eq!(recovered(|at| !(15_550..15_600).contains(&at)), Some(0.0));
    }

    #[test]
    fn recovery_must_last_two_seconds() {
        assert_eq!(recovered(|at| at >= 20_050), Some(9.99));
        assert_eq!(recovered(|at| at >= 20_070), None);
        assert_eq!(recovered(|at| at < 21_900), None);
    }

    #[test]
    fn the_sliding_windows_agree_with_looking_at_every_millisecond() {
        let fails = |at: u64| at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40 & 1_023;
        for threshold in [30, 45, 60, 75, 90] {
            let calls = steady(|at| fails(at) >= threshold || at < 10_000);
            let after = &calls[1_000..];
            let good = |start: u64| {
                let window: Vec<_> = after
                    .iter()
                    .filter(|c| (ms(start)..ms(start + 1_000)).contains(&c.arrived))
                    .collect();
                window.iter().filter(|c| is_ok(c)).count() * 100 >= window.len() * 95
            };
            let slow = (10_000..=21_000)
                .rev()
                .take_while(|s| good(*s))
                .last()
                .filter(|s| *s <= 20_000);
            let fast = recovered_after(after, ms(10_000)..ms(22_000));
            // Ours looks at nanoseconds, so it may find the point a millisecond earlier.
            let fast = fast.map(|t| {
                10_000 + u64::try_from((t + Duration::from_nanos(999_999)).as_millis()).unwrap()
            });
            assert_eq!(fast, slow, "{threshold}");
        }
    }

    #[test]
    fn percentiles_are_nearest_rank() {
        let sorted: Vec<_> = (1..=200).map(ms).collect();
        assert_eq!(percentile(&sorted, 50), Some(ms(100)));
        assert_eq!(percentile(&sorted, 99), Some(ms(198)));
        assert_eq!(percentile(&sorted[..1], 99), Some(ms(1)));
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn lateness_is_measured_against_the_plan() {
        let late = |by: u64| Call {
            arrived: ms(50),
            started: Some(ms(50 + by)),
            ..Call::default()
        };
        let calls: Vec<_> = (0..101)
            .map(|i| late(if i < 2 { 150 } else { 1 }))
            .collect();
        assert!((late_p99_ms(calls.iter()) - 150.0).abs() < f64::EPSILON);
        assert!((late_p99_ms(calls[1..].iter()) - 1.0).abs() < f64::EPSILON);
    }
}
