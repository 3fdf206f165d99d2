//! watari-link: user-space WireGuard engine and path probes.
