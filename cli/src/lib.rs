//! Command line of Meridian: join, unjoin, plan, get.
