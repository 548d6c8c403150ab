//! Hub and member watches, propagation, discovery, leader election.
