//! How a snapshot travels from the controller to DNS and LB, and load reports travel back.
