//! The probes of one half-open time.

use std::time::Duration;

use super::config::BreakerConfig;
use super::trip::SHORT_ABANDONED_OVER;
use crate::clock::Moment;

/// Who is under way, and what came back.
#[derive(Clone, Debug, Default)]
pub(super) struct Probes {
    /// Never more than twice the probes allowed: a lost place is not given out again, but it is counted.
    places: Vec<Place>,
    good: u32,
    bad: u32,
    /// When the first of the short abandoned probes came back, with no result since.
    abandoned: Option<Moment>,
    /// Short abandoned probes and nothing else came back for [`SHORT_ABANDONED_OVER`].
    gave_up: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Free,
    Taken {
        /// When its probe was admitted, or last made progress.
        since: Moment,
        /// When the head of its response arrived.
        head: Option<Moment>,
    },
    /// Its probe has outlived its lease; the late result must not be taken for another probe's.
    Lost,
}

/// What a probe came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Good,
    Bad,
    /// Says nothing: the place is given back.
    Nothing,
    /// Its caller left early: the place is given back, for a while.
    Abandoned,
}

/// What the answers so far decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Close,
    Open,
    /// Opens, because probes are only ever abandoned.
    GiveUp,
}

impl Probes {
    /// A place for a probe, if fewer than `probes` are counted or under way.
    pub(super) fn admit(&mut self, probes: u32, now: Moment) -> Option<u16> {
        if self.is_full(probes) {
            return None;
        }
        let free = self.places.iter().position(|place| *place == Place::Free);
        let place = free.unwrap_or_else(|| {
            self.places.push(Place::Free);
            self.places.len() - 1
        });
        self.places[place] = Place::Taken {
            since: now,
            head: None,
        };
        u16::try_from(place).ok()
    }

    /// Whether `probes` are counted or under way.
    pub(super) fn is_full(&self, probes: u32) -> bool {
        self.good + self.bad + self.under_way() >= probes
    }

    /// Takes a probe's answer, unless it was given up for lost.
    pub(super) fn settle(&mut self, place: u16, answer: Answer, now: Moment) {
        if let Some(place @ Place::Taken { .. }) = self.places.get_mut(usize::from(place)) {
            *place = Place::Free;
            match answer {
                Answer::Good => self.good += 1,
                Answer::Bad => self.bad += 1,
                Answer::Nothing => return,
                Answer::Abandoned => {
                    let first = *self.abandoned.get_or_insert(now);
                    self.gave_up |= now.since(first) >= SHORT_ABANDONED_OVER;
                    return;
                }
            }
            self.abandoned = None;
        }
    }

    /// A probe has made progress: the head of its response has arrived, or a frame of its body. Returns whether the head
    /// came at least one `lease` ago.
    pub(super) fn progress(&mut self, place: u16, lease: Duration, now: Moment) -> bool {
        match self.places.get_mut(usize::from(place)) {
            Some(Place::Taken { since, head }) => {
                // Times may come out of order.
                *since = now.max(*since);
                now >= head.get_or_insert(now).after(lease)
            }
            _ => false,
        }
    }

    pub(super) fn decision(&self, config: &BreakerConfig) -> Option<Decision> {
        if self.gave_up {
            Some(Decision::GiveUp)
        } else if self.good >= config.needed_probes() {
            Some(Decision::Close)
        } else if self.bad > config.tolerated_probes() {
            Some(Decision::Open)
        } else {
            None
        }
    }

    /// When the probe last made progress whose loss, found at `now`, puts closing out of reach.
    pub(super) fn lost(&self, config: &BreakerConfig, now: Moment) -> Option<Moment> {
        let mut over: Vec<Moment> = self
            .waiting_since()
            .filter(|since| now >= since.after(config.probe_idle_timeout))
            .collect();
        over.sort_unstable();
        let tolerated = config.tolerated_probes().saturating_sub(self.bad);
        over.get(tolerated as usize).copied()
    }

    /// Counts the probes as failed whose lease is over.
    pub(super) fn expire(&mut self, lease: Duration, now: Moment) {
        for place in &mut self.places {
            if matches!(place, Place::Taken { since, .. } if now >= since.after(lease)) {
                *place = Place::Lost;
                self.bad += 1;
            }
        }
    }

    /// When to ask again if all places are taken: the open time that would follow now, unless the oldest probe is decided
    /// sooner because its lease is over.
    pub(super) fn wait(&self, config: &BreakerConfig, now: Moment) -> Option<Duration> {
        let oldest = self.waiting_since().min()?;
        let lease = oldest.after(config.probe_idle_timeout).since(now);
        Some(lease.min(config.open_for))
    }

    fn under_way(&self) -> u32 {
        u32::try_from(self.waiting_since().count()).unwrap_or(u32::MAX)
    }

    fn waiting_since(&self) -> impl Iterator<Item = Moment> {
        self.places.iter().filter_map(|place| match place {
            Place::Taken { since, .. } => Some(*since),
            Place::Free | Place::Lost => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_used_again_but_lost_ones_are_not() {
        let config = BreakerConfig::default().probes(3).probes_to_close(Some(1));
        let lease = config.probe_idle_timeout;
        let mut probes = Probes::default();
        assert_eq!(probes.admit(3, Moment::START), Some(0));
        assert_eq!(probes.admit(3, Moment::START.after(lease)), Some(1));
        probes.expire(lease, Moment::START.after(lease));
        assert_eq!((probes.bad, probes.under_way()), (1, 1));
        for _ in 0..100 {
            assert_eq!(probes.admit(3, Moment::START.after(lease)), Some(2));
            assert_eq!(probes.admit(3, Moment::START.after(lease)), None);
            probes.settle(0, Answer::Good, Moment::START);
            probes.settle(2, Answer::Nothing, Moment::START);
        }
        assert_eq!(probes.decision(&config), None);
        probes.settle(1, Answer::Good, Moment::START);
        assert_eq!(probes.decision(&config), Some(Decision::Close));
        assert_eq!(
            (probes.good, probes.under_way(), probes.places.len()),
            (1, 0, 3)
        );
    }

    #[test]
    fn the_loss_counts_that_puts_closing_out_of_reach() {
        let config = BreakerConfig::default().probes(4).probes_to_close(Some(3));
        let second = |n| Moment::START.after(Duration::from_secs(n));
        let mut probes = Probes::default();
        for admitted in [3, 1, 2] {
            probes.admit(4, second(admitted));
        }
        assert_eq!(probes.lost(&config, second(11)), None);
        assert_eq!(probes.lost(&config, second(12)), Some(second(2)));
        assert_eq!(probes.lost(&config, second(99)), Some(second(2)));
        probes.settle(0, Answer::Bad, second(99));
        assert_eq!(probes.lost(&config, second(99)), Some(second(1)));
    }
}
