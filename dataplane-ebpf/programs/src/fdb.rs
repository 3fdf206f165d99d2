//! Where a MAC or an address is: static, local, remote, in this order.

use watari_abi::{
    DropReason, Hook, IpBytes, MacBytes, MacKey, MacStatic, Meta, NeighKey, NeighLocal, NeighRemote,
    NeighStatic, Port, PortKey, Stage,
};

use crate::{
    headers::{IPV4, IPV6, is_group},
    maps,
    out::{Decision, Pkt},
};

/// Where a MAC is.
#[derive(Clone, Copy)]
pub enum Place {
    Port(PortKey),
    /// The L3 device of a node.
    Node(u32),
    Vtep(IpBytes),
    Nowhere,
}

#[inline(always)]
pub fn place_of(p: &Pkt, vni: u32, mac: MacBytes) -> Place {
    p.step_place(vni, mac);
    let key = MacKey { vni, mac, pad: 0 };
    // SAFETY (both): entries are read at once and not kept.
    if let Some(pinned) = pinned(key) {
        if pinned.is_node != 0 {
            return Place::Node(pinned.port.ifindex);
        }
        return Place::Port(pinned.port);
    }
    if let Some(local) = unsafe { maps::mac_local.get(key) } {
        return Place::Port(local.port);
    }
    if let Some(remote) = unsafe { maps::mac_remote.get(key) } {
        return Place::Vtep(remote.vtep);
    }
    Place::Nowhere
}

/// The place that the plan has pinned a MAC to. A blocked attachment is none: its hosts are reached, and heard, by
/// the other way round the loop.
#[inline(always)]
pub fn pinned(key: MacKey) -> Option<&'static MacStatic> {
    // SAFETY (both): read at once; plan entries are replaced whole.
    let pinned = unsafe { maps::mac_static.get(key) }?;
    if pinned.is_node != 0 {
        return Some(pinned);
    }
    let blocked = unsafe { maps::ports.get(pinned.port) }.is_some_and(|port| port.flags & Port::BLOCKED != 0);
    if blocked { None } else { Some(pinned) }
}

/// Who has an address.
#[derive(Clone, Copy)]
pub struct Owner {
    pub mac: MacBytes,
    /// One of the gateway's own.
    pub own: bool,
    /// Answers carry the router flag (RFC 9047).
    pub router: bool,
    /// Answers carry the override flag (RFC 9047).
    pub overrides: bool,
    /// Behind another gateway.
    pub remote: bool,
    /// Where it was learnt; zero if it was not learnt here.
    pub port: PortKey,
}

#[inline(always)]
pub fn owner_of(p: &Pkt, vni: u32, ip: IpBytes) -> Option<Owner> {
    p.step_owner(vni, ip);
    let key = NeighKey { vni, ip };
    let none = PortKey { ifindex: 0, outer: 0, inner: 0 };
    // SAFETY (all three): entries are read at once and not kept.
    if let Some(pinned) = unsafe { maps::nb_static.get(key) } {
        let own = pinned.flags & NeighStatic::OWN != 0;
        let owner = Owner { mac: pinned.mac, own, router: own, overrides: true, remote: false, port: none };
        return Some(owner);
    }
    if let Some(local) = unsafe { maps::nb_local.get(key) } {
        let router = local.flags & NeighLocal::ROUTER != 0;
        let overrides = local.flags & NeighLocal::OVERRIDE != 0;
        return Some(Owner {
            mac: local.mac,
            own: false,
            router,
            overrides,
            remote: false,
            port: local.port,
        });
    }
    if let Some(remote) = unsafe { maps::nb_remote.get(key) } {
        let router = remote.flags & NeighRemote::ROUTER != 0;
        let overrides = remote.flags & NeighRemote::OVERRIDE != 0;
        return Some(Owner { mac: remote.mac, own: false, router, overrides, remote: true, port: none });
    }
    None
}

#[inline(always)]
pub fn same_port(one: &PortKey, other: &PortKey) -> bool {
    one.ifindex == other.ifindex && one.outer == other.outer && one.inner == other.inner
}

impl Pkt {
    #[inline(always)]
    pub fn from_vxlan(&self) -> bool {
        self.meta().hook == Hook::Vxlan as u8
    }

    /// Out to where a MAC is. Never from one remote gateway to another.
    #[inline(always)]
    pub fn to_place(&self, place: Place) -> Decision {
        match place {
            Place::Port(port) => self.to_host(&self.exit(&port)),
            Place::Node(ifindex) => {
                let ethertype = self.meta().ethertype;
                if ethertype != IPV4 && ethertype != IPV6 {
                    return Err(DropReason::NotRoutable);
                }
                self.to_port(&PortKey { ifindex, outer: 0, inner: 0 })
            }
            Place::Vtep(vtep) => self.to_vtep(self.meta().vni, &vtep),
            Place::Nowhere => Err(DropReason::UnknownUnicast),
        }
    }

    /// Switches the frame by its destination MAC.
    #[inline(always)]
    pub fn forward(&self) -> Decision {
        let (vni, dst) = (self.meta().vni, self.meta().dst);
        if is_group(dst) {
            self.meta().copy = Meta::COPY_GROUP;
            return self.go(Stage::Flood);
        }
        let place = place_of(self, vni, dst);
        match place {
            Place::Nowhere => {
                self.meta().copy = Meta::COPY_UNKNOWN;
                return self.go(Stage::Flood);
            }
            Place::Port(port) if same_port(&port, &self.meta().port) => return Err(DropReason::SamePort),
            Place::Port(port) => {
                let exit = self.exit(&port);
                self.remember_port(&exit);
                return self.to_host(&exit);
            }
            Place::Vtep(_) => self.switched_to_vtep(),
            _ => {}
        }
        self.to_place(place)
    }
}
