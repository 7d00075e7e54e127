//! The one `tracing` subscriber of the process. A test that installs it records the lines and spans of its own thread.
//!
//! A span may be entered, filled and closed on any thread: a multi-threaded runtime moves tasks between its workers. Its id is
//! therefore unique in the process. Nothing here may panic, because a panic while a span is dropped aborts the process.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata};

/// Every span that was recorded, by its id.
static SPANS: Mutex<BTreeMap<u64, Opened>> = Mutex::new(BTreeMap::new());

thread_local! {
    static RECORDING: Cell<bool> = const { Cell::new(false) };
    static LINES: RefCell<Vec<(Level, String)>> = const { RefCell::new(Vec::new()) };
    /// The spans that this thread has opened, in order.
    static OPENED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
    /// The spans that this thread is in, the innermost last.
    static ENTERED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Records the lines and the spans of the target `buttress` that the thread of the test writes and opens.
pub(crate) struct Log(());

/// A recorded span, with the fields it has so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Opened {
    pub(crate) name: &'static str,
    pub(crate) fields: BTreeMap<&'static str, String>,
    /// How often it was entered.
    pub(crate) entered: u32,
}

impl Log {
    /// Starts to record on this thread. What an earlier test on the same thread has recorded is dropped.
    pub(crate) fn install() -> Self {
        static INSTALLED: Once = Once::new();
        INSTALLED.call_once(|| {
            tracing::subscriber::set_global_default(Subscriber).expect("the only one");
            tracing::callsite::rebuild_interest_cache();
        });
        RECORDING.set(true);
        LINES.take();
        OPENED.take();
        Self(())
    }

    /// The lines of this thread since the last call.
    #[expect(clippy::unused_self, reason = "nothing is recorded before install")]
    pub(crate) fn take(&self) -> Vec<(Level, String)> {
        LINES.take()
    }

    /// The spans that this thread has opened, in order.
    #[expect(clippy::unused_self, reason = "nothing is recorded before install")]
    pub(crate) fn spans(&self) -> Vec<Opened> {
        OPENED.with_borrow(|opened| {
            let spans = SPANS.lock().unwrap_or_else(PoisonError::into_inner);
            opened.iter().map(|id| spans[id].clone()).collect()
        })
    }

    /// The index in [`spans`](Self::spans) of the span that this thread is in.
    pub(crate) fn current() -> Option<usize> {
        let current = ENTERED.with_borrow(|entered| entered.last().copied())?;
        OPENED.with_borrow(|opened| opened.iter().position(|id| *id == current))
    }
}

/// Other threads are filtered out by every single call of `enabled`: a result that tracing caches would hold for all threads.
struct Subscriber;

/// The span of this id, on whatever thread it was opened.
fn with_span(id: &Id, act: impl FnOnce(&mut Opened)) {
    let mut spans = SPANS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(span) = spans.get_mut(&id.into_u64()) {
        act(span);
    }
}

impl tracing::Subscriber for Subscriber {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if metadata.target().starts_with("buttress") {
            Interest::sometimes()
        } else {
            Interest::never()
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("buttress") && RECORDING.get()
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let opened = Opened {
            name: attributes.metadata().name(),
            fields: fields.0,
            entered: 0,
        };
        let mut spans = SPANS.lock().unwrap_or_else(PoisonError::into_inner);
        spans.insert(id, opened);
        drop(spans);
        // A thread that ends may still open spans while it drops what it holds.
        let _ = OPENED.try_with(|ids| ids.borrow_mut().push(id));
        Id::from_u64(id)
    }

    fn record(&self, id: &Id, values: &Record<'_>) {
        let mut fields = Fields::default();
        values.record(&mut fields);
        with_span(id, |span| span.fields.extend(fields.0));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let line = (*event.metadata().level(), line.0);
        let _ = LINES.try_with(|lines| lines.borrow_mut().push(line));
    }

    fn enter(&self, id: &Id) {
        with_span(id, |span| span.entered += 1);
        let _ = ENTERED.try_with(|entered| entered.borrow_mut().push(id.into_u64()));
    }

    fn exit(&self, _: &Id) {
        let _ = ENTERED.try_with(|entered| entered.borrow_mut().pop());
    }
}

#[derive(Default)]
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = write!(self.0, "{}={value:?} ", field.name());
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
