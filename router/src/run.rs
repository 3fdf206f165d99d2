//! The daemon from its first check to its clean end.
