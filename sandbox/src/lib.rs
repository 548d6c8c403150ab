//! A Kubernetes API in process.
