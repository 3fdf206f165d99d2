//! Tests only: other decoders.
