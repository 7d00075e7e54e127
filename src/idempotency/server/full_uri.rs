//! The URI of a request before routers cut prefixes off its path.

use std::mem;

use ::http::request::Parts;
use ::http::{Extensions, Uri};

/// Calls `f` with the full URI in `parts.uri`, and the URI that the layer sees if the two are not the same.
///
/// The URI is swapped for the duration of the call, which costs no copy of the headers.
pub(super) fn with_full_uri<T>(parts: &mut Parts, f: impl FnOnce(&Parts, Option<&Uri>) -> T) -> T {
    let Some(full) = original(&parts.extensions).filter(|full| *full != parts.uri) else {
        return f(parts, None);
    };
    let seen = mem::replace(&mut parts.uri, full);
    let result = f(parts, Some(&seen));
    parts.uri = seen;
    result
}

/// The URI that axum's outermost router was called with. A clone of a `Uri` shares its text.
#[cfg(feature = "axum")]
fn original(extensions: &Extensions) -> Option<Uri> {
    let original = extensions.get::<::axum::extract::OriginalUri>();
    original.map(|original| original.0.clone())
}

#[cfg(not(feature = "axum"))]
const fn original(_: &Extensions) -> Option<Uri> {
    None
}
