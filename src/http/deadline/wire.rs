//! Encoding and decoding of times in headers.

use std::time::Duration;

/// gRPC's units, the smallest first, with the nanoseconds of each.
const UNITS: [(u8, u128); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60_000_000_000),
    (b'H', 3_600_000_000_000),
];

/// The largest number of eight digits.
const LARGEST: u128 = 99_999_999;

/// `grpc-timeout`: one to eight digits and a unit, nothing else.
pub(super) fn parse_grpc(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    let (_, nanos) = UNITS.iter().find(|(letter, _)| letter == unit)?;
    if digits.len() > 8 {
        return None;
    }
    let nanos = nanos * u128::from(number(digits)?);
    let seconds = u64::try_from(nanos / 1_000_000_000).ok()?;
    let below = u32::try_from(nanos % 1_000_000_000).ok()?;
    Some(Duration::new(seconds, below))
}

/// The time in the smallest unit in which it fits into eight digits, rounded down, and at most the longest that fits.
pub(super) fn format_grpc(time: Duration) -> String {
    let nanos = time.as_nanos();
    for (unit, size) in UNITS {
        if nanos / size <= LARGEST {
            return format!("{}{}", nanos / size, char::from(unit));
        }
    }
    format!("{LARGEST}H")
}

/// Milliseconds: digits and nothing else. A number that does not fit is the largest that does.
pub(super) fn parse_millis(value: &[u8]) -> Option<Duration> {
    number(value).map(Duration::from_millis)
}

/// The time in whole milliseconds, rounded down; `u64::MAX` at most.
pub(super) fn format_millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// `1*DIGIT`.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |sum, digit| {
        let value = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        Some(sum.saturating_mul(10).saturating_add(value))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_to_eight_digits_and_a_unit() {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        for (value, time) in [
            ("1H", Some(hours(1))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("4m", Some(Duration::from_millis(4))),
            ("5u", Some(Duration::from_micros(5))),
            ("6n", Some(Duration::from_nanos(6))),
            ("0n", Some(Duration::ZERO)),
            ("00000007S", Some(Duration::from_secs(7))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("99999999H", Some(hours(99_999_999))),
            ("", None),
            ("S", None),
            ("1", None),
            ("123456789n", None),
            ("000000001S", None),
            ("1s", None),
            ("1h", None),
            ("1U", None),
            ("1N", None),
            ("1.5S", None),
            ("+1S", None),
            ("-1S", None),
            (" 1S", None),
            ("1S ", None),
            ("1 S", None),
            ("1SS", None),
            ("1S, 2S", None),
            ("1e3m", None),
            ("0x1S", None),
            ("infinite", None),
            ("١S", None),
        ] {
            assert_eq!(parse_grpc(value.as_bytes()), time, "{value:?}");
        }
    }

    #[test]
    fn the_smallest_unit_that_fits_and_never_more_time() {
        for (time, value) in [
            (Duration::ZERO, "0n"),
            (Duration::from_nanos(99_999_999), "99999999n"),
            (Duration::from_millis(100), "100000u"),
            (Duration::from_nanos(100_000_999), "100000u"),
            (Duration::from_secs(10), "10000000u"),
            (Duration::from_nanos(99_999_999_999), "99999999u"),
            (Duration::from_secs(100), "100000m"),
            (Duration::from_nanos(99_999_999_999_999), "99999999m"),
            (Duration::from_secs(100_000), "100000S"),
            (Duration::from_secs(99_999_999), "99999999S"),
            (Duration::from_secs(100_000_000), "1666666M"),
            (Duration::from_secs(6_000_000_000), "1666666H"),
            (Duration::MAX, "99999999H"),
        ] {
            assert_eq!(format_grpc(time), value, "{time:?}");
        }
    }

    #[test]
    fn milliseconds_are_digits() {
        let millis = Duration::from_millis;
        for (value, time) in [
            ("0", Some(millis(0))),
            ("1500", Some(millis(1500))),
            ("0007", Some(millis(7))),
            ("18446744073709551615", Some(millis(u64::MAX))),
            ("18446744073709551616", Some(millis(u64::MAX))),
            ("99999999999999999999999999999999", Some(millis(u64::MAX))),
            ("", None),
            ("-1", None),
            ("+1", None),
            ("1.5", None),
            (" 1", None),
            ("1 ", None),
            ("1ms", None),
            ("1, 2", None),
            ("1_000", None),
        ] {
            assert_eq!(parse_millis(value.as_bytes()), time, "{value:?}");
        }
        assert_eq!(format_millis(Duration::from_micros(1999)), 1);
        assert_eq!(format_millis(Duration::from_micros(999)), 0);
        assert_eq!(format_millis(Duration::MAX), u64::MAX);
    }

    fn any_time() -> impl Strategy<Value = Duration> {
        // Of every size, not nearly always of centuries.
        (any::<u128>(), 0_u32..100).prop_map(|(nanos, shift)| {
            let nanos = nanos >> (shift + 28);
            let seconds = u64::try_from(nanos / 1_000_000_000).unwrap_or(u64::MAX);
            Duration::new(seconds, u32::try_from(nanos % 1_000_000_000).unwrap())
        })
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(value in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = (parse_grpc(&value), parse_millis(&value));
        }

        #[test]
        fn a_formatted_time_is_parsed_and_never_longer(time in any_time()) {
            let text = format_grpc(time);
            prop_assert!(text.len() <= 9);
            let read = parse_grpc(text.as_bytes()).unwrap();
            prop_assert!(read <= time);
            let sent = time.min(parse_grpc(b"99999999H").unwrap());
            let lost = sent.as_nanos() - read.as_nanos();
            prop_assert!(lost * 100_000 <= time.as_nanos(), "{time:?} is written {text}");
            let millis = parse_millis(format_millis(time).to_string().as_bytes()).unwrap();
            prop_assert!(millis <= time);
        }

        #[test]
        fn a_valid_value_is_parsed_exactly(
            number in 0_u64..=99_999_999, unit in 0_usize..6, width in 1_usize..=8,
        ) {
            let (letter, nanos) = UNITS[unit];
            let text = format!("{number:0width$}{}", char::from(letter));
            let time = parse_grpc(text.as_bytes()).unwrap();
            prop_assert_eq!(time.as_nanos(), u128::from(number) * nanos);
        }
    }
}
