//! How a snapshot travels from the controller to DNS and LB, and load reports travel back.
//!
//! One gRPC stream per edge (`proto/meridian/feed/v1/feed.proto`). The hub sends everything on first
//! contact and then only what changed, scoped to the edge's role; the edge applies a batch only when it
//! is complete and newer than what it holds, keeps it on disk, and reports its load on the same stream.
//!
//! | module | holds |
//! | --- | --- |
//! | [`server`] | the hub's side |
//! | [`follower`] | the edge's side, with the last-good files |
//! | [`load`] | what an edge reports |

mod delta;
mod identity;
mod proto;
mod tls;

pub mod follower;
pub mod load;
pub mod server;

/// Version of the wire and last-good formats that this release writes. It reads this one and its
/// neighbours.
pub const FORMAT: u32 = 1;

/// Whether this release can read what was written in `format`.
const fn reads_format(format: u32) -> bool {
    format + 1 >= FORMAT && format <= FORMAT + 1 && format > 0
}
