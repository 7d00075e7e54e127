//! Finds the key of a request.

use std::fmt;
use std::hash::Hash;

use hashbrown::Equivalent;

/// Finds the key of a request without allocating. An owned key is made only when the key is new.
#[diagnostic::on_unimplemented(
    message = "`{Self}` finds no key in requests of the type `{Req}`",
    note = "a key that is cheap to make: `buttress::gate::by(|request: &Req| …)`; text of the request: `buttress::gate::by_str(|request: &Req| …)`",
    note = "the server that an HTTP request is addressed to: `buttress::http::ByAuthority`"
)]
pub trait KeyBy<Req: ?Sized> {
    /// The owned key, as stored in the map.
    type Key: Hash + Eq + Clone + fmt::Display;
    /// A key to look up. It hashes and compares like [`Key`](Self::Key).
    type Lookup<'a>: Hash + Equivalent<Self::Key>
    where
        Req: 'a;

    /// The key of this request.
    fn lookup<'a>(&self, request: &'a Req) -> Self::Lookup<'a>;

    /// The owned key to store.
    fn to_key(&self, lookup: &Self::Lookup<'_>) -> Self::Key;
}

/// A key that a closure computes: [`by`].
#[derive(Clone, Copy, Debug)]
pub struct By<F>(F);

/// Uses the closure's return value as the key, for keys that are cheap to make, such as a number.
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
    type Lookup<'a>
        = K
    where
        Req: 'a;

    fn lookup(&self, request: &Req) -> K {
        (self.0)(request)
    }

    fn to_key(&self, lookup: &K) -> K {
        lookup.clone()
    }
}

/// A key that is a part of the request's text: [`by_str`].
#[derive(Clone, Copy, Debug)]
pub struct ByStr<F>(F);

/// Uses a string that the closure borrows from the request as the key. The string is copied only when the key is new.
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
    type Lookup<'a>
        = StrKey<'a>
    where
        Req: 'a;

    fn lookup<'a>(&self, request: &'a Req) -> StrKey<'a> {
        StrKey((self.0)(request))
    }

    fn to_key(&self, lookup: &StrKey<'_>) -> Box<str> {
        lookup.0.into()
    }
}
