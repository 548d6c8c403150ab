//! The live fleet of make demo.
