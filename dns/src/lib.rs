//! Authoritative DNS that answers with the nearest place that has room.
//!
//! | module | holds |
//! | --- | --- |
//! | [`choice`] | a dynamic name with everything that could be answered for it |
//! | [`view`] | the one value queries are answered from |
//! | [`answer`] | question and client to answer, pure |
//! | [`ecs`] | EDNS Client Subnet, read strictly |
//! | [`locate`] | where a client is |
//! | [`wire`], [`handler`], [`server`] | messages, requests, sockets |
//! | [`probe`], [`reload`] | what this server finds out by itself |
//! | [`metrics`], [`explain`] | what operators see |
//! | [`app`] | the program: arguments and tasks |

pub mod answer;
pub mod app;
pub mod choice;
pub mod ecs;
pub mod explain;
pub mod handler;
pub mod locate;
pub mod metrics;
pub mod probe;
pub mod reload;
pub mod server;
#[cfg(feature = "testkit")]
pub mod testkit;
pub mod view;
pub mod wire;
