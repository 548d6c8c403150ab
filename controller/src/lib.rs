//! Hub and member watches, propagation, discovery, leader election.
//!
//! | module | does |
//! | --- | --- |
//! | [`app`] | settings, and the one place that starts everything |
//! | [`fleet`] | members: clients, probes, supervised watches, statuses |
//! | [`hub`] | the hub's client, and installing the kinds |
//! | [`lease`] | leader election |
//! | [`call`] | calls to API servers: deadlines and errors |

pub mod app;
pub mod call;
pub mod fleet;
pub mod hub;
pub mod lease;
