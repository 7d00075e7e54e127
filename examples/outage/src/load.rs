//! The load: calls arrive independently of the outcome of earlier calls.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, sleep_until};

use crate::calls::CallLog;
use crate::client::Client;
use crate::plan::Plan;

/// One of the two halves of the picture.
#[derive(Debug, Clone)]
pub(crate) struct Side {
    pub(crate) client: Client,
    pub(crate) log: Arc<CallLog>,
}

/// Gives every side the same arrivals at the same moments.
pub(crate) async fn run(plan: &Plan, seed: u64, start: Instant, sides: &[Side]) {
    for arrival in arrivals(plan.rate, seed).take_while(|at| *at < plan.load_end) {
        sleep_until(start + arrival).await;
        for Side { client, log } in sides {
            let (client, entry) = (client.clone(), log.arrived(arrival));
            // Never awaited: an open load does not wait for responses.
            tokio::spawn(async move {
                entry.started();
                entry.ended(client.call(&entry).await);
            });
        }
    }
}

/// A Poisson process: the gaps between arrivals are exponential, so they come in clusters as real ones do.
fn arrivals(rate: f64, seed: u64) -> impl Iterator<Item = Duration> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut at = Duration::ZERO;
    std::iter::from_fn(move || {
        // `1 - x` is in (0, 1], where the logarithm is finite.
        let gap = -(1.0 - random.random::<f64>()).ln() / rate;
        at += Duration::from_secs_f64(gap);
        Some(at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_arrivals_and_another_one_others() {
        let first = |seed| arrivals(80.0, seed).take(1_000).collect::<Vec<_>>();
        assert_eq!(first(1), first(1));
        assert_ne!(first(1), first(2));
    }

    #[test]
    fn arrivals_have_the_rate_and_the_scatter_of_a_poisson_process() {
        let end = Duration::from_secs(1_000);
        let mut counts = vec![0.0_f64; 1_000];
        for at in arrivals(80.0, 1).take_while(|at| *at < end) {
            counts[usize::try_from(at.as_secs()).unwrap()] += 1.0;
        }
        let mean = counts.iter().sum::<f64>() / 1_000.0;
        let variance = counts.iter().map(|n| (n - mean).powi(2)).sum::<f64>() / 1_000.0;
        assert!((mean - 80.0).abs() < 1.5, "{mean}");
        assert!((variance / mean - 1.0).abs() < 0.2, "{variance}");
    }
}
