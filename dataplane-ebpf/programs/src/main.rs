#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
//! The eBPF datapath: thin hooks, one pipeline.
//!
//! ```text
//!  trunk iface core cross node vxlan   entry (tests, trace)
//!     \     |    |    |    |    /        |
//!      Meta { port, vni, vtep, hook } ◀──┘
//!                  │ tail call
//!     guard ◀─▶ classify ── source, learn ──▶ switch: known MAC → port · VTEP · node
//!        ARP, ND │   │ our MAC, core, node │ group, unknown
//!                ▼   ▼                     ▼
//!            answer  route ── question ──▶ flood ──▶ ports, VTEPs
//!  to a VTEP: encap, by way of mtu where a packet is too large or opens a TCP connection
//!
//!  tunl, uplnk: before the VXLAN socket, each in one step
//! ```
//! A stage is a program of its own, reached by a tail call; [`watari_abi::Meta`] lies in per-CPU working memory
//! between them. Every way out goes through [`out`], which counts and, for tests and traces, reports.

mod account;
mod beacon;
mod chain;
mod explain;
mod fdb;
mod fit;
mod flow;
mod headers;
mod hooks;
mod learn;
mod maps;
mod nd;
mod out;
mod skb;
mod stages;
mod toobig;
mod tos;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
