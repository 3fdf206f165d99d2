//! Messages damaged at random, by a seed, and judged twice: by us and by `rustbgpd-wire`.
//!
//! ```text
//!  corpus ── one message ── 1 … 4 damages ──▶ decode ──▶ verdict ─┐
//!                                       └──▶ the other ─▶ verdict ─┴─▶ Outcome: agree · differ, how
//! ```
//! What must hold of every message, whatever it is: nobody panics, the routes that we read are within the message, and
//! what we take whole survives being written and read again. Where both verdicts differ, [`Outcome::Differ`] names
//! the pair; which pairs may occur, and why, is for the test to say.

use std::fmt;

use bytes::Bytes;
use ipnet::IpNet;
use rustbgpd_wire as other;
use watari_bgp::wire::*;
use watari_bgp::*;

/// An internal neighbour with 4-octet AS numbers.
const INTERNAL: ParseContext = ParseContext { internal: true, peer_asn: Asn(65001), four_octet_as: true };
const CONTEXT: EncodeContext = EncodeContext { four_octet_as: true, message_limit: STANDARD_LIMIT };

/// A small generator with a seed: the same run every time.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// A run of numbers that the seed determines.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    /// 0 to `sides` - 1; 0 of none.
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides.max(1)
    }
}

/// What a decoder makes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Not whole yet.
    Incomplete,
    /// It ends the session.
    End,
    /// The routes count as withdrawn.
    Withdraw,
    /// Routes are taken, an attribute is not.
    Discard,
    /// Taken whole.
    Accept,
}

/// Why two verdicts may differ: what one of both judges at another place, or what no RFC says plainly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Excuse {
    /// We end the session as soon as the octets that are there are wrong.
    Sooner,
    /// OPEN with an AS number, identifier or hold time that nobody may have (RFC 7607, 6286, 4271 §4.2), and next hops that are none (RFC 4271 §6.3): the
    /// other one judges what values mean after decoding.
    Meaning,
    /// Wrong flags of MP_REACH_NLRI and MP_UNREACH_NLRI: RFC 7606 has §3 c, withdraw, and §7.11, reset.
    MpFlags,
    /// PMSI tunnels of kinds that are not in use here (RFC 6514 §5).
    Tunnel,
    /// The Partial bit where it does not belong: RFC 7606 §3 c speaks of two other bits.
    Partial,
    /// ROUTE-REFRESH of another length: RFC 7313 §5 judges that of two subtypes only.
    RefreshLength,
    /// Well-known attributes that nobody knows (RFC 4271 §6.3) the other one judges after decoding.
    UnknownWellKnown,
    /// Missing mandatory attributes (RFC 7606 §3 d) the other one judges after decoding.
    Mandatory,
    /// An error in a message without routes ends the session (RFC 7606 §5.2); the other one judges that after decoding.
    NoRoutes,
    /// Of an attribute that is there twice we look at the first alone (RFC 7606 §3 g).
    Repeated,
    /// Families that we do not carry: passed over (RFC 4760 §7), while the other one carries or refuses them.
    Family,
    /// Fields of EVPN routes whose length can be walked: RFC 7606 §5.4 says only what is to be done with unknown types.
    Typed,
    /// Attributes that we have no words for travel on as they are.
    Foreign,
    /// A segment of AS_PATH without a number is malformed (RFC 7606 §7.2); the other one takes some.
    EmptySegment,
    /// AS_SET (RFC 9774) and confederation segments: for us a matter of policy, of internal peers accepted.
    Segments,
}

/// What came of one message.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Both say the same, and of accepted routes the same ones.
    Agree(Verdict),
    /// They differ, and may.
    Excused(Excuse),
    /// They differ where the RFC is clear: our verdict and the other's.
    Differ(Verdict, Verdict),
    /// Both take it, but not for the same routes.
    Routes,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agree(verdict) => write!(f, "both {verdict:?}"),
            Self::Excused(excuse) => write!(f, "excused: {excuse:?}"),
            Self::Differ(ours, theirs) => write!(f, "ours {ours:?}, theirs {theirs:?}"),
            Self::Routes => f.write_str("both take it, but not for the same routes"),
        }
    }
}

