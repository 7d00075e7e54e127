//! How the key of a request is found.

use std::fmt;
use std::hash::Hash;

use hashbrown::Equivalent;

/// Finds the key of a request without allocating; the key is made to be kept only when it is new.
#[diagnostic::on_unimplemented(
    message = "`{Self}` finds no key in requests of the type `{Req}`",
    note = "a key that is cheap to make: `buttress::gate::by(|request: &Req| …)`; text of the request: `buttress::gate::by_str(|request: &Req| …)`",
    note = "the server that an HTTP request is addressed to: `buttress::http::ByAuthority`"
)]
pub trait KeyBy<Req: ?Sized> {
    /// What is kept for as long as the key is.
    type Key: Hash + Eq + Clone + fmt::Display;
    /// What a look-up needs: it hashes and compares like the key.
    type Look<'a>: Hash + Equivalent<Self::Key>
    where
        Req: 'a;

    /// What to look for.
    fn look<'a>(&self, request: &'a Req) -> Self::Look<'a>;

    /// The key to keep.
    fn own(&self, look: &Self::Look<'_>) -> Self::Key;
}

/// A key that a closure computes: [`by`].
#[derive(Clone, Copy, Debug)]
pub struct By<F>(F);

/// The key is what the closure returns: for keys that are cheap to make, such as a number.
///
/// ```
/// # struct Query { shard: u32 }
/// let by_shard = buttress::gate::by(|query: &Query| query.shard);
/// # let _ = by_shard;
/// ```
pub const fn by<F>(key: F) -> By<F> {
    By(key)
}

impl<Req: ?Sized, K, F> KeyBy<Req> for By<F>
where
    F: Fn(&Req) -> K,
    K: Hash + Eq + Clone + fmt::Display,
{
    type Key = K;
    type Look<'a>
        = K
    where
        Req: 'a;

    fn look(&self, request: &Req) -> K {
        (self.0)(request)
    }

    fn own(&self, look: &K) -> K {
        look.clone()
    }
}

/// A key that is a part of the request's text: [`by_str`].
#[derive(Clone, Copy, Debug)]
pub struct ByStr<F>(F);

/// The key is a string that the closure borrows from the request; it is copied only when it is new.
///
/// ```
/// # struct Query { tenant: String }
/// let by_tenant = buttress::gate::by_str(|query: &Query| query.tenant.as_str());
/// # let _ = by_tenant;
/// ```
pub const fn by_str<Req: ?Sized, F: Fn(&Req) -> &str>(key: F) -> ByStr<F> {
    ByStr(key)
}

/// A borrowed string to look for among owned ones.
#[derive(Clone, Copy, Debug, Hash)]
pub struct StrKey<'a>(&'a str);

impl Equivalent<Box<str>> for StrKey<'_> {
    fn equivalent(&self, key: &Box<str>) -> bool {
        *self.0 == **key
    }
}

impl<Req: ?Sized, F: Fn(&Req) -> &str> KeyBy<Req> for ByStr<F> {
    type Key = Box<str>;
    type Look<'a>
        = StrKey<'a>
    where
        Req: 'a;

    fn look<'a>(&self, request: &'a Req) -> StrKey<'a> {
        StrKey((self.0)(request))
    }

    fn own(&self, look: &StrKey<'_>) -> Box<str> {
        look.0.into()
    }
}
