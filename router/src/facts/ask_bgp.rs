//! What an operator may ask of the BGP speaker: neighbours, tables page by page, and why one path of a prefix won.
//! Pure: a speaker in, JSON out.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use watari_bgp::speaker::{Candidate, Page, PeerSummary, Speaker};
use watari_bgp::types::{Family, FamilySet, InstanceId, PathId, PeerId};
use watari_bgp::{Instant, Key, PathAttributes, Reset, Source, State};

use super::peers::name_of_one;
use crate::brain::NotReset;

/// A question, with the names of the document already resolved.
#[derive(Clone, Debug)]
pub enum Question {
    /// All neighbours.
    Neighbours,
    /// One neighbour, by its path (`peers.NAME`, `gateways.NAME`).
    Neighbour(String),
    /// Best paths of a table.
    Table {
        /// Whose table.
        instance: InstanceId,
        /// Which part.
        part: Part,
    },
    /// All paths of a route.
    Route {
        /// Whose table.
        instance: InstanceId,
        /// The route.
        key: Key,
    },
    /// What a neighbour told, or what of it is rejected.
    Received {
        /// The neighbour.
        neighbour: String,
        /// Which part.
        part: Part,
        /// Only what is rejected.
        rejected: bool,
    },
    /// What a neighbour was told.
    Advertised {
        /// The neighbour.
        neighbour: String,
        /// Which part.
        part: Part,
    },
}

/// A part of a list.
#[derive(Clone, Debug)]
pub struct Part {
    /// The family.
    pub family: Family,
    /// From the first route after this one, as the list before showed it.
    pub after: Option<String>,
    /// At most so many.
    pub limit: usize,
}

/// The neighbours by number.
pub(super) type Names = BTreeMap<PeerId, String>;

/// Those of neighbours that came from a prefix, too.
pub(super) fn all_names(speaker: &Speaker, set: &Names) -> Names {
    let came = speaker.dynamic_peers();
    let came = came.filter_map(|(peer, of, address)| Some((peer, name_of_one(set.get(&of)?, address))));
    set.iter().map(|(peer, name)| (*peer, name.clone())).chain(came).collect()
}

/// The answer; `None` where there is no such neighbour or route.
pub(super) fn answer(speaker: &Speaker, now: Instant, names: &Names, question: &Question) -> Option<Value> {
    let names = &all_names(speaker, names);
    let id = |wanted: &str| names.iter().find(|(_, name)| *name == wanted).map(|(id, _)| *id);
    match question {
        Question::Neighbours => {
            let rows = speaker.peers().into_iter().map(|peer| summary(names, now, &peer));
            Some(Value::Array(rows.collect()))
        }
        Question::Neighbour(name) => Some(neighbour(names, now, &speaker.peer(id(name)?)?)),
        Question::Table { instance, part } => {
            let after = after(speaker, *instance, part);
            let rows = speaker.table_rows(*instance, part.family, after.as_ref(), part.limit);
            let row = |row: &watari_bgp::speaker::TableRow| {
                let mut shown = path(names, row.best.source, &row.best.attrs, row.best.stale);
                shown["route"] = json!(row.key.to_string());
                shown["paths"] = json!(row.candidates);
                shown
            };
            Some(listed(rows.iter().map(row).collect(), part.limit))
        }
        Question::Route { instance, key } => route(speaker, names, *instance, key),
        Question::Received { neighbour, part, rejected } => {
            let peer = id(neighbour)?;
            let after = after(speaker, speaker.peer(peer)?.instance, part);
            let page = Page { family: part.family, after: after.as_ref(), limit: part.limit };
            let rows = speaker.received_page(peer, &page, *rejected);
            Some(listed(rows.iter().map(|(key, c)| candidate(names, Some(key), c)).collect(), part.limit))
        }
        Question::Advertised { neighbour, part } => {
            let peer = id(neighbour)?;
            let after = after(speaker, speaker.peer(peer)?.instance, part);
            let page = Page { family: part.family, after: after.as_ref(), limit: part.limit };
            let row = |row: &watari_bgp::speaker::Advertised| {
                let mut shown = attributes(&row.attrs);
                shown["path_id"] = json!(row.path_id.map(|id| id.0));
                shown["route"] = json!(row.key.to_string());
                shown
            };
            Some(listed(speaker.advertised_page(peer, &page).iter().map(row).collect(), part.limit))
        }
    }
}

/// A neighbour by its name.
pub(super) fn find(speaker: &Speaker, names: &Names, wanted: &str) -> Option<PeerSummary> {
    let all = all_names(speaker, names);
    let (id, _) = all.iter().find(|(_, name)| *name == wanted)?;
    speaker.peer(*id)
}