/// Whole messages of every type and family, as we write them.
#[must_use]
pub fn corpus() -> Vec<Vec<u8>> {
    let nets = |texts: &[&str]| -> Vec<Nlri> {
        texts.iter().filter_map(|text| text.parse::<IpNet>().ok()).map(Nlri::from).collect()
    };
    let v4 = nets(&["192.0.2.0/24", "198.51.100.128/25", "10.0.0.0/8", "203.0.113.7/32"]);
    let v6 = nets(&["2001:db8:1::/48", "2001:db8:2::/64", "2001:db8::7/128"]);
    let (plain, rich) = (plain(), rich());
    let mut all = vec![encode_keepalive(), open().encode()];
    all.push(Notification::with_data(Notification::HOLD_TIMER_EXPIRED, [1, 2, 3]).encode());
    all.push(RouteRefresh::of(Family::Ipv4Unicast, RouteRefresh::REQUEST).encode());
    for (family, routes, next_hop) in [
        (Family::Ipv4Unicast, &v4, NextHop::V4([192, 0, 2, 1].into())),
        (Family::Ipv6Unicast, &v6, NextHop::V6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into())),
        (Family::L2vpnEvpn, &evpn(), NextHop::V4([192, 0, 2, 1].into())),
    ] {
        for attrs in [&plain, &rich] {
            let attrs = PathAttributes { next_hop: Some(next_hop), ..attrs.clone() };
            all.extend(encode_announce(family, &attrs, routes, &CONTEXT).unwrap_or_default());
        }
        all.extend(encode_withdraw(family, routes, &CONTEXT));
        all.push(encode_end_of_rib(family));
    }
    all
}

fn open() -> Open {
    let families = Family::ALL.map(Family::afi_safi);
    let mut capabilities: Vec<_> = families.iter().map(|(a, s)| Capability::MultiProtocol(*a, *s)).collect();
    capabilities.extend([
        Capability::RouteRefresh,
        Capability::ExtendedMessage,
        Capability::FourOctetAs(Asn(65001)),
    ]);
    capabilities.push(Capability::GracefulRestart(GracefulRestart {
        restarted: true,
        notification: true,
        restart_time_s: 120,
        families: families.iter().map(|(a, s)| (*a, *s, true)).collect(),
    }));
    Open { asn: Asn(65001), hold_time_s: 90, router_id: RouterId([10, 0, 0, 1].into()), capabilities }
}

fn plain() -> PathAttributes {
    let as_path = AsPath::sequence([Asn(65001), Asn(4_200_000_001)]);
    PathAttributes { as_path, local_pref: Some(100), ..PathAttributes::default() }
}

fn rich() -> PathAttributes {
    PathAttributes {
        med: Some(50),
        atomic_aggregate: true,
        communities: vec![Community::NO_EXPORT, Community(0xfde9_0007)],
        originator_id: Some(RouterId([10, 0, 0, 9].into())),
        cluster_list: vec![[10, 0, 0, 8].into(), [10, 0, 0, 7].into()],
        ext_communities: vec![RouteTarget::new(Asn(65001), 100).into(), ExtCommunity::ENCAP_VXLAN],
        large_communities: vec![LargeCommunity { admin: 65001, data1: 1, data2: 2 }],
        ..plain()
    }
}

