//! `GET /why`: why one host does not reach another. What this gateway knows of both, the state of the tunnels between,
//! a trace of an echo request here and, as the packet arrives there, at the gateway of the other host.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use watari_config::{Desired, Mac};
use watari_dataplane::abi::{ip_bytes, ip_from_bytes};
use watari_dataplane::explain::Names as _;
use watari_dataplane::{Dataplane, Error, MacKey, MacRemote, NeighKey, Port, PortKey, RouteKind};

use super::frame::{Fields, Protocol};
use super::names::Called;
use super::trace::{Place, Traced, hook_of, run};
use super::watching::boot_ns;
use crate::view::View;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Line {
    /// It is as it must be.
    pub ok: bool,
    /// What was found.
    pub text: String,
}

fn good(text: impl Into<String>) -> Line {
    Line { ok: true, text: text.into() }
}

fn bad(text: impl Into<String>) -> Line {
    Line { ok: false, text: text.into() }
}

/// What one gateway found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Half {
    /// The gateway.
    pub gateway: String,
    /// What it knows, and whether it is as it must be.
    pub lines: Vec<Line>,
    /// Traces made there.
    pub traces: Vec<Traced>,
}

impl Half {
    /// The first thing that is wrong.
    pub fn first_wrong(&self) -> Option<&str> {
        self.lines.iter().find(|line| !line.ok).map(|line| line.text.as_str())
    }

    fn take(&mut self, what: &str, traced: Traced) {
        let arrives = ["port", "vtep", "consumed"].contains(&traced.verdict.as_str());
        let end = traced.steps.last().cloned().unwrap_or_default();
        let line = format!("{what}: {end}");
        self.lines.push(if arrives { good(line) } else { bad(line) });
        self.traces.push(traced);
    }
}

/// The whole answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Why {
    /// Nothing wrong was found.
    pub ok: bool,
    /// The first thing that is wrong, or that packets should pass.
    pub conclusion: String,
    /// What each gateway found: this one, then the far one.
    pub halves: Vec<Half>,
}

/// A host as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// The VNI of its segment.
    pub vni: u32,
    /// Its MAC.
    pub mac: Option<[u8; 6]>,
    /// Its address.
    pub ip: Option<IpAddr>,
}

/// Where a host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// At a port of this gateway.
    Here(PortKey),
    /// Behind another gateway.
    Far(IpAddr),
    /// Nobody knows.
    Nowhere,
}

/// Asks a far gateway for its half.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WhyAsk {
    /// Who sends.
    pub from: Host,
    /// Who shall receive.
    pub to: Host,
    /// VNI of the outer header of the packet.
    pub vni: u32,
    /// The packet as it arrives, in hexadecimal.
    pub frame: String,
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

impl Host {
    fn text(&self) -> String {
        match (self.ip, self.mac) {
            (Some(ip), Some(mac)) => format!("{ip} ({})", mac_text(mac)),
            (Some(ip), None) => ip.to_string(),
            (None, Some(mac)) => mac_text(mac),
            (None, None) => "nobody".to_owned(),
        }
    }
}

/// What this gateway can say.
pub struct Look<'a> {
    /// The desired state.
    pub desired: &'a Desired,
    /// What the reconcile loop last saw.
    pub view: &'a View,
    /// Maps and programs.
    pub maps: &'a Dataplane,
    /// Names.
    pub called: &'a Called<'a>,
}

