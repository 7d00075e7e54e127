//! The budget that pays for the retries of a request.

use std::fmt;
use std::hash::Hash;

use crate::budget::RetryBudget;
use crate::clock::Now;
use crate::gate::{KeyBy, Keyed};

/// Finds the budget that pays for the retries of a request, for example one per authority.
pub trait Budgets<Req: ?Sized> {
    /// The budget for this request. `None`: the budget of the layer, if it has one.
    fn budget(&self, request: &Req) -> Option<RetryBudget>;
}

/// The budget of the layer pays for every request.
impl<Req: ?Sized> Budgets<Req> for () {
    #[inline]
    fn budget(&self, _request: &Req) -> Option<RetryBudget> {
        None
    }
}

impl<Req: ?Sized, K, B> Budgets<Req> for Keyed<K, B, RetryBudget>
where
    K: Hash + Eq + Clone + fmt::Display,
    B: KeyBy<Req, Key = K>,
{
    fn budget(&self, request: &Req) -> Option<RetryBudget> {
        Some(RetryBudget::clone(&self.get(request, &Now::unread())))
    }
}

impl<Req: ?Sized, K: Budgets<Req>> Budgets<Req> for Option<K> {
    fn budget(&self, request: &Req) -> Option<RetryBudget> {
        self.as_ref()?.budget(request)
    }
}
