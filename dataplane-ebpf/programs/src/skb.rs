//! The kernel's packet, and the helper calls on it. Every call may move the packet's bytes, so none is kept
//! as a pointer: headers are copied out and in.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{__sk_buff, bpf_tunnel_key},
    cty::c_void,
    helpers::generated::{
        bpf_clone_redirect, bpf_get_hash_recalc, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_redirect,
        bpf_redirect_peer, bpf_skb_adjust_room, bpf_skb_change_head, bpf_skb_change_tail,
        bpf_skb_change_type, bpf_skb_get_tunnel_key, bpf_skb_load_bytes, bpf_skb_load_bytes_relative,
        bpf_skb_pull_data, bpf_skb_set_tunnel_key, bpf_skb_store_bytes, bpf_skb_vlan_pop, bpf_skb_vlan_push,
    },
    programs::TcContext,
};
use watari_abi::{DropReason, IpBytes, PortKey};

use crate::headers::{is_mapped, mapped, unmapped};

/// Keep the sum of the whole packet right (devices that summed it for us).
pub const RECOMPUTE_CSUM: u64 = 1;
const HDR_START_NET: u32 = 1;
const ZERO_CSUM_TX: u64 = 2;
const C_TPID: u16 = 0x8100_u16.to_be();
const S_TPID: u16 = 0x88a8_u16.to_be();
const VID_MASK: u16 = 0x0fff;
const TUNINFO_IPV6: u64 = 1;
pub const OUTER_TTL: u8 = 64;
/// `bpf_skb_adjust_room`: room behind the Ethernet header.
const ROOM_MAC: u32 = 1;

/// Reads a field of the context, and nothing else: no address arithmetic that the verifier would refuse.
macro_rules! field {
    ($skb:expr, $name:ident) => {
        // SAFETY: the context of a running program; `field` is one of its words.
        unsafe { core::ptr::read_volatile(&raw const (*$skb.0).$name) }
    };
}

/// One packet.
#[derive(Clone, Copy)]
pub struct Skb(*mut __sk_buff);

