//! Rolling counts of calls, over a time or over the last calls: exact, in fixed memory, O(1) a call.

use std::time::Duration;

use crate::clock::{Moment, nanos};

/// How many calls there were, and how many of them failed or were slow. A call can be both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) total: u32,
    pub(crate) failed: u32,
    pub(crate) slow: u32,
}

impl Counts {
    pub(crate) fn one(failed: bool, slow: bool) -> Self {
        Self {
            total: 1,
            failed: u32::from(failed),
            slow: u32::from(slow),
        }
    }

    fn good(total: u64) -> Self {
        Self {
            total: u32::try_from(total).unwrap_or(u32::MAX),
            ..Self::default()
        }
    }

    #[must_use]
    fn plus(self, other: Self) -> Self {
        Self {
            total: self.total.saturating_add(other.total),
            failed: self.failed.saturating_add(other.failed),
            slow: self.slow.saturating_add(other.slow),
        }
    }
}

/// What is counted: the calls of a time, or the last calls.
#[derive(Clone, Debug)]
pub(crate) enum Rolling {
    Time(TimeWindow),
    Calls(CallWindow),
}

impl Rolling {
    /// Counts a call that ended at `now`.
    pub(crate) fn add(&mut self, failed: bool, slow: bool, now: Moment) {
        match self {
            Self::Time(window) => {
                window.advance(now);
                window.add(Counts::one(failed, slow));
            }
            Self::Calls(window) => window.add(failed, slow),
        }
    }

    /// Counts `n` calls that were neither failed nor slow and ended before [`Rolling::unchanged_until`].
    pub(crate) fn add_good(&mut self, n: u64) {
        match self {
            Self::Time(window) => window.add(Counts::good(n)),
            Self::Calls(window) => window.add_good(n),
        }
    }

    /// The counts as they were when the last call was added.
    pub(crate) fn counts(&self) -> Counts {
        match self {
            Self::Time(window) => window.sum,
            Self::Calls(window) => window.sum,
        }
    }

    /// The counts at `now`.
    pub(crate) fn counts_at(&self, now: Moment) -> Counts {
        match self {
            Self::Time(window) => window.counts_at(now),
            Self::Calls(window) => window.sum,
        }
    }

    /// Until when the counts lose nothing by the passage of time.
    pub(crate) fn unchanged_until(&self) -> Moment {
        match self {
            Self::Time(window) => window.end(),
            Self::Calls(_) => Moment::FAR,
        }
    }
}

/// Counts over a time: the running cell and the ones before it. Cells are aligned to [`Moment::START`].
#[derive(Clone, Debug)]
pub(crate) struct TimeWindow<const CELLS: usize = 10> {
    /// A ring; cell number `n` lies at `n % CELLS`.
    cells: [Counts; CELLS],
    sum: Counts,
    /// Nanoseconds a cell.
    width: u64,
    /// The number of the running cell, counted from [`Moment::START`].
    running: u64,
}

impl<const CELLS: usize> TimeWindow<CELLS> {
    pub(crate) fn new(length: Duration) -> Self {
        Self {
            cells: [Counts::default(); CELLS],
            sum: Counts::default(),
            // Rounded down: nothing older than `length` ever counts.
            width: (nanos(length) / CELLS as u64).max(1),
            running: 0,
        }
    }

    /// Makes the cell of `now` the running one. A `now` of an earlier cell, read by another thread before it got
    /// here, changes nothing: its call counts in the running cell.
    pub(crate) fn advance(&mut self, now: Moment) {
        if now < self.end() {
            return;
        }
        let number = now.as_nanos() / self.width;
        let passed = number.saturating_sub(self.running);
        self.running = number;
        for age in 0..CELLS {
            if age as u64 >= passed {
                break;
            }
            let slot = self.slot(age);
            self.cells[slot] = Counts::default();
        }
        // Not the old sum less the cleared cells: a sum that was ever clipped would stay wrong.
        self.sum = self
            .cells
            .iter()
            .copied()
            .fold(Counts::default(), Counts::plus);
    }

    /// Adds to the running cell.
    pub(crate) fn add(&mut self, counts: Counts) {
        let slot = self.slot(0);
        self.cells[slot] = self.cells[slot].plus(counts);
        self.sum = self.sum.plus(counts);
    }

