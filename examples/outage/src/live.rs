//! The display during a run.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::calls::Records;
use crate::load::Side;
use crate::plan::Plan;
use crate::stats;

const SECOND: Duration = Duration::from_secs(1);

/// Shows the last second of both sides, once a second, until dropped. Without a terminal it prints a line
/// each instead of a bar.
pub(crate) async fn show(plan: &Plan, start: Instant, sides: &[Side]) {
    let bar = bar(plan);
    let mut ticks = interval_at(start + SECOND, SECOND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let now = start.elapsed();
        // The phase of the second that is shown, which has just ended.
        let phase = plan.phase(now.saturating_sub(SECOND / 2));
        let lines: Vec<String> = sides.iter().map(|side| line(side, now)).collect();
        match &bar {
            Some(bar) => {
                bar.set_position(now.as_secs().min(plan.end.as_secs()));
                bar.set_prefix(phase);
                bar.set_message(lines.join("\n"));
            }
            None => eprintln!("{:>3} s {phase:<16} | {}", now.as_secs(), lines.join(" | ")),
        }
    }
}

fn bar(plan: &Plan) -> Option<ProgressBar> {
    let bar = std::io::stderr().is_terminal().then(|| {
        ProgressBar::with_draw_target(Some(plan.end.as_secs()), ProgressDrawTarget::stderr())
    })?;
    let style = ProgressStyle::with_template("{prefix:16} [{bar:40}] {pos}/{len} s\n{msg}");
    Some(bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())))
}

fn line(side: &Side, now: Duration) -> String {
    let records = side.log.snapshot();
    let LastSecond {
        arrived,
        ok,
        p50,
        attempts,
    } = LastSecond::of(&records, now);
    let p50 = p50.map_or_else(|| "-".to_owned(), |p50| format!("{} ms", p50.as_millis()));
    let attempts = stats::share(stats::count(attempts), arrived).unwrap_or_default();
    let name = side.client.name();
    let breaker = side
        .client
        .breaker()
        .map_or("none", |breaker| breaker.state);
    format!(
        "{name:<8} ok {ok:>3} of {arrived:>3}  p50 {p50:>7}  attempts/call {attempts:>4.1}  breaker {breaker:<9}"
    )
}

/// The outcomes within the last second, whenever their calls arrived.
struct LastSecond {
    arrived: usize,
    ok: usize,
    /// Of the calls that ended.
    p50: Option<Duration>,
    attempts: usize,
}

impl LastSecond {
    fn of(records: &Records, now: Duration) -> Self {
        let since = now.saturating_sub(SECOND);
        let recent = |at: Duration| (since..now).contains(&at);
        let ended = || {
            records
                .calls
                .iter()
                .filter(|call| call.ended.is_some_and(|(at, _)| recent(at)))
        };
        let mut latencies: Vec<_> = ended()
            .filter_map(|call| Some(call.ended?.0.saturating_sub(call.arrived)))
            .collect();
        latencies.sort_unstable();
        Self {
            arrived: records
                .calls
                .iter()
                .filter(|call| recent(call.arrived))
                .count(),
            ok: ended().filter(|call| stats::is_ok(call)).count(),
            p50: stats::percentile(&latencies, 50),
            attempts: records.attempts.iter().filter(|at| recent(**at)).count(),
        }
    }
}
