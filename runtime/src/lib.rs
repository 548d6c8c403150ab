//! What every long-running binary needs once: configuration, logging, metrics, admin port, shutdown, probes.