fn evpn() -> Vec<Nlri> {
    let rd = Rd::from_ip([10, 0, 0, 1].into(), 100);
    let Some(vni) = Vni::new(100) else { return Vec::new() };
    let station = MacIp {
        rd,
        esi: Esi::ZERO,
        tag: 0,
        mac: MacAddr([2, 0, 0, 0, 0, 1]),
        ip: Some([192, 0, 2, 7].into()),
        vni,
        l3_vni: Vni::new(9000),
    };
    let prefix = IpPrefix {
        rd,
        esi: Esi::ZERO,
        tag: 0,
        prefix: IpNet::V4(ipnet::Ipv4Net::new_assert([192, 0, 2, 0].into(), 24)),
        gateway: None,
        l3_vni: vni,
    };
    vec![station.into(), Imet { rd, tag: 0, originator: [10, 0, 0, 1].into() }.into(), prefix.into()]
}

/// One message of the corpus with some damage; its length field fits most of the time, so that bodies are reached.
pub fn mutated(corpus: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let mut message = corpus[dice.roll(corpus.len())].clone();
    for _ in 0..1 + dice.roll(4) {
        damage(&mut message, corpus, dice);
    }
    message.truncate(STANDARD_LIMIT);
    if dice.roll(8) > 0 && message.len() >= HEADER_LEN {
        let len = u16::try_from(message.len()).unwrap_or(u16::MAX).to_be_bytes();
        message[..16].fill(0xff);
        message[16..18].copy_from_slice(&len);
    }
    message
}

fn damage(message: &mut Vec<u8>, corpus: &[Vec<u8>], dice: &mut Dice) {
    const TELLING: [u8; 8] = [0, 1, 2, 0x10, 0x7f, 0x80, 0xf0, 0xff];
    // Half of it where lengths and attributes are, past the header.
    let first = if dice.roll(2) == 0 { HEADER_LEN.min(message.len()) } else { 0 };
    let at = first + dice.roll(message.len() - first);
    match dice.roll(7) {
        0 if at < message.len() => message[at] = dice.roll(256) as u8,
        1 if at < message.len() => message[at] ^= 1 << dice.roll(8),
        2 if at < message.len() => message[at] = TELLING[dice.roll(TELLING.len())],
        3 if at < message.len() => message[at] = message[at].wrapping_add([1, 255][dice.roll(2)]),
        4 => message.truncate(at),
        5 => {
            // A piece of this message or another, put in or over.
            let from = &corpus[dice.roll(corpus.len())];
            let start = dice.roll(from.len());
            let piece = &from[start..(start + 1 + dice.roll(24)).min(from.len())];
            let over =
                if dice.roll(2) == 0 { piece.len().min(message.len() - at.min(message.len())) } else { 0 };
            let at = at.min(message.len());
            message.splice(at..at + over, piece.iter().copied());
        }
        _ if at < message.len() => drop(message.drain(at..(at + 1 + dice.roll(8)).min(message.len()))),
        _ => {}
    }
}

/// One side's view of a message.
#[derive(Debug, Default)]
struct View {
    verdict: Option<Verdict>,
    /// Unicast prefixes told and taken back.
    routes: (Vec<IpNet>, Vec<IpNet>),
    /// Why it ends the session, or what was wrong with which attribute.
    reasons: Vec<(u8, String)>,
    /// Our NOTIFICATION.
    notification: Option<Notification>,
}

impl View {
    fn of(verdict: Verdict) -> Self {
        Self { verdict: Some(verdict), ..Self::default() }
    }

    fn ended(notification: Notification) -> Self {
        Self { notification: Some(notification), ..Self::of(Verdict::End) }
    }
}

/// Both verdicts on one message.
///
/// # Panics
/// Where something does not hold that must hold of any message.
#[must_use]
pub fn judge(message: &[u8]) -> Outcome {
    let (we, they) = (ours(message), theirs(message));
    let (ours, theirs) = (we.verdict.unwrap_or(Verdict::End), they.verdict.unwrap_or(Verdict::End));
    if ours == theirs && (ours != Verdict::Accept || we.routes == they.routes) {
        return Outcome::Agree(ours);
    }
    match excuse(message, &we, &they) {
        Some(excuse) => Outcome::Excused(excuse),
        None if ours == theirs => Outcome::Routes,
        None => Outcome::Differ(ours, theirs),
    }
}

