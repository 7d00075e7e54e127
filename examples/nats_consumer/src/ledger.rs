//! The orders that were applied: the effect of this example.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A file of lines that are only ever appended.
///
/// A killed process leaves whole lines, because each is written by one system call. Against a crash of the machine it would have to
/// be synced, too.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    path: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The order was applied.
    Applied,
    /// A later run has found that the order was applied.
    Found,
    /// The message of this number in the stream cannot be processed.
    DeadLetter,
}

impl Event {
    const ALL: [Self; 3] = [Self::Applied, Self::Found, Self::DeadLetter];

    fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Found => "found",
            Self::DeadLetter => "dead-letter",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) event: Event,
    pub(crate) id: String,
    pub(crate) run: u32,
}

impl Ledger {
    pub(crate) fn new(folder: &Path) -> Self {
        Self {
            path: folder.join("ledger.txt"),
        }
    }

    /// Appends a line. The id has no white space.
    pub(crate) fn append(&self, event: Event, id: &str, run: u32) -> io::Result<()> {
        let line = format!("{} {id} {run}\n", event.as_str());
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&self.path)?;
        file.write_all(line.as_bytes())
    }

    pub(crate) fn is_applied(&self, order: &str) -> io::Result<bool> {
        let lines = self.lines()?;
        Ok(lines
            .iter()
            .any(|line| line.event == Event::Applied && line.id == order))
    }

    pub(crate) fn lines(&self) -> io::Result<Vec<Line>> {
        match fs::read_to_string(&self.path) {
            Ok(text) => text.lines().map(parse).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

fn parse(line: &str) -> io::Result<Line> {
    let mut words = line.split(' ');
    let event = words
        .next()
        .and_then(|word| Event::ALL.into_iter().find(|event| event.as_str() == word));
    let id = words.next();
    let run = words.next().and_then(|word| word.parse().ok());
    match (event, id, run) {
        (Some(event), Some(id), Some(run)) => Ok(Line {
            event,
            id: id.to_owned(),
            run,
        }),
        _ => Err(io::Error::other(format!(
            "the ledger has a damaged line: `{line}`"
        ))),
    }
}

/// The counts for these orders.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    /// Orders that were applied.
    pub(crate) applied: usize,
    /// Orders that were applied more than once.
    pub(crate) twice: usize,
    /// Orders that were not applied.
    pub(crate) missing: usize,
    /// Applied by run 2 or later: the earlier run was killed before the effect.
    pub(crate) later: usize,
    /// Found by run 2 or later: the earlier run was killed after the effect.
    pub(crate) found: usize,
    pub(crate) dead_letters: usize,
}

pub(crate) fn count(orders: &[String], lines: &[Line]) -> Count {
    // A run that reports may be killed before its report is recorded, and the next one reports again.
    let distinct = |event| {
        let ids = lines.iter().filter(|line| line.event == event);
        ids.map(|line| &line.id).collect::<BTreeSet<_>>().len()
    };
    let mut count = Count {
        found: distinct(Event::Found),
        dead_letters: distinct(Event::DeadLetter),
        ..Count::default()
    };
    for order in orders {
        let mut applied = lines
            .iter()
            .filter(|line| line.event == Event::Applied && line.id == *order);
        match (applied.next(), applied.next()) {
            (None, _) => count.missing += 1,
            (Some(first), None) => {
                count.applied += 1;
                count.later += usize::from(first.run > 1);
            }
            (Some(_), Some(_)) => {
                count.applied += 1;
                count.twice += 1;
            }
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_orders_that_are_missing_or_applied_twice() {
        let lines: Vec<Line> = [
            "applied a 1",
            "applied b 1",
            "applied b 2",
            "applied c 2",
            "found a 2",
            "found a 3",
            "dead-letter 7 0",
        ]
        .into_iter()
        .map(|line| parse(line).unwrap())
        .collect();
        let orders = ["a", "b", "c", "d"].map(str::to_owned);
        let expected = Count {
            applied: 3,
            twice: 1,
            missing: 1,
            later: 1,
            found: 1,
            dead_letters: 1,
        };
        assert_eq!(count(&orders, &lines), expected);
    }

    #[test]
    fn damaged_lines_are_errors() {
        for line in ["", "applied", "applied a", "applied a one", "lost a 1"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
