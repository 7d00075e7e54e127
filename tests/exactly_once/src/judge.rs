//! Compares the responses of the clients with the ledger.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::Instant;

use crate::client::Answer;
use crate::ledger::Effect;
use crate::plan::{End, LEASE, fate, receipt};

/// The responses for one key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Witness {
    answer: Option<Answer>,
    replays: u64,
    /// Responses that differ from the first one.
    others: Vec<Answer>,
    pub(crate) wrong: Vec<String>,
}

impl Witness {
    pub(crate) fn hears(&mut self, answer: Answer) {
        match &self.answer {
            None => self.answer = Some(answer),
            Some(first) if *first == answer => self.replays += 1,
            Some(_) => self.others.push(answer),
        }
    }
}

/// The findings.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) replays: u64,
    /// Keys whose response is that of a handler that panicked.
    pub(crate) panics: u64,
    /// Runs after the first one.
    pub(crate) taken_over: u64,
    /// Duplicate effects that a kill explains, with the explanation.
    pub(crate) explained: Vec<String>,
    /// Duplicate effects without an explanation.
    pub(crate) doubles: Vec<String>,
    /// Responses that differ, are damaged, or name an effect that never happened.
    pub(crate) torn: Vec<String>,
    /// Keys without a response, unexplained effects without a response, and unexpected responses.
    pub(crate) lost: Vec<String>,
}

/// The input of the judge.
pub(crate) struct Case<'a> {
    pub(crate) seed: u64,
    pub(crate) witnesses: &'a [Witness],
    pub(crate) effects: &'a [Effect],
    pub(crate) kills: &'a HashMap<String, Instant>,
    /// Whether effect and record are committed together. Then a kill explains no duplicate.
    pub(crate) joined: bool,
}

impl Case<'_> {
    pub(crate) fn verdict(&self) -> Verdict {
        let mut verdict = Verdict::default();
        let mut effects: HashMap<u64, Vec<&Effect>> = HashMap::new();
        for effect in self.effects {
            effects.entry(effect.key).or_default().push(effect);
        }
        for (key, witness) in (0..).zip(self.witnesses) {
            let mut effects = effects.remove(&key).unwrap_or_default();
            effects.sort_by_key(|effect| effect.at);
            self.judge(key, witness, &effects, &mut verdict);
        }
        for key in effects.keys() {
            verdict.doubles.push(format!("key {key} was never sent"));
        }
        verdict
    }

    fn judge(&self, key: u64, witness: &Witness, effects: &[&Effect], verdict: &mut Verdict) {
        verdict.replays += witness.replays;
        verdict.taken_over += effects.iter().filter(|effect| effect.run > 1).count() as u64;
        let lost = witness.wrong.iter();
        verdict
            .lost
            .extend(lost.map(|what| format!("key {key}: {what}")));
        let Some(answer) = &witness.answer else {
            return verdict.lost.push(format!("key {key} has no answer"));
        };
        for other in &witness.others {
            let what = format!("key {key}: two answers, {answer:?} and {other:?}");
            verdict.torn.push(what);
        }
        // The effect that the response belongs to.
        let own = if let Some(id) = &answer.effect {
            effects.iter().position(|effect| effect.id == *id)
        } else {
            verdict.panics += 1;
            self.panicked(key, effects)
        };
        if !self.is_whole(key, answer, own.map(|at| effects[at])) {
            let what = format!("key {key}: {answer:?} does not fit {effects:?}");
            verdict.torn.push(what);
        }
        for pair in effects.windows(2) {
            if pair[1].run <= pair[0].run {
                let what = format!("key {key}: a run did not know of the one before: {effects:?}");
                verdict.doubles.push(what);
            }
        }
        let answered: HashSet<&str> = [answer]
            .into_iter()
            .chain(&witness.others)
            .filter_map(|answer| answer.effect.as_deref())
            .collect();
        for (at, effect) in effects.iter().enumerate() {
            if Some(at) == own {
                continue;
            }
            let explained = if answered.contains(&*effect.id) {
                Err("a client had its answer")
            } else {
                self.explained(effect, effects.get(at + 1).copied())
            };
            // If the final response belongs to another effect, this one is a duplicate.
            let is_double = own.is_some() || at + 1 < effects.len();
            match (explained, is_double) {
                (Ok(how), true) => verdict.explained.push(format!("key {key}: {how}")),
                // Its run was cut off, and the next one panicked before it had any.
                (Ok(_), false) => {}
                (Err(why), _) => verdict
                    .doubles
                    .push(format!("key {key}: {why}: {effects:?}")),
            }
        }
    }

    /// The effect of the run that ended in a panic: the last one, if that was to panic after it.
    fn panicked(&self, key: u64, effects: &[&Effect]) -> Option<usize> {
        let last = effects.last()?;
        let end = fate(self.seed, key, last.run).end;
        matches!(end, End::PanicsAfter | End::PanicsAtLast).then_some(effects.len() - 1)
    }

    /// Whether this is the response that its run must have sent.
    fn is_whole(&self, key: u64, answer: &Answer, effect: Option<&Effect>) -> bool {
        match (effect, &answer.effect) {
            (Some(effect), Some(id)) => {
                let end = fate(self.seed, key, effect.run).end;
                let status = match end {
                    End::Failed => 500,
                    End::Paid => 201,
                    // A committed response is final, and a transaction that was rolled back runs again.
                    End::PanicsAtLast | End::PanicsAfter if self.joined => 201,
                    _ => return false,
                };
                answer.status == status
                    && answer.kind == "text/plain"
                    && answer.body == receipt(self.seed, key, effect.run, id)
            }
            // It names an effect that never happened.
            (None, Some(_)) => false,
            (Some(_), None) => !self.joined && is_failure(answer),
            (None, None) => {
                // Runs that were cut off before their effect are not in the ledger.
                let panics = |run| fate(self.seed, key, run).end == End::PanicsBefore;
                let runs = if self.kills.is_empty() { 1 } else { 8 };
                is_failure(answer) && (1..=runs).any(panics)
            }
        }
    }

    /// Whether a kill explains that this effect has no response: its process was killed soon after it, and before the next
    /// effect.
    fn explained(&self, effect: &Effect, next: Option<&Effect>) -> Result<String, &'static str> {
        if self.joined {
            return Err("there is nothing between effect and record");
        }
        let Some(kill) = self.kills.get(effect.server()) else {
            return Err("its process was never killed");
        };
        let lived = kill.saturating_duration_since(effect.at);
        // After this time it has either recorded its response or lost its lease.
        if lived > LEASE {
            return Err("its process lived on");
        }
        match next {
            Some(next) if next.at < *kill => Err("it was done again before its process was killed"),
            _ => Ok(format!(
                "paid by server {} in run {}, which was killed within {lived:.1?}",
                effect.server(),
                effect.run
            )),
        }
    }
}

fn is_failure(answer: &Answer) -> bool {
    let text = String::from_utf8_lossy(&answer.body);
    answer.status == 500
        && answer.kind == "application/problem+json"
        && text.contains("variant.Failed")
}

impl Verdict {
    /// All failures.
    pub(crate) fn faults(&self) -> Vec<&String> {
        let all = self.doubles.iter().chain(&self.torn);
        all.chain(&self.lost).collect()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "panics={} replays={} taken_over={} doubles_explained={} doubles_unexplained={} torn={} lost={}",
            self.panics,
            self.replays,
            self.taken_over,
            self.explained.len(),
            self.doubles.len(),
            self.torn.len(),
            self.lost.len()
        )
    }
}