/// What either says of a message, for people.
#[must_use]
pub fn reasons(message: &[u8]) -> String {
    let (we, they) = (ours(message), theirs(message));
    let notification = we.notification.as_ref().map(ToString::to_string);
    format!("ours: {:?} {notification:?}; theirs: {:?} {:?}", we.verdict, they.verdict, they.reasons)
}

fn excuse(message: &[u8], we: &View, they: &View) -> Option<Excuse> {
    let said =
        |words: &[&str]| they.reasons.iter().any(|(_, why)| words.iter().any(|word| why.contains(word)));
    let code = we.notification.as_ref().map(|n| (n.code, n.subcode));
    let is_update = message.get(18) == Some(&2);
    Some(match (we.verdict?, they.verdict?) {
        (Verdict::End, Verdict::Incomplete) => Excuse::Sooner,
        _ if message.get(18) == Some(&5) => Excuse::RefreshLength,
        (Verdict::End, _) if matches!(code, Some((2, 2 | 3 | 6))) => Excuse::Meaning,
        _ if !is_update => return None,
        (Verdict::End, _) if code == Some(Notification::UNRECOGNIZED_WELL_KNOWN) => Excuse::UnknownWellKnown,
        _ if attributes(message).iter().any(|(kind, value)| is_foreign(*kind, value)) => Excuse::Family,
        _ if said(&["EVPN"]) => Excuse::Typed,
        _ if said(&["prohibited AS path segment", "AS_PATH segment type 3", "AS_PATH segment type 4"]) => {
            Excuse::Segments
        }
        _ if they.reasons.iter().any(|(kind, _)| !WORDS.contains(kind)) => Excuse::Foreign,
        (Verdict::Discard, Verdict::Withdraw) if said(&["duplicate attribute"]) => Excuse::Repeated,
        (Verdict::Withdraw, Verdict::End) if said(&["type 14 flags", "type 15 flags"]) => Excuse::MpFlags,
        (Verdict::Accept, _) if said(&["PMSI Tunnel type"]) => Excuse::Tunnel,
        (Verdict::End, Verdict::Withdraw) if they.routes.0.is_empty() => Excuse::NoRoutes,
        (Verdict::Withdraw, Verdict::Accept | Verdict::Discard) => lacks(message)?,
        _ if they.reasons.iter().any(|(_, why)| is_partial_bit(why)) => Excuse::Partial,
        _ => return None,
    })
}

/// Types of the attributes that we have words for.
const WORDS: [u8; 17] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 14, 15, 16, 17, 18, 22, 32];

/// `type 7 flags 0xe0 (expected 0xc0)`: nothing but the Partial bit is wrong.
fn is_partial_bit(why: &str) -> bool {
    let octet = |after: &str| {
        let digits = why.split(after).nth(1)?.get(..2)?;
        u8::from_str_radix(digits, 16).ok()
    };
    let flags = octet("flags 0x").zip(octet("expected 0x"));
    flags.is_some_and(|(found, expected)| (found ^ expected) & 0xc0 == 0 && found & 0x20 != 0)
}

/// Attributes by their type.
type Attributes<'a> = Vec<(u8, &'a [u8])>;

/// The attributes of an UPDATE, as far as they can be walked, and whether routes follow them. A walk of our own.
fn walk(message: &[u8]) -> Option<(Attributes<'_>, bool)> {
    let number =
        |at: usize| Some(usize::from(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?])));
    let mut at = HEADER_LEN + 2 + number(HEADER_LEN)?;
    let end = at + 2 + number(at)?;
    at += 2;
    let mut all = Vec::new();
    while at + 3 <= end {
        let is_long = message.get(at).is_some_and(|flags| flags & 0x10 != 0);
        let length =
            if is_long { number(at + 2) } else { message.get(at + 2).map(|short| usize::from(*short)) };
        let from = at + if is_long { 4 } else { 3 };
        let Some(value) = length.and_then(|length| message.get(from..from + length)) else { break };
        all.push((message[at + 1], value));
        at = from + value.len();
    }
    Some((all, end < message.len()))
}

