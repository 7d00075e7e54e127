//! Rows about waits.

use std::time::Duration;

use buttress::backoff::Backoff;
use serde::Deserialize;

use crate::words::duration;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    backoff: Backoff,
    /// The numbers of the retries; default 1, 2, 3, …
    retries: Option<Vec<u32>>,
    /// The draw, as a part of the whole; else the highest.
    draw: Option<f64>,
    /// The waits, exactly, but for the time below a microsecond.
    waits: Option<Vec<String>>,
    /// The wait before.
    previous: Option<String>,
    /// All draws give waits between these, and not all the same.
    within: Option<[String; 2]>,
}

pub(crate) fn drive(at: &str, case: &Case) {
    let backoff = case.backoff;
    assert_eq!(backoff.validate(), Ok(()), "{at}");
    let previous = case.previous.as_deref().map(duration);
    if let Some(waits) = &case.waits {
        let draw = case.draw.unwrap_or(1.0);
        let retries = case
            .retries
            .clone()
            .unwrap_or_else(|| (1..).take(waits.len()).collect());
        assert_eq!(retries.len(), waits.len(), "{at}");
        for (retry, wait) in retries.into_iter().zip(waits) {
            let (is, wanted) = (backoff.delay(retry, previous, draw), duration(wait));
            assert!(
                is.abs_diff(wanted) <= Duration::from_micros(1),
                "{at}: the wait before retry {retry} is {is:?}, not {wanted:?}"
            );
        }
    }
    if let Some([low, high]) = &case.within {
        let range = duration(low)..=duration(high);
        let parts = (0..=1000_u32).map(|part| f64::from(part) / 1000.0);
        let mut waits: Vec<_> = parts.map(|draw| backoff.delay(1, previous, draw)).collect();
        assert!(
            waits.iter().all(|wait| range.contains(wait)),
            "{at}: {waits:?}"
        );
        waits.dedup();
        assert!(waits.len() > 500, "{at}: they are not spread");
    }
}
