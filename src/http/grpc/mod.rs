//! gRPC: what its statuses mean, which calls may run twice, and rejections as statuses.

mod answer;
mod classify;
mod client;
pub(super) mod methods;
mod status;

#[cfg(test)]
pub(super) use self::answer::GrpcBody;
pub use self::answer::answer_grpc;
pub use self::classify::ByGrpcStatus;
pub use self::client::grpc;
