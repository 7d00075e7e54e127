//! reqwest's failed responses are read to their end, too.

use ::reqwest::{Body, Response};

use crate::http::{Drain, Draining};
use crate::retry::Discard;

impl Discard<Response> for Drain {
    type Discarding = Draining<Body>;

    fn discard(&self, response: Response) -> Option<Draining<Body>> {
        self.rest(response.version(), response.into())
    }
}