fn attributes(message: &[u8]) -> Attributes<'_> {
    walk(message).map(|(attributes, _)| attributes).unwrap_or_default()
}

/// Whether an attribute is one of the two of RFC 4760, of a family that we do not carry.
fn is_foreign(kind: u8, value: &[u8]) -> bool {
    let family = match (kind, value) {
        (14 | 15, [high, low, safi, ..]) => (u16::from_be_bytes([*high, *low]), *safi),
        _ => return false,
    };
    Family::from_afi_safi(family.0, family.1).is_none()
}

/// What of an UPDATE the other decoder looks at later, or not at all: whether ORIGIN, AS_PATH, and NEXT_HOP where it has
/// routes of its own, are there and can be what they say.
fn lacks(message: &[u8]) -> Option<Excuse> {
    let (attributes, has_routes) = walk(message)?;
    let first = |wanted: u8| attributes.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| *value);
    if first(1).is_none() || first(2).is_none() || (has_routes && first(3).is_none()) {
        return Some(Excuse::Mandatory);
    }
    let next_hop = first(3).and_then(|value| value.first());
    if next_hop.is_some_and(|octet| *octet == 0 || *octet == 127 || *octet >= 224) {
        return Some(Excuse::Meaning);
    }
    has_empty_segment(first(2)?).then_some(Excuse::EmptySegment)
}

/// Whether a segment of an AS_PATH has no number in it.
fn has_empty_segment(mut path: &[u8]) -> bool {
    while let [_, count, rest @ ..] = path {
        if *count == 0 {
            return true;
        }
        path = rest.get(4 * usize::from(*count)..).unwrap_or_default();
    }
    false
}

fn ours(message: &[u8]) -> View {
    let frame = match next_frame(message, STANDARD_LIMIT) {
        Err(notification) => return View::ended(notification),
        Ok(None) => return View::of(Verdict::Incomplete),
        Ok(Some(frame)) => frame,
    };
    let refused = match frame.kind {
        MessageType::Update => return update(frame.body),
        MessageType::Open => Open::decode(frame.body).err(),
        MessageType::RouteRefresh => RouteRefresh::decode(frame.body).err(),
        MessageType::Notification | MessageType::Keepalive => None,
    };
    refused.map_or_else(|| View::of(Verdict::Accept), View::ended)
}

fn update(body: &[u8]) -> View {
    // With other eyes too: none may panic.
    for (internal, four_octet_as) in [(false, true), (true, false)] {
        drop(Update::decode(body, &ParseContext { internal, four_octet_as, ..INTERNAL }));
    }
    let update = match Update::decode(body, &INTERNAL) {
        Ok(update) => update,
        Err(notification) => return View::ended(notification),
    };
    let told: Vec<Nlri> = update.announced.clone().filter_map(Result::ok).collect();
    let reach: Vec<Nlri> = update.reach.iter().flat_map(|r| r.nlri.clone()).filter_map(Result::ok).collect();
    let gone = update.withdrawn.clone().chain(update.unreach.clone().into_iter().flatten());
    let gone: Vec<Nlri> = gone.filter_map(Result::ok).collect();
    assert!(told.len() + reach.len() + gone.len() <= body.len(), "more routes than octets");
    let prefixes =
        |routes: &[Nlri]| -> Vec<IpNet> { routes.iter().filter_map(|n| n.key.as_prefix()).collect() };
    let verdict = match (update.treat_as_withdraw, update.discarded) {
        (true, _) => Verdict::Withdraw,
        (_, 0) => Verdict::Accept,
        _ => Verdict::Discard,
    };
    if let (Verdict::Accept, Some(reach_of), Some(first)) = (verdict, &update.reach, reach.first()) {
        let attrs = PathAttributes { next_hop: Some(reach_of.next_hop), ..update.attrs.clone() };
        survives(first.key.family(), &attrs, &reach);
    }
    let routes = (prefixes(&[&told[..], &reach[..]].concat()), prefixes(&gone));
    View { routes, ..View::of(verdict) }
}

