#![no_std]
//! Layouts shared by the eBPF programs and their loader.