impl Look<'_> {
    /// A host by its MAC or IP address: in which segment, and the address that was not told. `near` is preferred where
    /// several segments have it.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn find(&self, name: &str, near: Option<u32>) -> Result<Option<Host>, Error> {
        let (ip, mac) = (name.parse::<IpAddr>().ok(), name.parse::<Mac>().ok().map(Mac::octets));
        let mut found = Vec::new();
        for (key, bound) in self.neighbours()? {
            let address = ip_from_bytes(key.ip);
            if Some(address) == ip || (ip.is_none() && Some(bound) == mac) {
                found.push(Host { vni: key.vni, mac: Some(bound), ip: Some(address) });
            }
        }
        if let Some(mac) = mac {
            let maps = self.maps;
            let keys = maps.mac_static.entries()?.into_keys().chain(maps.mac_local.entries()?.into_keys());
            let keys = keys.chain(maps.mac_remote.entries()?.into_keys()).filter(|key| key.mac == mac);
            found.extend(keys.map(|key| Host { vni: key.vni, mac: Some(mac), ip: None }));
        }
        let chosen = found.iter().find(|host| Some(host.vni) == near).or(found.first()).copied();
        // Nobody has heard of it: an address still belongs to a subnet.
        let subnet = || {
            let ip = ip?;
            let mut segments = self.desired.document().segments.values();
            let segment = segments.find(|s| s.subnets.iter().any(|net| net.contains(&ip)))?;
            Some(Host { vni: segment.vni.get(), mac: None, ip: Some(ip) })
        };
        Ok(chosen.or_else(subnet).or(near.filter(|_| mac.is_some()).map(|vni| Host { vni, mac, ip: None })))
    }

    fn neighbours(&self) -> Result<Vec<(NeighKey, [u8; 6])>, Error> {
        let maps = self.maps;
        let pinned = maps.nb_static.entries()?.into_iter().map(|(key, n)| (key, n.mac));
        let local = maps.nb_local.entries()?.into_iter().map(|(key, n)| (key, n.mac));
        let remote = maps.nb_remote.entries()?.into_iter().map(|(key, n)| (key, n.mac));
        Ok(pinned.chain(local).chain(remote).collect())
    }

    /// What is known of a host here, and where it is.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn host(&self, host: &Host, lines: &mut Vec<Line>) -> Result<At, Error> {
        let segment = self.called.segment(host.vni);
        let Some(mac) = host.mac else {
            if let Some(vtep) = self.routed(host, lines)? {
                return Ok(At::Far(vtep));
            }
            lines.push(bad(format!(
                "{} is not known in {segment}: no attachment here has heard it and no gateway announces it; is it \
                 up, and in the right VLAN?",
                host.text()
            )));
            return Ok(At::Nowhere);
        };
        self.duplicate(host, lines);
        let (key, text) = (MacKey::new(host.vni, mac), host.text());
        if let Some(pinned) = self.maps.mac_static.get(&key)? {
            let what = if pinned.is_node != 0 { "is a node behind" } else { "is pinned to" };
            lines.push(good(format!("{text} of {segment} {what} {}", self.called.port(pinned.port))));
            self.port(pinned.port, lines)?;
            return Ok(At::Here(pinned.port));
        }
        if let Some(local) = self.maps.mac_local.get(&key)? {
            let age_s = boot_ns().saturating_sub(local.last_seen_ns) / 1_000_000_000;
            let place = self.called.port(local.port);
            lines.push(good(format!("{text} of {segment} was seen at {place} {age_s} s ago")));
            self.port(local.port, lines)?;
            return Ok(At::Here(local.port));
        }
        if let Some(remote) = self.maps.mac_remote.get(&key)? {
            let vtep = ip_from_bytes(remote.vtep);
            let sticky = if remote.flags & MacRemote::STICKY != 0 { ", sticky" } else { "" };
            let far = self.called.gateway(vtep);
            let sequence = remote.sequence;
            lines.push(good(format!("{text} of {segment} is behind {far}, sequence {sequence}{sticky}")));
            return Ok(At::Far(vtep));
        }
        let own = host.ip.map(|ip| self.maps.nb_static.get(&NeighKey { vni: host.vni, ip: ip_bytes(ip) }));
        if let Some(Some(_)) = own.transpose()? {
            lines.push(good(format!("{text} is an address of the gateways themselves")));
        } else if let Some(vtep) = self.routed(host, lines)? {
            return Ok(At::Far(vtep));
        } else {
            lines.push(bad(format!("no table has {text} of {segment}: it was not heard for too long")));
        }
        Ok(At::Nowhere)
    }

    /// The far gateway to which the tenant's route to the host leads: all that is known here of a host whose segment has no
    /// attachment at this gateway.
    fn routed(&self, host: &Host, lines: &mut Vec<Line>) -> Result<Option<IpAddr>, Error> {
        let (Some(ip), Some(tenant)) = (host.ip, self.tenant(host.vni)?) else { return Ok(None) };
        let route = self.maps.routes.lookup(tenant, ip)?;
        let Some(route) = route.filter(|route| route.kind == RouteKind::Remote as u8) else {
            return Ok(None);
        };
        let vtep = ip_from_bytes(route.vtep);
        let (segment, far) = (self.called.segment(host.vni), self.called.gateway(vtep));
        lines.push(good(format!("{} of {segment} is behind {far}, by the tenant's routes", host.text())));
        Ok(Some(vtep))
    }

    /// The tenant of a segment, as the maps number it, also where the segment itself is not in them.
    fn tenant(&self, vni: u32) -> Result<Option<u32>, Error> {
        let segments = &self.desired.document().segments;
        let Some(own) = segments.values().find(|segment| segment.vni.get() == vni) else { return Ok(None) };
        for segment in segments.values().filter(|segment| segment.tenant == own.tenant) {
            if let Some(entry) = self.maps.segments.get(&segment.vni.get())? {
                return Ok(Some(entry.tenant));
            }
        }
        Ok(None)
    }

    fn port(&self, port: PortKey, lines: &mut Vec<Line>) -> Result<(), Error> {
        let place = self.called.port(port);
        match self.maps.ports.get(&port)? {
            None => lines.push(bad(format!("{place} is no attachment any more"))),
            Some(entry) if entry.flags & Port::BLOCKED != 0 => {
                lines.push(bad(format!("the loop guard blocks {place}: it would close a loop")));
            }
            Some(_) => {}
        }
        Ok(())
    }

    fn duplicate(&self, host: &Host, lines: &mut Vec<Line>) {
        let names = [host.mac.map(mac_text), host.ip.map(|ip| ip.to_string())];
        for frozen in self.view.facts["duplicates"].as_array().into_iter().flatten() {
            let subject = frozen["mac"].as_str().or(frozen["address"].as_str()).unwrap_or_default();
            let same_segment = frozen["vni"].as_u64() == Some(u64::from(host.vni));
            if same_segment && names.iter().flatten().any(|name| name == subject) {
                lines.push(bad(format!(
                    "{subject} moves too often and is frozen: `watari duplicates` says where"
                )));
            }
        }
    }

    /// The tunnels and sessions to one far gateway, or to all of them.
    pub fn fabric(&self, vtep: Option<IpAddr>, lines: &mut Vec<Line>) {
        let own = self.desired.gateway_name();
        let others = self.desired.document().gateways.iter().filter(|(name, _)| *name != own);
        for (name, gateway) in others.filter(|(_, gateway)| vtep.is_none_or(|vtep| gateway.vtep == vtep)) {
            let tunnels = self.desired.tunnels().filter(|(_, _, far, _)| *far == name);
            let states: Vec<(String, String)> =
                tunnels.map(|(tunnel, ..)| self.state(tunnel.as_str())).collect();
            let said: Vec<String> =
                states.iter().map(|(tunnel, state)| format!("{tunnel} is {state}")).collect();
            let up = states.iter().any(|(_, state)| state == "up");
            lines.push(match (states.is_empty(), up) {
                (true, _) => bad(format!("there is no tunnel to {name}")),
                (false, true) => good(format!("tunnels to {name}: {}", said.join(", "))),
                (false, false) => bad(format!("no tunnel to {name} is up: {}", said.join(", "))),
            });
            let sessions = self.view.facts["bgp"]["sessions"].as_array();
            let address = gateway.vtep.to_string();
            let session = sessions.into_iter().flatten().find(|s| s["address"] == address.as_str());
            match session.and_then(|s| s["state"].as_str()) {
                Some("Established") => lines.push(good(format!("the BGP session with {name} is up"))),
                Some(state) => lines.push(bad(format!("the BGP session with {name} is not up: {state}"))),
                None => lines.push(bad(format!("there is no BGP session with {name}"))),
            }
        }
    }

    fn state(&self, tunnel: &str) -> (String, String) {
        let object: &Value = &self.view.status["objects"][format!("tunnels.{tunnel}")];
        (tunnel.to_owned(), object["state"].as_str().unwrap_or("unknown").to_owned())
    }

    /// Traces an echo request from a host that is `at` to another.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn echo(&self, from: &Host, at: At, to: &Host) -> Result<Option<Traced>, Error> {
        let place = match at {
            At::Here(port) => match hook_of(self.maps, port.ifindex, "from") {
                Ok(hook) => Place::Port(hook, port),
                Err(_) => return Ok(None),
            },
            At::Far(vtep) => Place::Vtep(from.vni, vtep),
            At::Nowhere => return Ok(None),
        };
        let (Some(src_mac), Some(src), Some(dst)) = (from.mac, from.ip, to.ip) else { return Ok(None) };
        let direct = if from.vni == to.vni { to.mac } else { Some(Mac::ANYCAST.octets()) };
        let Some(dst_mac) = direct else { return Ok(None) };
        let fields = Fields {
            src_mac: mac_text(src_mac),
            dst_mac: Some(mac_text(dst_mac)),
            src: Some(src),
            dst: Some(dst),
            protocol: Protocol::Icmp,
            ..Fields::default()
        };
        let Ok(frame) = fields.frame("packet") else { return Ok(None) };
        run(self.maps, self.called, place, &frame).map(Some)
    }

    /// What this gateway finds, and where the second host is.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn half(&self, from: &Host, to: &Host) -> Result<(Half, At), Error> {
        let gateway = self.desired.gateway_name().to_string();
        let mut half = Half { gateway, ..Half::default() };
        let at = self.host(from, &mut half.lines)?;
        let mut about_to = Vec::new();
        let there = self.host(to, &mut about_to)?;
        match (at, there) {
            (At::Here(_), At::Here(_)) => {}
            (_, At::Far(vtep)) | (At::Far(vtep), _) => self.fabric(Some(vtep), &mut half.lines),
            _ => self.fabric(None, &mut half.lines),
        }
        half.lines.append(&mut about_to);
        if let Some(traced) = self.echo(from, at, to)? {
            half.take("an echo request", traced);
        }
        if let (At::Here(_), Some(traced)) = (there, self.echo(to, there, from)?) {
            half.take("its answer", traced);
        }
        Ok((half, there))
    }

    /// What this gateway finds for another one, by whose VXLAN the packet arrives.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn far_half(&self, ask: &WhyAsk, vtep: IpAddr) -> Result<Half, Error> {
        let gateway = self.desired.gateway_name().to_string();
        let mut half = Half { gateway, ..Half::default() };
        self.host(&ask.from, &mut half.lines)?;
        // A gateway without that segment knows the address alone.
        let by_address = match (ask.to.mac, ask.to.ip) {
            (None, Some(ip)) => self.find(&ip.to_string(), Some(ask.to.vni))?,
            _ => None,
        };
        let to = by_address.filter(|found| found.vni == ask.to.vni).unwrap_or(ask.to);
        let there = self.host(&to, &mut half.lines)?;
        self.fabric(Some(vtep), &mut half.lines);
        if let Ok(frame) = super::frame::from_hex(&ask.frame, "frame") {
            let traced = run(self.maps, self.called, Place::Vtep(ask.vni, vtep), &frame)?;
            half.take("the echo request as it arrives", traced);
        }
        if let (At::Here(_), Some(traced)) = (there, self.echo(&to, there, &ask.from)?) {
            half.take("its answer", traced);
        }
        Ok(half)
    }
}