/// Written by us and read again, it is the same.
fn survives(family: Family, attrs: &PathAttributes, routes: &[Nlri]) {
    let Ok(messages) = encode_announce(family, attrs, routes, &CONTEXT) else { return };
    let mut again = Vec::new();
    for message in &messages {
        let frame = next_frame(message, STANDARD_LIMIT).expect("our header").expect("a whole message");
        let update = Update::decode(frame.body, &INTERNAL).expect("what we wrote");
        assert!(!update.treat_as_withdraw && update.discarded == 0, "{attrs:?}");
        let next_hop = update.reach.as_ref().map(|r| r.next_hop).or(update.attrs.next_hop);
        assert_eq!(PathAttributes { next_hop, ..update.attrs.clone() }, *attrs);
        again.extend(update.announced.chain(update.reach.into_iter().flat_map(|r| r.nlri)).flatten());
    }
    assert_eq!(again, routes);
}

fn theirs(message: &[u8]) -> View {
    let mut octets = Bytes::copy_from_slice(message);
    let update = match other::decode_message(&mut octets, STANDARD_LIMIT as u16) {
        Ok(other::Message::Update(update)) => update,
        Ok(_) => return View::of(Verdict::Accept),
        Err(other::DecodeError::Incomplete { .. }) if is_cut(message) => {
            return View::of(Verdict::Incomplete);
        }
        Err(error) => return View { reasons: vec![(1, error.to_string())], ..View::of(Verdict::End) },
    };
    let parsed = match update.parse_revised(true, true, false, &[]) {
        Ok(parsed) => parsed,
        Err(error) => return View { reasons: vec![(1, error.to_string())], ..View::of(Verdict::End) },
    };
    let strongest = parsed.malformed.iter().map(|malformed| match malformed.disposition {
        other::ErrorDisposition::AttributeDiscard => Verdict::Discard,
        other::ErrorDisposition::TreatAsWithdraw => Verdict::Withdraw,
        other::ErrorDisposition::SessionReset => Verdict::End,
    });
    let verdict = strongest.min().unwrap_or(Verdict::Accept);
    let reasons = parsed.malformed.iter().map(|m| (m.type_code, m.error.to_string())).collect();
    View { routes: their_routes(&parsed.update), reasons, ..View::of(verdict) }
}

/// Whether there is less of a message than it says itself.
fn is_cut(message: &[u8]) -> bool {
    let says = message.get(16..18).map(|length| usize::from(u16::from_be_bytes([length[0], length[1]])));
    says.is_none_or(|says| message.len() < says.max(HEADER_LEN))
}

fn their_routes(update: &other::ParsedUpdate) -> (Vec<IpNet>, Vec<IpNet>) {
    let net = |prefix: &other::Prefix| match prefix {
        other::Prefix::V4(p) => ipnet::Ipv4Net::new(p.addr, p.len).ok().map(IpNet::V4),
        other::Prefix::V6(p) => ipnet::Ipv6Net::new(p.addr, p.len).ok().map(IpNet::V6),
    };
    let base = |list: &[other::Ipv4NlriEntry]| -> Vec<IpNet> {
        list.iter().filter_map(|n| net(&other::Prefix::V4(n.prefix))).collect()
    };
    let (mut told, mut gone) = (base(&update.announced), base(&update.withdrawn));
    for attribute in &update.attributes {
        match attribute {
            other::PathAttribute::MpReachNlri(reach) => {
                told.extend(reach.announced.iter().filter_map(|n| net(&n.prefix)));
            }
            other::PathAttribute::MpUnreachNlri(unreach) => {
                gone.extend(unreach.withdrawn.iter().filter_map(|n| net(&n.prefix)));
            }
            _ => {}
        }
    }
    (told, gone)
}
