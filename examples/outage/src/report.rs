//! The end of the story: a table for people, an object for programs.

use std::time::Duration;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use crate::plan::Plan;
use crate::stats::Figures;

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) fault: &'static str,
    pub(crate) outage_s: f64,
    pub(crate) load: f64,
    pub(crate) capacity: u32,
    pub(crate) seed: u64,
    pub(crate) late_p99_ms: f64,
    pub(crate) naive: Figures,
    pub(crate) buttress: Figures,
}

impl Report {
    pub(crate) fn table(&self, plan: &Plan) -> String {
        let mut table = Table::new();
        table
            .load_preset(UTF8_FULL_CONDENSED)
            .set_header(["", "naive", "with buttress"]);
        let mut row = |what: &str, cell: &dyn Fn(&Figures) -> String| {
            table.add_row([what.to_owned(), cell(&self.naive), cell(&self.buttress)]);
        };
        row("calls made, the same to both", &|f| f.offered.to_string());
        row("answered in time, before the outage", &|f| {
            percent(f.goodput_before)
        });
        row("answered in time, during the outage", &|f| {
            percent(f.goodput_during)
        });
        row("answered in time, after the outage", &|f| {
            percent(f.goodput_after)
        });
        row("attempts per call during the outage", &|f| {
            f.attempts_per_call_during
                .map_or_else(none, |n| format!("{n:.2}"))
        });
        row(
            "healthy again after the outage's end",
            &|f| match f.recovered_after_s {
                Some(t) => format!("in {t:.1} s"),
                None if f.goodput_after.is_some() => "not in this run".to_owned(),
                None => none(),
            },
        );
        row("latency after the outage, median", &|f| millis(f.p50_ms));
        row("latency after the outage, 99th percentile", &|f| {
            millis(f.p99_ms)
        });
        row("rejected at once, nothing sent", &|f| {
            f.rejected_fast.to_string()
        });
        row("circuit breaker opened", &|f| f.breaker_opened.to_string());
        for column in 1..=2 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        format!(
            "{table}\nIn time: within 3 s. Healthy: at least 95 % of every second's calls in time, to the end of the \
             load.\nLatency: until the caller knows, be it an answer or an error.\n\n{}",
            self.verdict(plan)
        )
    }

    /// One sentence, whoever won.
    fn verdict(&self, plan: &Plan) -> String {
        if self.naive.goodput_after.is_none() || self.buttress.goodput_after.is_none() {
            return "The run was stopped before there was anything to compare.".to_owned();
        }
        let watched = plan.after_time().as_secs_f64();
        let never = |who| format!("{who} did not recover in the {watched:.0} s after the outage");
        match (
            self.naive.recovered_after_s,
            self.buttress.recovered_after_s,
        ) {
            (None, None) => format!(
                "{}, nor was the client with buttress.",
                never("The naive client")
            ),
            (None, Some(t)) => format!(
                "With buttress the service was healthy again {t:.1} s after the outage; {}.",
                never("the naive client")
            ),
            (Some(t), None) => format!(
                "The naive client was healthy again {t:.1} s after the outage; {}.",
                never("the client with buttress")
            ),
            (Some(n), Some(b)) if n < b => format!(
                "The naive client was back first: {n:.1} s after the outage, with buttress {b:.1} s. A circuit \
                 breaker has to wait for its next probe."
            ),
            (Some(n), Some(b)) => {
                format!(
                    "With buttress the service was healthy again {b:.1} s after the outage, naive {n:.1} s."
                )
            }
        }
    }
}

/// Introduces the run before it starts.
pub(crate) fn headline(plan: &Plan, capacity: u32, load: f64) -> String {
    let secs = |duration: Duration| duration.as_secs_f64();
    format!(
        "Two copies of a dependency, {capacity} requests/s each; {:.0} calls/s to each ({:.0} % load), one from a naive \
         client, one through buttress.\nFor {} s: healthy. Then for {} s: {}. Then {} s of watching.\n\
         In the lines, ok: calls answered in time in that second, of the calls made in it.",
        plan.rate,
        load * 100.0,
        secs(plan.outage.start),
        secs(plan.outage_time()),
        plan.fault.what_happens(),
        secs(plan.after_time()),
    )
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(none, |share| format!("{:.1} %", share * 100.0))
}

fn millis(ms: Option<f64>) -> String {
    ms.map_or_else(none, |ms| format!("{ms:.0} ms"))
}

fn none() -> String {
    "-".to_owned()
}
