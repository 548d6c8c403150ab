//! Kubernetes kinds that Meridian serves: its own and the foreign ones.
