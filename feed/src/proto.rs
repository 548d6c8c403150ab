//! The generated protocol, and its borders with core's types.

use meridian_core::snapshot::Generation;

#[allow(missing_docs, unreachable_pub, clippy::all)]
mod generated {
    tonic::include_proto!("meridian.feed.v1");
}

pub(crate) use generated::{
    Begin, Commit, EdgeFrame, Generation as WireGeneration, Hello, HubFrame, LoadReport, Refusal, Remove,
    ServiceLoad as WireLoad, Upsert, edge_frame, feed_client, feed_server, hub_frame,
};

impl From<&Generation> for WireGeneration {
    fn from(generation: &Generation) -> Self {
        Self { hub: generation.hub.to_string(), term: generation.term, seq: generation.seq }
    }
}

impl From<WireGeneration> for Generation {
    fn from(wire: WireGeneration) -> Self {
        Self { hub: wire.hub.into(), term: wire.term, seq: wire.seq }
    }
}

impl From<edge_frame::Frame> for EdgeFrame {
    fn from(frame: edge_frame::Frame) -> Self {
        Self { frame: Some(frame) }
    }
}

impl From<hub_frame::Frame> for HubFrame {
    fn from(frame: hub_frame::Frame) -> Self {
        Self { frame: Some(frame) }
    }
}
