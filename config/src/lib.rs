//! PURE: documents, validation, Desired, names.
