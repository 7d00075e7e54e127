//! The compiler error for `send_through(&layer)`.
//!
//! Without this file, the error would only state that a layer is not a service. Here each layer implements `Service` under a bound
//! that no type meets, and the compiler shows the message of that bound.

use std::convert::Infallible;
use std::future::Ready;
use std::task::{Context, Poll};

use tower_service::Service;

use crate::error::Error;
use crate::gate::GateLayer;
use crate::http::{ClientLayer, HeaderTimeoutLayer};
use crate::idempotency::IdempotencyKeyLayer;
use crate::retry::RetryLayer;
use crate::timeout::{DeadlineLayer, TimeoutLayer};

mod sealed {
    /// Implemented by nothing.
    #[diagnostic::on_unimplemented(
        message = "`{Self}` is a layer, not a stack that requests can be sent through",
        label = "wrap a client in this layer first",
        note = "write `let stack = layer.layer(reqwest_client);` with `tower::Layer` in scope, then `send_through(&stack)`"
    )]
    pub trait Stack<Req> {
        fn never<T>(&self) -> T;
    }
}

macro_rules! is_no_service {
    ($($layer:ident $(<$($parameter:ident),*>)?),* $(,)?) => {$(
        #[doc(hidden)]
        impl<Req, $($($parameter),*)?> Service<Req> for $layer $(<$($parameter),*>)?
        where
            Self: sealed::Stack<Req>,
        {
            type Response = Infallible;
            // An error type that `send_through` accepts: the missing bound must be the only error.
            type Error = Error<::reqwest::Error>;
            type Future = Ready<Result<Infallible, Self::Error>>;

            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
                sealed::Stack::<Req>::never(self)
            }

            fn call(&mut self, _: Req) -> Self::Future {
                sealed::Stack::<Req>::never(self)
            }
        }
    )*};
}

is_no_service!(
    ClientLayer<R, C, M>,
    DeadlineLayer,
    GateLayer<P, C, H>,
    HeaderTimeoutLayer,
    IdempotencyKeyLayer<M>,
    RetryLayer<R, C, K, D>,
    TimeoutLayer,
);
