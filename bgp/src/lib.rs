//! PURE: BGP-4 and EVPN speaker, sans-IO.
