//! An application's own error without a variant for rejections.
//~ the error `ShopError` cannot hold a rejection of this crate
//~ your own error enum: add a variant `Rejected(#[from] #[source] buttress::Rejected)` and implement `buttress::CallError`

use std::time::Duration;

use buttress::timeout::TimeoutLayer;
use tower::{Layer, service_fn};

pub enum ShopError {
    Closed,
    #[cfg(not(mistake))]
    Rejected(buttress::Rejected),
}

#[cfg(not(mistake))]
impl From<buttress::Rejected> for ShopError {
    fn from(rejected: buttress::Rejected) -> Self {
        Self::Rejected(rejected)
    }
}

#[cfg(not(mistake))]
impl buttress::CallError for ShopError {
    fn rejected(&self) -> Option<&buttress::Rejected> {
        match self {
            Self::Rejected(rejected) => Some(rejected),
            Self::Closed => None,
        }
    }
}

pub fn stack() {
    let shop = service_fn(async |_: u64| Err::<(), _>(ShopError::Closed));
    let limited = TimeoutLayer::new("shop", Duration::from_secs(1)).layer(shop);
    buttress::verify::<u64, _>(limited);
}
