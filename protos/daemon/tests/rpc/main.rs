//! A small real service on one socket, called by gRPC and by ttrpc, politely and otherwise.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod connections;
mod methods;
mod server;
mod stop;
