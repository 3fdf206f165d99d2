//! PURE: plan() and status().
