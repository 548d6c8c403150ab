//! Cross-crate tests and the testbed of real control planes.
