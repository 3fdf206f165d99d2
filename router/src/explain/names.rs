//! What things are called at this gateway: attachments, segments, tenants, gateways and devices.

use std::collections::BTreeMap;
use std::net::IpAddr;

use watari_config::Desired;
use watari_dataplane::explain::{Names, numbered};
use watari_dataplane::{Dataplane, PortKey};
use watari_planner::wanted::place;

use crate::drivers::datapath::port_key;

/// Names of the desired state and of the kernel's devices, at one moment.
pub struct Called<'a> {
    maps: &'a Dataplane,
    devices: BTreeMap<u32, String>,
    attachments: BTreeMap<PortKey, String>,
    segments: BTreeMap<u32, String>,
    tenants: BTreeMap<u32, String>,
    gateways: BTreeMap<IpAddr, String>,
}

/// Index of each device by name.
pub fn indices() -> BTreeMap<String, u32> {
    nix::net::if_::if_nameindex()
        .map(|list| list.iter().map(|i| (i.name().to_string_lossy().into_owned(), i.index())).collect())
        .unwrap_or_default()
}

impl<'a> Called<'a> {
    /// The names of now.
    pub fn new(desired: &Desired, maps: &'a Dataplane) -> Self {
        let indices = indices();
        let document = desired.document();
        let attachments = desired.attachments().filter_map(|(name, attachment)| {
            let key = port_key(&indices, &place(attachment)?).ok()?;
            Some((key, name.to_string()))
        });
        Self {
            maps,
            attachments: attachments.collect(),
            segments: document.segments.iter().map(|(n, s)| (s.vni.get(), n.to_string())).collect(),
            tenants: document.tenants.iter().map(|(n, t)| (t.l3vni.get(), n.to_string())).collect(),
            gateways: document.gateways.iter().map(|(n, g)| (g.vtep, n.to_string())).collect(),
            devices: indices.into_iter().map(|(name, index)| (index, name)).collect(),
        }
    }

    /// The port of an attachment of this gateway.
    pub fn attachment(&self, name: &str) -> Option<PortKey> {
        self.attachments.iter().find(|(_, n)| *n == name).map(|(key, _)| *key)
    }

    /// The attachment at a port.
    pub fn attachment_at(&self, port: PortKey) -> Option<&str> {
        self.attachments.get(&port).map(String::as_str)
    }
}

impl Names for Called<'_> {
    fn port(&self, port: PortKey) -> String {
        let device = self.devices.get(&port.ifindex).cloned();
        let place = numbered(port, device.unwrap_or_else(|| format!("device {}", port.ifindex)));
        match self.attachment_at(port) {
            Some(name) => format!("{place} ({name})"),
            None => place,
        }
    }
    fn segment(&self, vni: u32) -> String {
        self.segments.get(&vni).cloned().unwrap_or_else(|| format!("VNI {vni}"))
    }
    fn tenant(&self, tenant: u32) -> String {
        self.tenants.get(&tenant).cloned().unwrap_or_else(|| format!("tenant {tenant}"))
    }
    fn gateway(&self, vtep: IpAddr) -> String {
        match self.gateways.get(&vtep) {
            Some(name) => format!("{name} ({vtep})"),
            None => format!("VTEP {vtep}"),
        }
    }
    fn route(&self, tenant: u32, address: IpAddr) -> Option<String> {
        let prefix = self.maps.routes.longest_match(tenant, address).ok()??;
        Some(format!("{}/{}", prefix.address(), prefix.length()))
    }
}
