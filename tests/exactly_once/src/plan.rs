//! The plan of a trial, drawn from the seed: server, client and judge each compute it.

use std::time::Duration;

/// How long the key of a killed server stays held.
pub(crate) const LEASE: Duration = Duration::from_millis(1500);

/// One run of one operation.
pub(crate) struct Fate {
    /// The handler's work before its effect.
    pub(crate) before: Duration,
    /// Its work after it.
    pub(crate) after: Duration,
    pub(crate) end: End,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// 201.
    Paid,
    /// 500, returned by the handler.
    Failed,
    PanicsBefore,
    /// After the effect; in a transaction, before it is committed, and once a process: the operation is released and runs again.
    PanicsAfter,
    /// In a transaction, once it is committed. Without one as `PanicsAfter`.
    PanicsAtLast,
}

/// Sixty-four bits of these (splitmix64).
pub(crate) fn mixed(of: &[u64]) -> u64 {
    of.iter().fold(0x9e37_79b9_7f4a_7c15, |state, part| {
        let mut bits = state
            .wrapping_add(*part)
            .wrapping_add(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    })
}

pub(crate) fn fate(seed: u64, key: u64, run: u32) -> Fate {
    let bits = mixed(&[seed, key, run.into()]);
    // The key whose first run outlives its lease: whether it ran twice must show.
    let is_slow = key % 1000 == 7;
    let end = match bits % 100 {
        _ if is_slow && run <= 2 => End::Paid,
        0..=2 => End::PanicsBefore,
        3..=5 => End::PanicsAfter,
        6..=7 => End::PanicsAtLast,
        8..=9 => End::Failed,
        _ => End::Paid,
    };
    let micros = |bits: u64| Duration::from_micros(bits % 3000);
    // Some outlive their lease if it is not renewed.
    let before = if is_slow && run == 1 {
        LEASE * 2
    } else {
        micros(bits >> 32)
    };
    Fate {
        before,
        after: micros(bits >> 44),
        end,
    }
}

/// The key of this number, as a client sends it.
pub(crate) fn key(number: u64) -> String {
    format!("torture-order-{number:08}")
}

/// And its number.
pub(crate) fn number(key: &str) -> Option<u64> {
    key.strip_prefix("torture-order-")?.parse().ok()
}

/// What the client sends with it.
pub(crate) fn order(number: u64) -> String {
    format!("order {number}, {} EUR", number % 997)
}

/// The body of a response: its key and run, and then up to 3 kB that show whether it is complete.
pub(crate) fn receipt(seed: u64, key: u64, run: u32, effect: &str) -> String {
    let mut text = format!("{key} {run} {effect}\n");
    let length = mixed(&[seed, key]) % 3000;
    let mut bits = mixed(&[seed, key, run.into(), 1]);
    for _ in 0..length {
        bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        text.push(char::from(
            b'a' + u8::try_from((bits >> 59) % 26).unwrap_or(0),
        ));
    }
    text
}
