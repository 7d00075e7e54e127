//! gRPC: what its statuses mean, which calls may run twice, and rejections as statuses.

mod answer;
mod classify;
mod client;
mod methods;
mod repeat;
mod status;

pub use self::answer::{GrpcBody, GrpcStatus, answer_grpc};
pub use self::classify::ByGrpcStatus;
pub use self::client::grpc;
pub use self::repeat::{GrpcReplay, KeptCall};