/// Whether a neighbour can begin anew.
///
/// # Errors
/// Why it cannot.
pub(super) fn may_reset(peer: &PeerSummary, reset: Reset) -> Result<(), NotReset> {
    match (reset, &peer.negotiated) {
        _ if peer.disabled => Err(NotReset::Disabled),
        (Reset::Hard, _) => Ok(()),
        (_, None) => Err(NotReset::NotEstablished),
        (Reset::SoftIn, Some(negotiated)) if !negotiated.route_refresh => Err(NotReset::NoRefresh),
        (Reset::SoftIn | Reset::SoftOut, Some(_)) => Ok(()),
    }
}

/// A page, and after what the next one begins; null at the end.
fn listed(rows: Vec<Value>, limit: usize) -> Value {
    // A route with several paths is whole on one page.
    let next = rows.last().filter(|_| rows.len() >= limit).map(|row| row["route"].clone());
    json!({ "routes": rows, "next": next })
}

/// The key that a page goes on after. EVPN routes have no form that is read back: they are looked for.
fn after(speaker: &Speaker, instance: InstanceId, part: &Part) -> Option<Key> {
    let text = part.after.as_ref()?;
    if let Ok(net) = text.parse() {
        return Some(Key::prefix(net));
    }
    let rows = speaker.table_rows(instance, part.family, None, usize::MAX);
    rows.into_iter().map(|row| row.key).find(|key| key.to_string() == *text)
}

fn name(names: &Names, source: Source) -> String {
    match source {
        Source::Local => "this gateway".to_owned(),
        Source::Peer(peer) => names.get(&peer).cloned().unwrap_or_else(|| format!("peer {}", peer.0)),
    }
}

fn attributes(attrs: &PathAttributes) -> Value {
    let texts = |list: Vec<String>| (!list.is_empty()).then_some(list);
    json!({
        "next_hop": attrs.next_hop.map(|n| n.addr()),
        "as_path": attrs.as_path.to_string(),
        "origin": attrs.origin.to_string(),
        "local_pref": attrs.local_pref,
        "med": attrs.med,
        "communities": texts(attrs.communities.iter().map(ToString::to_string).collect()),
        "large_communities": texts(attrs.large_communities.iter().map(ToString::to_string).collect()),
        "ext_communities": texts(attrs.ext_communities.iter().map(ToString::to_string).collect()),
        "only_to_customer": attrs.otc.map(|asn| asn.0),
        "originator": attrs.originator_id.map(|id| id.to_string()),
    })
}

fn path(names: &Names, source: Source, attrs: &PathAttributes, stale: bool) -> Value {
    let mut shown = attributes(attrs);
    shown["from"] = json!(name(names, source));
    shown["stale"] = json!(stale);
    shown
}

fn candidate(names: &Names, key: Option<&Key>, candidate: &Candidate) -> Value {
    let mut shown = path(names, candidate.source, &candidate.attrs, candidate.stale);
    shown["path_id"] = json!((candidate.path_id != PathId::default()).then_some(candidate.path_id.0));
    shown["told_as"] = json!(candidate.told_as.0);
    shown["rejected"] = json!(candidate.rejected.map(|reason| reason.to_string()));
    shown["lost_at"] = json!(candidate.lost_at.map(|reason| reason.to_string()));
    if let Some(key) = key {
        shown["route"] = json!(key.to_string());
    }
    shown
}

/// Every path, the selected one first, with the step at which each of the others lost.
fn route(speaker: &Speaker, names: &Names, instance: InstanceId, key: &Key) -> Option<Value> {
    let entry = speaker.entry(instance, key)?;
    let row = |(i, c): (usize, &Candidate)| {
        let mut shown = candidate(names, None, c);
        shown["selected"] = json!(entry.best == Some(i));
        shown
    };
    Some(json!({
        "route": entry.key.to_string(),
        "won_by": entry.reason.map(|reason| reason.to_string()),
        "paths": entry.candidates.iter().enumerate().map(row).collect::<Vec<_>>(),
    }))
}

fn summary(names: &Names, now: Instant, peer: &PeerSummary) -> Value {
    json!({
        "neighbour": name(names, Source::Peer(peer.peer)),
        "address": peer.remote_addr,
        "asn": peer.remote_asn.0,
        "state": peer.state.to_string(),
        "since_s": now.millis_since(peer.since) / 1000,
        "received": peer.received,
        "rejected": peer.rejected,
        "stale": peer.stale,
        "advertised": peer.advertised,
    })
}