/// The first thing that is wrong at any of them.
pub fn conclude(halves: Vec<Half>) -> Why {
    let wrong = halves.iter().find_map(|half| Some(format!("{}: {}", half.gateway, half.first_wrong()?)));
    let ok = wrong.is_none();
    Why { ok, conclusion: wrong.unwrap_or_else(|| "packets should pass".to_owned()), halves }
}

/// A half that could not be had.
pub fn silent(gateway: String, why: String) -> Half {
    Half { gateway, lines: vec![bad(why)], traces: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_wrong_thing_is_the_conclusion() {
        let half = |gateway: &str, lines| Half { gateway: gateway.to_owned(), lines, traces: Vec::new() };
        let fine = half("gw-a", vec![good("a"), good("b")]);
        let why = conclude(vec![fine.clone()]);
        assert_eq!((why.ok, why.conclusion.as_str()), (true, "packets should pass"));
        let broken = half("gw-b", vec![good("c"), bad("no tunnel to gw-a is up"), bad("d")]);
        let why = conclude(vec![fine, broken]);
        assert_eq!((why.ok, why.conclusion.as_str()), (false, "gw-b: no tunnel to gw-a is up"));
    }

    #[test]
    fn a_drop_and_a_flood_are_wrong_and_a_way_out_is_not() {
        let traced = |verdict: &str| Traced {
            packet: String::new(),
            verdict: verdict.to_owned(),
            reason: None,
            vni: None,
            steps: vec!["first".to_owned(), "last".to_owned()],
            leaves: String::new(),
        };
        let mut half = Half::default();
        half.take("an echo request", traced("vtep"));
        assert_eq!(half.first_wrong(), None);
        half.take("its answer", traced("dropped"));
        assert_eq!(half.first_wrong(), Some("its answer: last"));
    }
}
