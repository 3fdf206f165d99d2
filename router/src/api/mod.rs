//! REST over the brain.
