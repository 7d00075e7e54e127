//! The process's one `tracing` subscriber: with one a thread, tracing may take a line for disabled that another thread came
//! to first.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::Once;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata};

thread_local! {
    static LINES: RefCell<Vec<(Level, String)>> = const { RefCell::new(Vec::new()) };
    static SPANS: RefCell<Vec<Opened>> = const { RefCell::new(Vec::new()) };
    static ENTERED: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// Keeps the lines and the spans of the target `buttress`, each for the thread it was written on.
pub(crate) struct Log;

/// A span, as far as it has come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Opened {
    pub(crate) name: &'static str,
    pub(crate) fields: BTreeMap<&'static str, String>,
    /// How often it was entered.
    pub(crate) entered: u32,
}

impl Log {
    pub(crate) fn install() -> Self {
        static INSTALLED: Once = Once::new();
        INSTALLED.call_once(|| {
            tracing::subscriber::set_global_default(Self).expect("the only one");
            tracing::callsite::rebuild_interest_cache();
        });
        Self
    }

    /// The lines of this thread since the last time it was asked.
    #[expect(clippy::unused_self, reason = "only who has installed it may ask")]
    pub(crate) fn take(&self) -> Vec<(Level, String)> {
        LINES.take()
    }

    /// The spans of this thread, in the order in which they were opened.
    #[expect(clippy::unused_self, reason = "only who has installed it may ask")]
    pub(crate) fn spans(&self) -> Vec<Opened> {
        SPANS.with_borrow(Clone::clone)
    }

    /// The place of the span that this thread is in, among [`spans`](Self::spans).
    pub(crate) fn current() -> Option<usize> {
        ENTERED.with_borrow(|entered| entered.last().copied())
    }
}

fn place(id: &Id) -> usize {
    usize::try_from(id.into_u64()).unwrap() - 1
}

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("buttress")
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        SPANS.with_borrow_mut(|spans| {
            spans.push(Opened {
                name: attributes.metadata().name(),
                fields: fields.0,
                entered: 0,
            });
            Id::from_u64(spans.len() as u64)
        })
    }

    fn record(&self, id: &Id, values: &Record<'_>) {
        let mut fields = Fields::default();
        values.record(&mut fields);
        SPANS.with_borrow_mut(|spans| spans[place(id)].fields.extend(fields.0));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        LINES.with_borrow_mut(|lines| lines.push((*event.metadata().level(), line.0)));
    }

    fn enter(&self, id: &Id) {
        SPANS.with_borrow_mut(|spans| spans[place(id)].entered += 1);
        ENTERED.with_borrow_mut(|entered| entered.push(place(id)));
    }

    fn exit(&self, _: &Id) {
        ENTERED.with_borrow_mut(Vec::pop);
    }
}

#[derive(Default)]
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        write!(self.0, "{}={value:?} ", field.name()).unwrap();
    }
}

#[derive(Default)]
struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}
