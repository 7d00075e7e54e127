//! gRPC: what its statuses mean, which calls may run twice, and rejections as statuses.

mod classify;
mod client;
mod handle_rejections;
pub(super) mod methods;
mod status;

pub use self::classify::ByGrpcStatus;
pub use self::client::grpc;
#[cfg(test)]
pub(super) use self::handle_rejections::GrpcBody;
pub use self::handle_rejections::handle_grpc_rejections;
