//! The `RateLimit` header, as far as a client needs it: when the quota that stopped it is available again.

use std::time::Duration;

/// The longest time until a spent policy (`r=0`) resets; if `limited`, and no policy admits to be spent, until any does.
///
/// The header is a list of items with parameters: `"burst";r=0;t=30, "daily";r=12`. One that is malformed anywhere is
/// ignored whole.
pub(super) fn reset(lines: &[&str], limited: bool) -> Option<Duration> {
    let mut spent = None;
    let mut any = None;
    for line in lines {
        let mut rest = Rest(line);
        loop {
            let policy = rest.policy()?;
            any = any.max(policy.reset);
            if policy.remaining == Some(0) {
                spent = spent.max(policy.reset);
            }
            if rest.is_over() {
                break;
            }
            rest.expect(',')?;
        }
    }
    spent.or(any.filter(|_| limited)).map(Duration::from_secs)
}

#[derive(Default)]
struct Policy {
    remaining: Option<u64>,
    reset: Option<u64>,
}

/// What is not read yet.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn is_over(&mut self) -> bool {
        self.0 = self.0.trim_start_matches([' ', '\t']);
        self.0.is_empty()
    }

    fn take(&mut self, wanted: char) -> bool {
        match self.0.strip_prefix(wanted) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, wanted: char) -> Option<()> {
        self.take(wanted).then_some(())
    }

    /// `"name";r=50;t=30`: the parameters that count; others are skipped.
    fn policy(&mut self) -> Option<Policy> {
        let mut policy = Policy::default();
        self.is_over();
        self.value()?;
        while self.take(';') {
            self.is_over();
            let name = self.word()?;
            let value = if self.take('=') { self.value()? } else { "" };
            match name {
                "r" => policy.remaining = Some(whole(value)?),
                "t" => policy.reset = Some(whole(value)?),
                _ => {}
            }
        }
        Some(policy)
    }

    /// A string, a byte sequence, a number or a token, as it stands there.
    fn value(&mut self) -> Option<&'a str> {
        match self.0.chars().next()? {
            '"' => self.until_quote(),
            ':' => {
                let end = self.0[1..].find(':')? + 2;
                Some(self.split(end))
            }
            _ => self.word(),
        }
    }

    fn until_quote(&mut self) -> Option<&'a str> {
        let mut escaped = false;
        for (index, byte) in self.0.bytes().enumerate().skip(1) {
            match byte {
                b'\\' if !escaped => escaped = true,
                b'"' if !escaped => return Some(self.split(index + 1)),
                _ => escaped = false,
            }
        }
        None
    }

    fn word(&mut self) -> Option<&'a str> {
        let ends =
            |byte: char| !(byte.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/:?".contains(byte));
        let end = self.0.find(ends).unwrap_or(self.0.len());
        (end > 0).then(|| self.split(end))
    }

    fn split(&mut self, end: usize) -> &'a str {
        let (word, rest) = self.0.split_at(end);
        self.0 = rest;
        word
    }
}

/// A whole number that is not negative. One too long for a structured field is as malformed as one with a letter.
fn whole(value: &str) -> Option<u64> {
    let plain = (1..=15).contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| value.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_reset_of_a_spent_policy() {
        for (header, at_any, when_limited) in [
            (r#""default";r=0;t=30"#, Some(30), Some(30)),
            (r#""default";r=50;t=30"#, None, Some(30)),
            (r#""burst";r=0;t=3, "daily";r=0;t=40"#, Some(40), Some(40)),
            (r#""burst";r=0;t=3,"daily";r=9;t=40"#, Some(3), Some(3)),
            (r#""a;t=9,\"b";t=5;r=0"#, Some(5), Some(5)),
            (r#""a"; r=0; t=5; pk=:cHs=:; qu="x;t=1""#, Some(5), Some(5)),
            (r#""a";r=0"#, None, None),
            ("default;r=0;t=5", Some(5), Some(5)),
            // Malformed: ignored whole.
            (r#""a";r=0;t=-5"#, None, None),
            (r#""a";r=0;t=1.5"#, None, None),
            (r#""a";r=0;t="#, None, None),
            (r#""a";r=0;t=5,"#, None, None),
            (r#""a";r=0;t=5 "b";r=0;t=6"#, None, None),
            (r#""a;r=0;t=5"#, None, None),
            ("limit=1, remaining=0, reset=7", None, None),
            (r#""a";r=0;t=9999999999999999"#, None, None),
            ("", None, None),
        ] {
            let secs = |limited| reset(&[header], limited).map(|wait| wait.as_secs());
            assert_eq!(
                (secs(false), secs(true)),
                (at_any, when_limited),
                "{header}"
            );
        }
        assert_eq!(
            reset(&[r#""a";r=0;t=1"#, r#""b";r=0;t=2"#], false),
            Some(Duration::from_secs(2)),
            "several lines are one list"
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC*", like in "[\"\\\\:;,=rt0-9 é]{0,30}") {
            let _ = reset(&[&text, &like], true);
            let _ = reset(&[&like], false);
        }
    }
}
