//! What every long-running binary needs once, so that all of them behave alike.
//!
//! | module | holds |
//! | --- | --- |
//! | [`config`] | flags over environment over `--config` file over defaults |
//! | [`telemetry`] | log level and format |
//! | [`tasks`] | named tasks that end at shutdown and are awaited |
//! | [`metrics`] | the registry |
//! | [`admin`] | the admin port: health, readiness, metrics |
//! | [`crypto`] | the process-wide TLS provider |
//! | [`probe`] | active probes of paths, with hysteresis |

pub mod admin;
pub mod config;
pub mod crypto;
pub mod metrics;
pub mod probe;
pub mod tasks;
pub mod telemetry;