    pub(crate) fn counts_at(&self, now: Moment) -> Counts {
        let passed = (now.as_nanos() / self.width).saturating_sub(self.running);
        if passed == 0 {
            return self.sum;
        }
        (0..CELLS)
            .take_while(|&age| (age as u64).saturating_add(passed) < CELLS as u64)
            .map(|age| self.cells[self.slot(age)])
            .fold(Counts::default(), Counts::plus)
    }

    /// The end of the running cell.
    pub(crate) fn end(&self) -> Moment {
        Moment::from_nanos(self.running.saturating_add(1).saturating_mul(self.width))
    }

    /// A window of another length with the same counts, each put where its old cell began, so that none lives longer
    /// than the new window allows.
    pub(crate) fn resized(mut self, length: Duration, now: Moment) -> Self {
        self.advance(now);
        let mut new = Self::new(length);
        let now = now.as_nanos().max(self.running.saturating_mul(self.width));
        new.running = now / new.width;
        for age in 0..CELLS {
            let Some(number) = self.running.checked_sub(age as u64) else {
                break;
            };
            let new_number = number.saturating_mul(self.width) / new.width;
            let new_age = new.running.saturating_sub(new_number);
            if let Some(new_age) = usize::try_from(new_age).ok().filter(|&age| age < CELLS) {
                let slot = new.slot(new_age);
                new.cells[slot] = new.cells[slot].plus(self.cells[self.slot(age)]);
            }
        }
        new.sum = new
            .cells
            .iter()
            .copied()
            .fold(Counts::default(), Counts::plus);
        new
    }

    /// Where the cell lies that is `age` (below `CELLS`) cells older than the running one.
    fn slot(&self, age: usize) -> usize {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the remainder is below a usize"
        )]
        let running = (self.running % CELLS as u64) as usize;
        (running + CELLS - age) % CELLS
    }
}

/// Counts over the last calls.
#[derive(Clone, Debug)]
pub(crate) struct CallWindow {
    /// Two words for every 64 calls: whether each failed, whether each was slow. Counted calls are never rearranged.
    bits: Box<[[u64; 2]]>,
    sum: Counts,
    size: u32,
    /// Where the next call goes.
    next: u32,
}

impl CallWindow {
    pub(crate) fn new(size: u32) -> Self {
        let size = size.max(1);
        Self {
            bits: vec![[0; 2]; size.div_ceil(64) as usize].into(),
            sum: Counts::default(),
            size,
            next: 0,
        }
    }

    pub(crate) fn add(&mut self, failed: bool, slow: bool) {
        let (word, bit) = (self.next as usize / 64, self.next % 64);
        let before = if self.sum.total == self.size {
            let [failed, slow] = self.bits[word].map(|word| word >> bit & 1 == 1);
            Counts::one(failed, slow)
        } else {
            Counts::default()
        };
        let [all_failed, all_slow] = &mut self.bits[word];
        *all_failed = *all_failed & !(1 << bit) | u64::from(failed) << bit;
        *all_slow = *all_slow & !(1 << bit) | u64::from(slow) << bit;
        let sum = self.sum.plus(Counts::one(failed, slow));
        self.sum = Counts {
            total: sum.total - before.total,
            failed: sum.failed - before.failed,
            slow: sum.slow - before.slow,
        };
        self.next = (self.next + 1) % self.size;
    }

    pub(crate) fn add_good(&mut self, n: u64) {
        // All bits are 0 already: nothing to do for each single call, and it does not matter where the next one goes.
        if self.sum.failed == 0 && self.sum.slow == 0 {
            let total = n.saturating_add(u64::from(self.sum.total));
            self.sum.total = u32::try_from(total).map_or(self.size, |total| total.min(self.size));
            return;
        }
        for _ in 0..n.min(u64::from(self.size)) {
            self.add(false, false);
        }
    }