impl Skb {
    #[inline(always)]
    pub fn new(ctx: &TcContext) -> Self {
        Self(ctx.skb.skb)
    }
    /// The same packet, in a function that is called.
    #[inline(always)]
    pub fn from_raw(skb: *mut __sk_buff) -> Self {
        Self(skb)
    }
    #[inline(always)]
    pub fn raw(self) -> *mut __sk_buff {
        self.0
    }
    /// The context, for helpers that take it as such.
    #[inline(always)]
    pub fn context(self) -> *mut c_void {
        self.0.cast()
    }
    #[inline(always)]
    pub fn len(self) -> u32 {
        field!(self, len)
    }
    #[inline(always)]
    pub fn mark(self) -> u32 {
        field!(self, mark)
    }
    #[inline(always)]
    pub fn set_mark(self, mark: u32) {
        // SAFETY: as in `field`; the mark may be written.
        unsafe { core::ptr::write_volatile(&raw mut (*self.0).mark, mark) }
    }
    #[inline(always)]
    pub fn ifindex(self) -> u32 {
        field!(self, ifindex)
    }
    /// EtherType as the kernel has it, host order.
    #[inline(always)]
    pub fn protocol(self) -> u16 {
        u16::from_be(field!(self, protocol) as u16)
    }
    /// The outer tag as [`PortKey::outer`] has it, if there is a tag; 0 for a tag of VLAN 0.
    #[inline(always)]
    pub fn vid(self) -> Option<u16> {
        if field!(self, vlan_present) == 0 {
            return None;
        }
        let vid = field!(self, vlan_tci) as u16 & VID_MASK;
        if vid != 0 && field!(self, vlan_proto) as u16 == S_TPID {
            return Some(vid | PortKey::S_TAG);
        }
        Some(vid)
    }
    /// Where the bytes that a program may read begin, and where they end.
    #[inline(always)]
    pub fn bytes(self) -> (usize, usize) {
        (field!(self, data) as usize, field!(self, data_end) as usize)
    }
    /// Makes `length` bytes readable.
    #[inline(always)]
    pub fn bring_up(self, length: u32) -> Result<(), DropReason> {
        // SAFETY: no pointers but the context.
        if unsafe { bpf_skb_pull_data(self.0, length) } == 0 { Ok(()) } else { Err(DropReason::Malformed) }
    }
    /// Payload bytes of one segment of a super-frame; 0 for a plain frame.
    #[inline(always)]
    pub fn gso_size(self) -> u32 {
        field!(self, gso_size)
    }
    /// How many packets this is.
    #[inline(always)]
    pub fn packets(self) -> u32 {
        let size = self.gso_size();
        if size == 0 {
            return 1;
        }
        let segments = field!(self, gso_segs);
        if segments > 1 {
            return segments;
        }
        // Decapsulated, or from a virtual machine: the kernel counts later.
        (self.len() + size - 1) / size
    }
    /// The kernel's hash of the flow.
    #[inline(always)]
    pub fn flow_hash(self) -> u32 {
        // SAFETY: no pointers but the context.
        unsafe { bpf_get_hash_recalc(self.0) }
    }
    /// Makes (or, negative, takes) room of `bytes` behind the Ethernet header.
    #[inline(always)]
    pub fn adjust_room(self, bytes: i32, flags: u64) -> Result<(), DropReason> {
        // SAFETY: no pointers but the context.
        done(unsafe { bpf_skb_adjust_room(self.0, bytes, ROOM_MAC, flags) })
    }
    /// `N` bytes at `offset` from the Ethernet header.
    #[inline(always)]
    pub fn load<const N: usize>(self, offset: u32) -> Result<[u8; N], DropReason> {
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        // SAFETY: `bytes` has room for `N`.
        let failed =
            unsafe { bpf_skb_load_bytes(self.0.cast(), offset, bytes.as_mut_ptr().cast(), N as u32) };
        // SAFETY: the helper has written all of it.
        if failed == 0 { Ok(unsafe { bytes.assume_init() }) } else { Err(DropReason::Malformed) }
    }
    /// `length` bytes (a constant at every call) at `offset` from the Ethernet header, to where `bytes` has room for them.
    #[inline(always)]
    pub fn load_raw(self, offset: u32, bytes: *mut u8, length: u32) -> Result<(), DropReason> {
        // SAFETY: the caller's buffer has `length` bytes; the verifier checks it.
        let failed = unsafe { bpf_skb_load_bytes(self.0.cast(), offset, bytes.cast(), length) };
        if failed == 0 { Ok(()) } else { Err(DropReason::Malformed) }
    }
    /// `N` bytes at `offset` from the network header, whether or not the device has a link-layer header.
    #[inline(always)]
    pub fn load_network<const N: usize>(self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        // SAFETY: `bytes` has room for `N`.
        let failed = unsafe {
            bpf_skb_load_bytes_relative(
                self.0.cast(),
                offset,
                bytes.as_mut_ptr().cast(),
                N as u32,
                HDR_START_NET,
            )
        };
        // SAFETY: the helper has written all of it.
        if failed == 0 { Some(unsafe { bytes.assume_init() }) } else { None }
    }
    #[inline(always)]
    pub fn store<const N: usize>(self, offset: u32, bytes: &[u8; N], flags: u64) -> Result<(), DropReason> {
        self.store_raw(offset, bytes.as_ptr(), N as u32, flags)
    }
    /// `length` is a constant at every call: the verifier must know it.
    #[inline(always)]
    pub fn store_raw(self, offset: u32, bytes: *const u8, length: u32, flags: u64) -> Result<(), DropReason> {
        // SAFETY: the caller's buffer has `length` bytes; the verifier checks it.
        let failed = unsafe { bpf_skb_store_bytes(self.0, offset, bytes.cast::<c_void>(), length, flags) };
        done(failed)
    }
    /// Replaces two bytes in an IPv4 header's checksum at `offset`.
    #[inline(always)]
    pub fn fix_ip_sum(self, offset: u32, from: u16, to: u16) -> Result<(), DropReason> {
        // SAFETY: no pointers but the context.
        done(unsafe { bpf_l3_csum_replace(self.0, offset, u64::from(from), u64::from(to), 2) })
    }
    /// Replaces two bytes under a TCP or UDP checksum at `offset`; one that a device will write is left alone.
    #[inline(always)]
    pub fn fix_l4_sum(self, offset: u32, from: u16, to: u16) -> Result<(), DropReason> {
        // SAFETY: no pointers but the context.
        done(unsafe { bpf_l4_csum_replace(self.0, offset, u64::from(from), u64::from(to), 2) })
    }
    /// Pushes a tag as [`PortKey::outer`] has it.
    #[inline(always)]
    pub fn vlan_push(self, tag: u16) -> Result<(), DropReason> {
        let tpid = if tag & PortKey::S_TAG != 0 { S_TPID } else { C_TPID };
        // SAFETY: no pointers but the context.
        done(unsafe { bpf_skb_vlan_push(self.0, tpid, tag & VID_MASK) })
    }
    #[inline(always)]
    pub fn vlan_pop(self) -> Result<(), DropReason> {
        // SAFETY: no pointers but the context.
        done(unsafe { bpf_skb_vlan_pop(self.0) })
    }
    /// Makes room of `bytes` before the packet, zeroed: the new link-layer header.
    #[inline(always)]
    pub fn grow_head(self, bytes: u32) -> Result<(), DropReason> {
        // SAFETY: no pointers but the context.
        done(unsafe { bpf_skb_change_head(self.0, bytes, 0) })
    }
    /// Sets the length of the packet.
    #[inline(always)]
    pub fn resize(self, length: u32) -> Result<(), DropReason> {
        // SAFETY: no pointers but the context.
        done(unsafe { bpf_skb_change_tail(self.0, length, 0) })
    }
    /// Sends the packet out of a device, once the program has ended.
    #[inline(always)]
    pub fn redirect(self, ifindex: u32) -> i32 {
        // SAFETY: no pointers.
        unsafe { bpf_redirect(ifindex, 0) as i32 }
    }
    /// Hands the packet to the other end of a veth, once the program has ended, as arrived there and meant for it. The other
    /// end must be in another namespace.
    #[inline(always)]
    pub fn redirect_peer(self, ifindex: u32) -> i32 {
        const PACKET_HOST: u32 = 0;
        // SAFETY: no pointers but the context.
        unsafe {
            bpf_skb_change_type(self.0, PACKET_HOST);
            bpf_redirect_peer(ifindex, 0) as i32
        }
    }
    /// Whether a socket of this machine pays for the packet until it is gone.
    #[inline(always)]
    pub fn is_charged(self) -> bool {
        // SAFETY: the context is valid for as long as the program runs.
        !unsafe { (*self.0).__bindgen_anon_2.sk }.is_null()
    }
    /// Sends a copy now. False if there was none to send: what the device or its queue then drops is gone as any other
    /// packet would be.
    #[inline(always)]
    pub fn sent_as_copy(self, ifindex: u32) -> bool {
        // SAFETY: no pointers but the context.
        unsafe { bpf_clone_redirect(self.0, ifindex, 0) >= 0 }
    }
    /// Sends a copy now.
    #[inline(always)]
    pub fn clone_redirect(self, ifindex: u32) -> bool {
        // SAFETY: no pointers but the context.
        unsafe { bpf_clone_redirect(self.0, ifindex, 0) == 0 }
    }
    /// VNI and outer source of a packet from the VXLAN device.
    #[inline(always)]
    pub fn tunnel_key(self) -> Option<(u32, IpBytes)> {
        const SIZE: u32 = size_of::<bpf_tunnel_key>() as u32;
        let mut key = empty_key();
        // SAFETY: `key` has the size that is told.
        if unsafe { bpf_skb_get_tunnel_key(self.0, &raw mut key, SIZE, 0) } == 0 {
            // SAFETY: all variants of the union are plain numbers.
            let source = unsafe { key.__bindgen_anon_1.remote_ipv4 }.to_be_bytes();
            return Some((key.tunnel_id, mapped(source)));
        }
        // SAFETY: as above.
        if unsafe { bpf_skb_get_tunnel_key(self.0, &raw mut key, SIZE, TUNINFO_IPV6) } != 0 {
            return None;
        }
        // SAFETY: 16 bytes in network order.
        let source = unsafe { (&raw const key.__bindgen_anon_1).cast::<IpBytes>().read() };
        Some((key.tunnel_id, source))
    }
    /// Tells the VXLAN device where to send the packet. `tos` is the outer DSCP, shifted; the device adds the ECN field.
    #[inline(always)]
    pub fn set_tunnel_key(
        self,
        vni: u32,
        local: &IpBytes,
        remote: &IpBytes,
        tos: u8,
    ) -> Result<(), DropReason> {
        let mut key = empty_key();
        key.tunnel_id = vni;
        key.tunnel_ttl = OUTER_TTL;
        key.tunnel_tos = tos;
        let v4 = is_mapped(remote);
        if v4 {
            key.__bindgen_anon_1.remote_ipv4 = u32::from_be_bytes(unmapped(*remote));
            key.__bindgen_anon_3.local_ipv4 = u32::from_be_bytes(unmapped(*local));
        } else {
            // SAFETY: both unions hold 16 bytes in network order.
            unsafe {
                (&raw mut key.__bindgen_anon_1).cast::<IpBytes>().write(*remote);
                (&raw mut key.__bindgen_anon_3).cast::<IpBytes>().write(*local);
            }
        }
        let flags = if v4 { ZERO_CSUM_TX } else { ZERO_CSUM_TX | TUNINFO_IPV6 };
        // SAFETY: `key` has the size that is told.
        done(unsafe {
            bpf_skb_set_tunnel_key(self.0, &raw mut key, size_of::<bpf_tunnel_key>() as u32, flags)
        })
    }
}

#[inline(always)]
fn empty_key() -> bpf_tunnel_key {
    // SAFETY: plain numbers, for which zeros are valid.
    unsafe { core::mem::zeroed() }
}

#[inline(always)]
fn done(failed: aya_ebpf::cty::c_long) -> Result<(), DropReason> {
    if failed == 0 { Ok(()) } else { Err(DropReason::RewriteFailed) }
}
