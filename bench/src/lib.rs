//! Benchmarks against real peers.