    /// A window of another size with the newest of the same calls.
    pub(crate) fn resized(&self, size: u32) -> Self {
        let mut new = Self::new(size);
        let copied = self.sum.total.min(new.size);
        for age in (1..=copied).rev() {
            let place = (self.next + self.size - age) % self.size;
            let [failed, slow] =
                self.bits[place as usize / 64].map(|word| word >> (place % 64) & 1 == 1);
            new.add(failed, slow);
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn at(millis: u64) -> Moment {
        Moment::START.after(Duration::from_millis(millis))
    }

    fn counts(total: u32, failed: u32, slow: u32) -> Counts {
        Counts {
            total,
            failed,
            slow,
        }
    }

    fn settle<const CELLS: usize>(
        window: &mut TimeWindow<CELLS>,
        good: u32,
        failed: u32,
        now: Moment,
    ) -> (u32, u32) {
        window.advance(now);
        window.add(counts(good + failed, failed, 0));
        (window.sum.total - window.sum.failed, window.sum.failed)
    }

    #[test]
    fn five_cells_of_a_second_roll() {
        let mut window = TimeWindow::<5>::new(5000 * MS);
        let calls = [
            (0, true, 1, 1),
            (100, false, 2, 1),
            (200, false, 3, 1),
            (1200, false, 4, 1),
            (2200, false, 5, 1),
            (3200, true, 6, 2),
            (4200, false, 7, 2),
            (5200, false, 5, 1),
            (6200, false, 5, 1),
            (11_200, false, 1, 0),
        ];
        for (millis, failed, total, failures) in calls {
            window.advance(at(millis));
            window.add(Counts::one(failed, false));
            assert_eq!(window.sum, counts(total, failures, 0), "at {millis}");
        }
    }

    #[test]
    fn cells_are_aligned_and_skipped_ones_are_cleared() {
        let mut window = TimeWindow::<4>::new(4000 * MS);
        assert_eq!(settle(&mut window, 10, 40, at(900)), (10, 40));
        assert_eq!(settle(&mut window, 10, 0, at(1000)), (20, 40));
        assert_eq!(settle(&mut window, 0, 20, at(2500)), (20, 60));
        assert_eq!(settle(&mut window, 5, 20, at(3100)), (25, 80));
        assert_eq!(settle(&mut window, 8, 0, at(5400)), (13, 40));
        assert_eq!(settle(&mut window, 0, 5, at(7300)), (8, 5));
        assert_eq!(window.counts_at(at(22_500)), Counts::default());
        assert_eq!(settle(&mut window, 3, 0, at(23_100)), (3, 0));
    }

    #[test]
    fn sixty_days_later_nothing_is_left() {
        let mut window = TimeWindow::<10>::new(10 * MS);
        settle(&mut window, 0, 1, at(0));
        let days = 60 * 86_400_000;
        assert_eq!(settle(&mut window, 1, 0, at(days)), (1, 0));
        assert_eq!(settle(&mut window, 0, 1, at(days + 1)), (1, 1));
        assert_eq!(settle(&mut window, 1, 0, at(days + 2)), (2, 1));
        assert_eq!(settle(&mut window, 1, 0, Moment::FAR), (1, 0));
    }

    #[test]
    fn a_result_of_an_earlier_moment_counts_in_the_running_cell() {
        let mut window = TimeWindow::<10>::new(10_000 * MS);
        settle(&mut window, 1, 0, at(60_000));
        assert_eq!(settle(&mut window, 0, 1, at(100)), (1, 1));
        assert_eq!(window.counts_at(at(0)), counts(2, 1, 0));
        assert_eq!(window.counts_at(at(69_999)), counts(2, 1, 0));
        assert_eq!(window.counts_at(at(70_000)), Counts::default());
    }

    #[test]
    fn counts_are_clipped_and_recover() {
        let mut window = TimeWindow::<10>::new(10_000 * MS);
        for second in 0..3 {
            window.advance(at(second * 1000));
            window.add(Counts::good(u64::MAX));
            window.add(Counts::one(true, false));
        }
        assert_eq!(window.sum, counts(u32::MAX, 3, 0));
        assert_eq!(settle(&mut window, 4, 1, at(20_000)), (4, 1));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_count_window_holds_what_a_list_holds(
            size in 1_u32..200,
            calls in proptest::collection::vec((0_u32..4, 0_u64..70), 1..60),
            new_size in 1_u32..200,
        ) {
            let sum = |list: &[(bool, bool)]| list.iter().fold(Counts::default(), |sum, &(failed, slow)| sum.plus(Counts::one(failed, slow)));
            let last = |list: &[(bool, bool)], n: u32| list[list.len().saturating_sub(n as usize)..].to_vec();
            let mut window = CallWindow::new(size);
            let mut list = vec![];
            for (bits, good) in calls {
                let (failed, slow) = (bits & 1 == 1, bits & 2 == 2);
                window.add(failed, slow);
                list.push((failed, slow));
                if good > 40 {
                    window.add_good(good);
                    list.extend((0..good).map(|_| (false, false)));
                }
                prop_assert_eq!(window.sum, sum(&last(&list, size)));
            }
            let resized = window.resized(new_size);
            prop_assert_eq!(resized.sum, sum(&last(&list, size.min(new_size))));
        }
    }
}
