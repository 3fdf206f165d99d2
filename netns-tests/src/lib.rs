//! Namespaces, topologies, peers: integration and interop tests.
