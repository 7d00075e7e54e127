//! A macro for stores that forward calls to the store in one of their fields.

/// `forward!(records: begin, renew);` inside `impl Store for …` implements these methods by those of the field `records`.
macro_rules! forward {
    ($field:tt: $($method:ident),+) => { $(forward!(@$method $field);)+ };
    (@begin $field:tt) => {
        fn begin<'a>(
            &'a self,
            key: &'a ::buttress::idempotency::store::RecordKey,
            claim: &'a ::buttress::idempotency::store::Claim,
        ) -> ::buttress::idempotency::store::future::StoreFuture<'a, ::buttress::idempotency::store::Begun> {
            self.$field.begin(key, claim)
        }
    };
    (@renew $field:tt) => {
        fn renew<'a>(
            &'a self,
            key: &'a ::buttress::idempotency::store::RecordKey,
            token: ::buttress::idempotency::store::Token,
            lease: ::std::time::Duration,
            ttl: ::std::time::Duration,
        ) -> ::buttress::idempotency::store::future::StoreFuture<'a, bool> {
            self.$field.renew(key, token, lease, ttl)
        }
    };
    (@complete $field:tt) => {
        fn complete<'a>(
            &'a self,
            key: &'a ::buttress::idempotency::store::RecordKey,
            token: ::buttress::idempotency::store::Token,
            answer: ::bytes::Bytes,
            ttl: ::std::time::Duration,
        ) -> ::buttress::idempotency::store::future::StoreFuture<'a, ::buttress::idempotency::store::Ended> {
            self.$field.complete(key, token, answer, ttl)
        }
    };
    (@abandon $field:tt) => {
        fn abandon<'a>(
            &'a self,
            key: &'a ::buttress::idempotency::store::RecordKey,
            token: ::buttress::idempotency::store::Token,
        ) -> ::buttress::idempotency::store::future::StoreFuture<'a, ::buttress::idempotency::store::Ended> {
            self.$field.abandon(key, token)
        }
    };
}
pub(crate) use forward;
