//! What runs on an attached node; measurement.
