//! Pure decisions of Meridian: no I/O, no clock, no randomness.