fn neighbour(names: &Names, now: Instant, peer: &PeerSummary) -> Value {
    let mut shown = summary(names, now, peer);
    shown["messages_in"] = json!(peer.messages_in);
    shown["messages_out"] = json!(peer.messages_out);
    shown["malformed_updates"] = json!(peer.malformed_updates);
    shown["paths_left_out"] = json!(peer.paths_left_out);
    if peer.state != State::Established {
        shown["last_down"] = json!(peer.last_down.as_ref().map(ToString::to_string));
    }
    if let Some(n) = &peer.negotiated {
        let restart = n.graceful_restart.as_ref();
        shown["negotiated"] = json!({
            "identifier": n.remote_id.to_string(),
            "families": n.families.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "hold_time_s": n.hold_time_s,
            "four_octet_as": n.four_octet_as,
            "route_refresh": n.route_refresh,
            "enhanced_refresh": n.enhanced_refresh,
            "extended_messages": n.extended_messages,
            "extended_next_hop": n.extended_next_hop,
            "add_path_received": families(n.add_path_received),
            "add_path_sent": families(n.add_path_sent),
            "role": n.remote_role.map(role),
            "restart_time_s": restart.map(|r| r.restart_time_s),
        });
    }
    shown
}

fn families(set: FamilySet) -> Vec<String> {
    set.iter().map(|family| family.to_string()).collect()
}

