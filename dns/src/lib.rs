//! Authoritative DNS that answers with the nearest place that has room.
