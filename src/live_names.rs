//! The names of all live handles, to report two handles with the same name.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::panic::Location;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use hashbrown::{Equivalent, HashMap};

use crate::event::{BuiltAt, Event, Source};
use crate::observe::emit;

/// Names beyond these are not registered.
const MAX_NAMES: usize = 10_000;

type ShownConfig = Arc<dyn fmt::Debug + Send + Sync>;

#[derive(Eq, PartialEq)]
struct Name {
    kind: &'static str,
    name: Arc<str>,
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.kind, &*self.name).hash(state);
    }
}

#[derive(Hash)]
struct NameRef<'a>(&'static str, &'a str);

impl Equivalent<Name> for NameRef<'_> {
    fn equivalent(&self, key: &Name) -> bool {
        self.0 == key.kind && self.1 == &*key.name
    }
}

struct Live {
    handles: usize,
    /// Each name is reported once. After that it stays registered without handles: a stack that is built for each request must
    /// not be reported again and again.
    warned: bool,
    location: &'static Location<'static>,
    settings: ShownConfig,
}

static LIVE: LazyLock<Mutex<HashMap<Name, Live>>> = LazyLock::new(Mutex::default);

/// A registered name; dropping it frees the name.
#[derive(Debug)]
pub(crate) struct LiveName {
    kind: &'static str,
    name: Arc<str>,
}

/// Registers the name of a new handle for as long as its source lives, and warns if another live handle of the same kind has
/// the name. Clones of a handle share its source, so they do not count.
pub(crate) fn register(
    source: &Source,
    location: &'static Location<'static>,
    settings: impl fmt::Debug + Send + Sync + 'static,
) {
    register_stack(source, source, location, settings);
}

/// Like [`register`], for a stack: the name is registered for as long as `part` lives, which all services of the stack share.
pub(crate) fn register_stack(
    source: &Source,
    part: &Source,
    location: &'static Location<'static>,
    settings: impl fmt::Debug + Send + Sync + 'static,
) {
    let settings: ShownConfig = Arc::new(settings);
    let (kind, name) = (source.layer(), source.name());
    let existing = {
        let mut names = LIVE.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = names.len() >= MAX_NAMES;
        if let Some(live) = names.get_mut(&NameRef(kind, name)) {
            live.handles += 1;
            let warns = live.handles > 1 && !live.warned;
            live.warned |= warns;
            let location = std::mem::replace(&mut live.location, location);
            let settings = std::mem::replace(&mut live.settings, Arc::clone(&settings));
            warns.then_some((location, settings))
        } else if is_full {
            return;
        } else {
            let live = Live {
                handles: 1,
                warned: false,
                location,
                settings: Arc::clone(&settings),
            };
            let name = Arc::clone(name);
            names.insert(Name { kind, name }, live);
            None
        }
    };
    part.hold(Arc::new(LiveName {
        kind,
        name: Arc::clone(name),
    }));
    if let Some((earlier, other)) = existing {
        emit(&Event::NameInUse {
            source,
            existing: BuiltAt {
                location: earlier,
                settings: &*other,
            },
            new: BuiltAt {
                location,
                settings: &*settings,
            },
        });
    }
}

impl Drop for LiveName {
    fn drop(&mut self) {
        let name = NameRef(self.kind, &self.name);
        let mut names = LIVE.lock().unwrap_or_else(PoisonError::into_inner);
        let is_free = names.get_mut(&name).is_some_and(|live| {
            live.handles = live.handles.saturating_sub(1);
            live.handles == 0 && !live.warned
        });
        // Outside of the lock: the settings are dropped with it.
        let gone = is_free.then(|| names.remove(&name));
        drop(names);
        drop(gone);
    }
}
