//! Drains failed responses of reqwest.

use ::reqwest::{Body, Response};

use crate::budget::RetryBudget;
use crate::http::{Drain, Draining, deposit_later};
use crate::outcome::Outcome;
use crate::retry::Discard;

impl Discard<Response> for Drain {
    type Discarding = Draining<Body>;

    fn discard(&self, response: Response) -> Option<Draining<Body>> {
        self.rest(response.version(), response.into())
    }

    #[inline]
    fn deposit_later(&self, response: &Response, head: &Outcome, budget: &RetryBudget) -> bool {
        deposit_later(response, head, budget)
    }
}
