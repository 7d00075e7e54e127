//! The schedule of a run, as a pure function of the time since the start.

use std::ops::Range;
use std::time::Duration;

use crate::args::{Args, Fault};

/// Workers of each copy of the dependency.
pub(crate) const WORKERS: u32 = 2;
const SLOW: u32 = 10;
const COLD: u32 = 3;

/// All times are counted from the start of the run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) fault: Fault,
    pub(crate) outage: Range<Duration>,
    /// Until when work is slow after a crash.
    pub(crate) cold_until: Duration,
    /// No call arrives from here on.
    pub(crate) load_end: Duration,
    pub(crate) end: Duration,
    /// How long one piece of work takes without a fault.
    pub(crate) service: Duration,
    /// Calls a second.
    pub(crate) rate: f64,
}

/// The outcome of one piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Work {
    /// From here on the worker is free again.
    pub(crate) done: Duration,
    pub(crate) result: WorkResult,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WorkResult {
    Good,
    Error,
    /// The process that was to do it crashed.
    Lost,
}

impl Plan {
    pub(crate) fn new(args: &Args, capacity: u32) -> Self {
        let phases = args.phases();
        let outage = phases.healthy..phases.healthy + phases.outage;
        let load_end = outage.end + phases.after;
        Self {
            fault: args.fault,
            cold_until: outage.end + args.cold,
            load_end,
            end: load_end + phases.finish,
            service: Duration::from_secs(u64::from(WORKERS)) / capacity,
            rate: args.load * f64::from(capacity),
            outage,
        }
    }

    /// How long the outage lasts.
    pub(crate) fn outage_time(&self) -> Duration {
        self.outage.end.saturating_sub(self.outage.start)
    }

    /// How long calls arrive after the outage.
    pub(crate) fn after_time(&self) -> Duration {
        self.load_end.saturating_sub(self.outage.end)
    }

    pub(crate) fn phase(&self, at: Duration) -> &'static str {
        match at {
            at if at < self.outage.start => "healthy",
            at if at < self.outage.end => "OUTAGE",
            at if at < self.load_end => "after the outage",
            _ => "finishing",
        }
    }

    /// A worker that is free from `free` on starts the request that arrived at `arrived`.
    pub(crate) fn work(&self, arrived: Duration, free: Duration) -> Work {
        let start = arrived.max(free);
        let (outage, service) = (&self.outage, self.service);
        let good = |done| Work {
            done,
            result: WorkResult::Good,
        };
        match self.fault {
            Fault::Hang if outage.contains(&start) => good(outage.end + service),
            // Under way when everything stopped: finished as much later as the outage was long.
            Fault::Hang if (start..start + service).contains(&outage.start) => {
                good(start + service + self.outage_time())
            }
            Fault::Slow if outage.contains(&start) => good(start + service * SLOW),
            Fault::Errors if outage.contains(&(start + service)) => Work {
                done: start + service,
                result: WorkResult::Error,
            },
            // A crash loses the work under way and the queue with it.
            Fault::Refuse if arrived < outage.end && start + service > outage.start => Work {
                done: start.max(outage.start),
                result: WorkResult::Lost,
            },
            Fault::Refuse if (outage.end..self.cold_until).contains(&start) => {
                good(start + service * COLD)
            }
            _ => good(start + service),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use WorkResult::{Error, Good, Lost};

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn plan(fault: Fault) -> Plan {
        Plan {
            fault,
            outage: ms(2_000)..ms(10_000),
            cold_until: ms(13_000),
            load_end: ms(22_000),
            end: ms(25_000),
            service: ms(20),
            rate: 80.0,
        }
    }

    #[test]
    fn each_fault_does_what_it_says() {
        use Fault::{Errors, Hang, Refuse, Slow};
        for (fault, arrived, free, done, result) in [
            (Hang, 100, 0, 120, Good),
            (Hang, 100, 150, 170, Good),
            (Hang, 1_980, 0, 2_000, Good),
            (Hang, 1_990, 0, 10_010, Good),
            (Hang, 2_000, 0, 10_020, Good),
            (Hang, 5_000, 10_020, 10_040, Good),
            (Slow, 1_999, 0, 2_019, Good),
            (Slow, 2_000, 0, 2_200, Good),
            (Slow, 9_999, 0, 10_199, Good),
            (Slow, 9_999, 10_000, 10_020, Good),
            (Errors, 1_979, 0, 1_999, Good),
            (Errors, 1_980, 0, 2_000, Error),
            (Errors, 9_979, 0, 9_999, Error),
            (Errors, 9_980, 0, 10_000, Good),
            (Refuse, 1_980, 0, 2_000, Good),
            (Refuse, 1_981, 0, 2_000, Lost),
            (Refuse, 1_900, 2_500, 2_500, Lost),
            (Refuse, 10_000, 2_500, 10_060, Good),
            (Refuse, 10_000, 12_999, 13_059, Good),
            (Refuse, 10_000, 13_000, 13_020, Good),
        ] {
            let work = plan(fault).work(ms(arrived), ms(free));
            assert_eq!(
                work,
                Work {
                    done: ms(done),
                    result
                },
                "{fault:?} {arrived} {free}"
            );
        }
    }
}
