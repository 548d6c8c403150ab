//! Global L7 proxy that sends each request to the nearest cluster with room.
//!
//! | module | does |
//! | --- | --- |
//! | [`table`] | compiles a snapshot into what requests are answered from |
//! | [`balance`] | one endpoint for one attempt |
//! | [`proxy`] | the phases of a request |
//! | [`guard`], [`forward`], [`refusal`] | what comes in, what goes on, what is refused |
//! | [`tls`], [`listen`], [`drain`] | certificates, sockets, shutting down |
//! | [`load`], [`probe`], [`resolve`] | what is measured here: demand, reachability, names |
//! | [`control`] | brings changes together and replaces the table |
//! | [`explain`] | why a request goes where it goes |
//! | [`app`] | the process |

pub mod addresses;
pub mod app;
pub mod balance;
pub mod clock;
pub mod control;
pub mod drain;
pub mod explain;
#[cfg(test)]
mod fixtures;
pub mod forward;
pub mod guard;
pub mod listen;
pub mod load;
pub mod metrics;
pub mod probe;
pub mod proxy;
pub mod refusal;
pub mod registry;
pub mod resolve;
pub mod table;
pub mod tls;
