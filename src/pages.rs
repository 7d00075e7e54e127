//! Compiles the examples of the pages in `docs`.

// The examples of this page need all features.
#[cfg(feature = "postgres")]
#[doc = include_str!("../docs/idempotency.md")]
mod idempotency {}
#[doc = include_str!("../docs/recipes/reqwest.md")]
mod recipe_reqwest {}
#[doc = include_str!("../docs/recipes/hyper.md")]
mod recipe_hyper {}
#[doc = include_str!("../docs/recipes/tonic.md")]
mod recipe_tonic {}
#[doc = include_str!("../docs/recipes/axum-server.md")]
mod recipe_axum_server {}
#[doc = include_str!("../docs/recipes/idempotent-server.md")]
mod recipe_idempotent_server {}
#[doc = include_str!("../docs/recipes/axum-client.md")]
mod recipe_axum_client {}
#[doc = include_str!("../docs/recipes/database.md")]
mod recipe_database {}
#[doc = include_str!("../docs/recipes/operations.md")]
mod recipe_operations {}
#[doc = include_str!("../docs/migrating/tower-retry.md")]
mod migrating_tower_retry {}
#[doc = include_str!("../docs/migrating/reqwest-middleware.md")]
mod migrating_reqwest_middleware {}
#[doc = include_str!("../docs/migrating/failsafe.md")]
mod migrating_failsafe {}
#[doc = include_str!("../docs/migrating/backon.md")]
mod migrating_backon {}
#[doc = include_str!("../docs/migrating/tower-resilience.md")]
mod migrating_tower_resilience {}
