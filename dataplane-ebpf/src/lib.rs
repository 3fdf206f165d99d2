//! Loader and map sync of the eBPF datapath.
