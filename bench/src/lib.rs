//! Benchmarks against real peers, one command each.
//!
//! `make bench-NAME` prints a table and writes `target/bench/NAME.json`, a list of
//! `{case, subject, metric, unit, value}`; values are medians of rounds in which the subjects
//! alternate, so that a machine whose speed drifts is as slow for one as for the other.

mod cost;
pub mod latency;
mod product;
pub mod propagation;
pub mod report;
mod sightings;

/// Says on standard error how far a benchmark is; standard output is the table's.
fn progress(line: &str) {
    use std::io::Write as _;
    // A closed terminal must not end a measurement.
    writeln!(std::io::stderr(), "{line}").ok();
}
