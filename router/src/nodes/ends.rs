//! The ends of a measurement: `site:NAME`, `gateway:NAME`, `node:NAME`, or a bare name that only one object has.

use std::fmt;
use std::net::IpAddr;

use watari_config::desired::probe_addresses;
use watari_config::{Document, Name};

/// An end as somebody named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The gateway of a site.
    Site(Name),
    /// A gateway.
    Gateway(Name),
    /// A node.
    Node(Name),
}

/// An end as it is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A gateway's own address in the segment.
    Gateway(Name),
    /// A node's address.
    Node(Name),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gateway(name) => write!(f, "gateway:{name}"),
            Self::Node(name) => write!(f, "node:{name}"),
        }
    }
}

/// Between what is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// The segment in which both ends are.
    pub segment: Name,
    /// Where it starts, with its address.
    pub from: (Place, IpAddr),
    /// Where it leads, with its address.
    pub to: (Place, IpAddr),
}

/// The end that `text` names.
///
/// # Errors
/// Says what is wrong with it.
pub fn end(document: &Document, text: &str) -> Result<End, String> {
    let (kind, name) = text.split_once(':').map_or((None, text), |(kind, name)| (Some(kind), name));
    let name: Name = name.parse().map_err(|e: watari_config::names::NameError| e.to_string())?;
    let known = [
        ("site", document.sites.contains_key(&name), End::Site(name.clone())),
        ("gateway", document.gateways.contains_key(&name), End::Gateway(name.clone())),
        ("node", document.nodes.contains_key(&name), End::Node(name.clone())),
    ];
    if let Some(kind) = kind {
        let of_kind = known.into_iter().find(|(word, ..)| *word == kind);
        let (word, is_there, end) = of_kind.ok_or("must be site:NAME, gateway:NAME or node:NAME")?;
        return if is_there { Ok(end) } else { Err(format!("there is no {word} {name}")) };
    }
    let mut named: Vec<_> = known.into_iter().filter(|(_, is_there, _)| *is_there).collect();
    match named.len() {
        0 => Err(format!("there is no site, gateway or node {name} here")),
        1 => Ok(named.remove(0).2),
        _ => {
            let words: Vec<_> = named.iter().map(|(word, ..)| format!("{word}:{name}")).collect();
            Err(format!("is ambiguous: it may be {}", words.join(" or ")))
        }
    }
}

/// The path between two ends: in the segment of the node if one is a node, else in the first one that both
/// have; IPv4 where both have it.
///
/// # Errors
/// Says why there is none.
pub fn path(document: &Document, from: &End, to: &End) -> Result<Path, String> {
    let of_node = |end: &End| match end {
        End::Node(name) => document.nodes.get(name).map(|n| n.segment.clone()),
        _ => None,
    };
    let candidates: Vec<Name> = match (of_node(from), of_node(to)) {
        (Some(a), Some(b)) if a != b => return Err(format!("one is in segment {a}, the other in {b}")),
        (Some(one), _) | (None, Some(one)) => vec![one],
        (None, None) => document.segments.keys().cloned().collect(),
    };
    for segment in candidates {
        let (Some(a), Some(b)) = (place(document, from, &segment), place(document, to, &segment)) else {
            continue;
        };
        if a.0 == b.0 {
            return Err("both ends are the same".to_owned());
        }
        let pair = a.1.iter().find_map(|x| Some((*x, *b.1.iter().find(|y| y.is_ipv4() == x.is_ipv4())?)));
        if let Some((x, y)) = pair {
            return Ok(Path { segment, from: (a.0, x), to: (b.0, y) });
        }
    }
    Err("the two have no segment in which both have an address of one family".to_owned())
}

/// Where an end is in a segment, with its addresses, IPv4 first.
fn place(document: &Document, end: &End, segment: &Name) -> Option<(Place, Vec<IpAddr>)> {
    let of_gateway = |name: &Name| {
        let addresses = probe_addresses(document, name, segment);
        (!addresses.is_empty()).then(|| (Place::Gateway(name.clone()), addresses))
    };
    match end {
        End::Gateway(name) => of_gateway(name),
        End::Site(site) => {
            let mut at_site = document.gateways.iter().filter(|(_, g)| g.site == *site);
            at_site.find_map(|(name, _)| of_gateway(name))
        }
        End::Node(name) => {
            let node = document.nodes.get(name).filter(|n| n.segment == *segment)?;
            let mut addresses = node.addresses.clone();
            addresses.sort();
            Some((Place::Node(name.clone()), addresses))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::samples;

    fn document() -> Document {
        samples::with_node(None, Some(samples::KEY)).document().clone()
    }

    fn named(text: &str) -> Result<End, String> {
        end(&document(), text)
    }

    #[test]
    fn names_are_found_with_and_without_their_kind() {
        let name = |text: &str| text.parse::<Name>().unwrap();
        assert_eq!(named("gw-a"), Ok(End::Gateway(name("gw-a"))));
        assert_eq!(named("site:a"), Ok(End::Site(name("a"))));
        assert_eq!(named("gpu-1"), Ok(End::Node(name("gpu-1"))));
        assert!(named("gateway:gpu-1").unwrap_err().contains("no gateway gpu-1"));
        assert!(named("nobody").unwrap_err().contains("no site, gateway or node"));
        assert!(named("tenant:lab").unwrap_err().contains("site:NAME"));
        assert!(named("Not a name").is_err());
    }

    #[test]
    fn a_name_of_two_objects_must_be_qualified() {
        let mut document = document();
        let site = document.sites.values().next().unwrap().clone();
        document.sites.insert("gw-a".parse().unwrap(), site);
        let refused = end(&document, "gw-a").unwrap_err();
        assert!(refused.contains("site:gw-a or gateway:gw-a"), "{refused}");
        assert!(end(&document, "gateway:gw-a").is_ok());
    }

    #[test]
    fn a_path_is_between_addresses_of_one_segment() {
        let (document, [a, b, node]) = (document(), ["site:a", "gw-b", "gpu-1"].map(|t| named(t).unwrap()));
        let found = path(&document, &a, &b).unwrap();
        assert_eq!(found.from, (Place::Gateway("gw-a".parse().unwrap()), "10.10.0.129".parse().unwrap()));
        assert_eq!(found.to.1, "10.10.0.193".parse::<IpAddr>().unwrap());
        let found = path(&document, &node, &b).unwrap();
        assert_eq!(found.from.1, "10.10.0.130".parse::<IpAddr>().unwrap());
        assert!(path(&document, &a, &named("gw-a").unwrap()).unwrap_err().contains("the same"));
    }
}
