//! Global L7 proxy that sends each request to the nearest cluster with room.