/// The neighbour's role as the document would say it (RFC 9234 section 4.1).
const fn role(code: u8) -> &'static str {
    match code {
        0 => "provider",
        1 => "route-server",
        2 => "route-server-client",
        3 => "customer",
        4 => "peer",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use watari_bgp::speaker::{Input, SpeakerConfig};
    use watari_bgp::wire::{Capability, EncodeContext, Open, encode_announce, encode_keepalive};
    use watari_bgp::{AsPath, Asn, ConnId, Nlri, Policy, PrefixRule, RouterId};

    use super::*;

    const TENANT: InstanceId = InstanceId(7);
    const NOW: Instant = Instant::from_millis(5_000);

    /// A speaker, AS 65001, with two neighbours of other ASes; of `peers.far` the path is longer, and nothing but
    /// 198.51.100.0/24 is taken from it.
    fn speaker() -> (Speaker, Names) {
        let mut speaker = Speaker::new(SpeakerConfig { router_id: RouterId([10, 0, 0, 1].into()), seed: 1 });
        let names = Names::from([(PeerId(1), "peers.near".to_owned()), (PeerId(2), "peers.far".to_owned())]);
        for (n, path) in [(1_u8, vec![65002]), (2, vec![65003, 65009])] {
            let (peer, conn, asn) = (PeerId(n.into()), ConnId(n.into()), Asn(path[0]));
            let ends = (([10, 0, n, 1].into(), Asn(65001)), ([10, 0, n, 2].into(), asn));
            let mut config = watari_bgp::PeerConfig::new(TENANT, ends.0, ends.1);
            (config.families, config.policy) = (vec![Family::Ipv4Unicast], Policy::accept_all());
            if n == 2 {
                let rule = PrefixRule::exact("198.51.100.0/24".parse().unwrap());
                config.policy.import = watari_bgp::Filter::Prefixes(vec![rule]);
            }
            let capabilities = vec![Capability::MultiProtocol(1, 1), Capability::FourOctetAs(asn)];
            let open = Open { asn, hold_time_s: 90, router_id: RouterId([10, 0, n, 2].into()), capabilities };
            let attrs = PathAttributes {
                as_path: AsPath::sequence(path.into_iter().map(Asn)),
                next_hop: Some(std::net::IpAddr::from([10, 0, n, 2]).into()),
                ..PathAttributes::default()
            };
            let routes =
                ["198.51.100.0/24", "203.0.113.0/24"].map(|r| Nlri::from(r.parse::<ipnet::IpNet>().unwrap()));
            let context = EncodeContext { four_octet_as: true, message_limit: 4_096 };
            let update = encode_announce(Family::Ipv4Unicast, &attrs, &routes, &context).unwrap().concat();
            speaker.handle(Input::AddPeer(peer, Box::new(config)), Instant::ZERO);
            speaker.handle(Input::TcpConnected(peer, conn), Instant::ZERO);
            for octets in [open.encode(), encode_keepalive(), update] {
                speaker.handle(Input::Bytes(peer, conn, octets), Instant::ZERO);
            }
        }
        (speaker, names)
    }

    fn ask(question: Question) -> Option<Value> {
        let (speaker, names) = speaker();
        answer(&speaker, NOW, &names, &question)
    }

    fn part(after: Option<&str>, limit: usize) -> Part {
        Part { family: Family::Ipv4Unicast, after: after.map(str::to_owned), limit }
    }

    #[test]
    fn of_a_prefix_every_path_says_where_it_lost_or_why_it_is_not_used() {
        let route = |prefix: &str| {
            let key = Key::prefix(prefix.parse().unwrap());
            ask(Question::Route { instance: TENANT, key })
        };
        let both = route("198.51.100.0/24").unwrap();
        assert_eq!(both["won_by"], "AS path length");
        let paths = both["paths"].as_array().unwrap();
        assert_eq!((&paths[0]["from"], &paths[0]["selected"]), (&json!("peers.near"), &json!(true)));
        assert_eq!(
            (&paths[1]["from"], &paths[1]["lost_at"]),
            (&json!("peers.far"), &json!("AS path length"))
        );
        let one = route("203.0.113.0/24").unwrap();
        assert_eq!(one["won_by"], "only path");
        assert_eq!(one["paths"][1]["rejected"], "import policy");
        assert_eq!(one["paths"][1]["lost_at"], Value::Null);
        assert_eq!(route("192.0.2.0/24"), None);
    }

    #[test]
    fn lists_come_in_pages_that_go_on_where_the_last_one_ended() {
        let table =
            |after, limit| ask(Question::Table { instance: TENANT, part: part(after, limit) }).unwrap();
        let first = table(None, 1);
        assert_eq!(first["routes"][0]["route"], "198.51.100.0/24");
        assert_eq!((&first["routes"][0]["paths"], &first["next"]), (&json!(2), &json!("198.51.100.0/24")));
        let second = table(first["next"].as_str(), 5);
        assert_eq!(second["routes"].as_array().unwrap().len(), 1);
        assert_eq!(
            (&second["routes"][0]["route"], &second["next"]),
            (&json!("203.0.113.0/24"), &Value::Null)
        );

        let received = |after, limit, rejected| {
            let neighbour = "peers.far".to_owned();
            let answer = ask(Question::Received { neighbour, part: part(after, limit), rejected }).unwrap();
            let routes = answer["routes"].as_array().unwrap().clone();
            routes.iter().map(|r| r["route"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(received(None, 5, false), ["198.51.100.0/24", "203.0.113.0/24"]);
        assert_eq!(received(Some("198.51.100.0/24"), 5, false), ["203.0.113.0/24"]);
        assert_eq!(received(None, 5, true), ["203.0.113.0/24"]);
        let told =
            ask(Question::Advertised { neighbour: "peers.far".to_owned(), part: part(None, 1) }).unwrap();
        assert_eq!(told["routes"][0]["as_path"], "65001 65002");
        assert_eq!(told["next"], "198.51.100.0/24");
    }

    #[test]
    fn a_neighbour_begins_anew_unless_there_is_nothing_to_ask_or_tell() {
        let (speaker, names) = speaker();
        let near = find(&speaker, &names, "peers.near").unwrap();
        assert!(find(&speaker, &names, "peers.other").is_none());
        // It has not said that it can be asked.
        assert_eq!(may_reset(&near, Reset::SoftIn), Err(NotReset::NoRefresh));
        assert_eq!((may_reset(&near, Reset::SoftOut), may_reset(&near, Reset::Hard)), (Ok(()), Ok(())));
        let down = PeerSummary { negotiated: None, ..near };
        assert_eq!(may_reset(&down, Reset::SoftOut), Err(NotReset::NotEstablished));
        assert_eq!(may_reset(&down, Reset::Hard), Ok(()), "it is tried again at once");
        let disabled = PeerSummary { disabled: true, ..down };
        assert_eq!(may_reset(&disabled, Reset::Hard), Err(NotReset::Disabled));
    }

    #[test]
    fn a_neighbour_says_what_was_negotiated_and_a_stranger_is_none() {
        let near = ask(Question::Neighbour("peers.near".to_owned())).unwrap();
        assert_eq!((&near["state"], &near["received"]), (&json!("established"), &json!(2)));
        assert_eq!(near["negotiated"]["families"], json!(["ipv4-unicast"]));
        assert_eq!(ask(Question::Neighbours).unwrap().as_array().unwrap().len(), 2);
        assert_eq!(ask(Question::Neighbour("peers.other".to_owned())), None);
        assert_eq!(ask(Question::Advertised { neighbour: "x".to_owned(), part: part(None, 1) }), None);
    }
}
