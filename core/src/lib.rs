//! Pure decisions of Meridian: no I/O, no clock, no randomness.
//!
//! Same inputs, same bytes out. Everything that has to be known is an argument, time and chance
//! included, so that every decision can be tested synchronously, replayed and explained.
//!
//! | module | decides |
//! | --- | --- |
//! | [`steer`] | which place serves whom: the one decision of DNS, LB and discovery |
//! | [`route`] | which backend serves a host and a path |
//! | [`snapshot`] | nothing: the immutable value that is decided from |
//! | [`index`] | what the facts about the fleet amount to: the next snapshot |
//! | [`geo`] | how far two places are apart |
//! | [`zone`] | what a DNS name means |
//! | [`health`] | whether a probed path is well |

pub mod geo;
pub mod health;
pub mod id;
pub mod index;
pub mod name;
pub mod place;
pub mod route;
pub mod snapshot;
pub mod steer;
pub mod time;
pub mod zone;
