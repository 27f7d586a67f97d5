//! The localhost door: an HTTP/1.1 server that gives workloads secrets, tokens and evidence.
//!
//! A request passes through [`server`] (limits), [`door`] (checks), [`routes`] (the table), a handler and
//! [`upstream`] (the two daemons), and comes back as an [`answer`]. The server holds no state and no key, links
//! no cryptography, and knows nothing of what a secret means; who may have one is decided behind it.
//!
//! The interface is the REST interface of the Confidential Containers guest components, described by the
//! OpenAPI document in [`openapi`].

pub mod answer;
pub mod config;
pub mod confine;
pub mod door;
pub mod error;
mod handlers;
pub mod health;
pub mod host;
pub mod openapi;
pub mod pace;
pub mod routes;
pub mod server;
pub mod stall;
pub mod target;
pub mod upstream;
