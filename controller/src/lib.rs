//! Hub and member watches, propagation, discovery, leader election.
//!
//! | module | does |
//! | --- | --- |
//! | [`fleet`] | members: clients, probes, supervised watches, statuses |
//! | [`call`] | calls to API servers: deadlines and errors |

pub mod call;
pub mod fleet;
