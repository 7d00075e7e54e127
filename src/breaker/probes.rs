//! The probes of one half-open state.

use std::time::Duration;

use super::config::BreakerConfig;
use super::trip::SHORT_ABANDONED_OVER;
use crate::clock::Moment;

/// The probes under way, and the results so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Probes {
    /// Never more than twice the probes allowed: a lost place is not given out again, but it is counted.
    places: Vec<Place>,
    good: u32,
    bad: u32,
    /// When the first of the short abandoned probes came back, with no result since.
    abandoned: Option<Moment>,
    /// Set after only short abandoned probes for [`SHORT_ABANDONED_OVER`].
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
    /// Its idle timeout has passed. The place is not reused: a late result must not be taken for another probe's.
    Lost,
}

/// The result of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProbeResult {
    Good,
    Bad,
    /// No verdict: the place is given back.
    Neutral,
    /// Its caller cancelled early: the place is given back, for a while.
    Abandoned,
}

/// The decision that the results so far allow.
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

    /// Counts a probe's result, unless the probe is lost.
    pub(super) fn settle(&mut self, place: u16, result: ProbeResult, now: Moment) {
        if let Some(place @ Place::Taken { .. }) = self.places.get_mut(usize::from(place)) {
            *place = Place::Free;
            match result {
                ProbeResult::Good => self.good += 1,
                ProbeResult::Bad => self.bad += 1,
                ProbeResult::Neutral => return,
                ProbeResult::Abandoned => {
                    let first = *self.abandoned.get_or_insert(now);
                    self.gave_up |= now.since(first) >= SHORT_ABANDONED_OVER;
                    return;
                }
            }
            self.abandoned = None;
        }
    }

    /// A probe has made progress: the head of its response has arrived, or a frame of its body. Returns whether the head
    /// came at least `idle` ago.
    pub(super) fn progress(&mut self, place: u16, idle: Duration, now: Moment) -> bool {
        match self.places.get_mut(usize::from(place)) {
            Some(Place::Taken { since, head }) => {
                // Times may come out of order.
                *since = now.max(*since);
                now >= head.get_or_insert(now).after(idle)
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

    /// When the probe last made progress whose loss, as of `now`, makes closing impossible.
    pub(super) fn lost(&self, config: &BreakerConfig, now: Moment) -> Option<Moment> {
        let mut over: Vec<Moment> = self
            .waiting_since()
            .filter(|since| now >= since.after(config.probe_idle_timeout))
            .collect();
        over.sort_unstable();
        let tolerated = config.tolerated_probes().saturating_sub(self.bad);
        over.get(tolerated as usize).copied()
    }

    /// Counts probes as failed whose idle timeout has passed.
    pub(super) fn expire(&mut self, idle: Duration, now: Moment) {
        for place in &mut self.places {
            if matches!(place, Place::Taken { since, .. } if now >= since.after(idle)) {
                *place = Place::Lost;
                self.bad += 1;
            }
        }
    }

    /// When to retry if all places are taken: after the open time that would follow now, or sooner if the oldest probe reaches
    /// its idle timeout.
    pub(super) fn wait(&self, config: &BreakerConfig, now: Moment) -> Option<Duration> {
        let oldest = self.waiting_since().min()?;
        let idle = oldest.after(config.probe_idle_timeout).since(now);
        Some(idle.min(config.open_for))
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
        let idle = config.probe_idle_timeout;
        let mut probes = Probes::default();
        assert_eq!(probes.admit(3, Moment::START), Some(0));
        assert_eq!(probes.admit(3, Moment::START.after(idle)), Some(1));
        probes.expire(idle, Moment::START.after(idle));
        assert_eq!((probes.bad, probes.under_way()), (1, 1));
        for _ in 0..100 {
            assert_eq!(probes.admit(3, Moment::START.after(idle)), Some(2));
            assert_eq!(probes.admit(3, Moment::START.after(idle)), None);
            probes.settle(0, ProbeResult::Good, Moment::START);
            probes.settle(2, ProbeResult::Neutral, Moment::START);
        }
        assert_eq!(probes.decision(&config), None);
        probes.settle(1, ProbeResult::Good, Moment::START);
        assert_eq!(probes.decision(&config), Some(Decision::Close));
        assert_eq!(
            (probes.good, probes.under_way(), probes.places.len()),
            (1, 0, 3)
        );
    }
}
