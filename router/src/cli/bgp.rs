//! BGP on the command line: who is there, what is in a table, and why one path of a prefix won.

use std::time::Duration;

use hyper::Method;
use serde_json::Value;

use super::client::{Body, Client};
use super::commands::{CommandError, show};
use super::{Bgp, Shown, To, table};

/// Columns of routes; those that no route has are left out by nobody: a table stays the same table.
const ROUTE: [&str; 7] = ["route", "next_hop", "from", "as_path", "local_pref", "med", "paths"];
const TOLD: [&str; 7] = ["route", "path_id", "next_hop", "as_path", "local_pref", "med", "communities"];
const HEARD: [&str; 8] =
    ["route", "path_id", "next_hop", "as_path", "local_pref", "med", "lost_at", "rejected"];
const PATHS: [&str; 11] = [
    "selected",
    "from",
    "path_id",
    "told_as",
    "next_hop",
    "as_path",
    "local_pref",
    "med",
    "stale",
    "lost_at",
    "rejected",
];

/// Does one of the questions.
pub(super) async fn bgp(to: &To, client: &Client, what: Bgp) -> Result<(), CommandError> {
    match what {
        Bgp::Summary => {
            let columns =
                ["neighbour", "address", "asn", "state", "since_s", "received", "rejected", "advertised"];
            show(to, &client.get("bgp/neighbours").await?, |a| table::rows(a, &columns));
        }
        Bgp::Neighbour { name, part } => neighbour(to, client, &name, &part).await?,
        Bgp::Reset { name, soft } => {
            let soft = soft.map(|way| format!("?soft={way}")).unwrap_or_default();
            let path = format!("bgp/neighbours/{}/reset{soft}", whole_name(&name));
            let answer = client.send(Method::POST, &path, Body::Empty, Duration::ZERO).await?;
            show(to, &answer, |a| {
                table::line(format!("{}: {}", table::cell(&a["neighbour"]), table::cell(&a["done"])));
            });
        }
        Bgp::Table { family, tenant, page } => {
            let mut query = page.query();
            query.extend(family.map(|family| format!("family={family}")));
            query.extend(tenant.map(|tenant| format!("tenant={tenant}")));
            routes(to, client, "bgp/table", &query, &ROUTE).await?;
        }
        Bgp::Prefix { prefix, tenant } => {
            let tenant = tenant.map(|tenant| format!("&tenant={tenant}")).unwrap_or_default();
            let answer = client.get(&format!("bgp/route?prefix={prefix}{tenant}")).await?;
            show(to, &answer, |answer| {
                let won = table::cell(&answer["won_by"]);
                table::line(format!("{}: won by {won}", table::cell(&answer["route"])));
                table::rows(&answer["paths"], &PATHS);
            });
        }
    }
    Ok(())
}

/// The name of a peer of the document is short; what stands behind an @ is an address, which has dots.
fn whole_name(name: &str) -> String {
    let is_whole = name.split('@').next().is_some_and(|path| path.contains('.'));
    if is_whole { name.to_owned() } else { format!("peers.{name}") }
}

/// A neighbour by its name in the document; one of another gateway is `gateways.NAME`.
async fn neighbour(to: &To, client: &Client, name: &str, shown: &Shown) -> Result<(), CommandError> {
    let name = whole_name(name);
    let path = format!("bgp/neighbours/{name}");
    let mut query = shown.page.query();
    query.extend(shown.family.as_ref().map(|family| format!("family={family}")));
    match (shown.received || shown.rejected, shown.advertised) {
        (true, _) => {
            query.extend(shown.rejected.then(|| "rejected=true".to_owned()));
            routes(to, client, &format!("{path}/received"), &query, &HEARD).await
        }
        (_, true) => routes(to, client, &format!("{path}/advertised"), &query, &TOLD).await,
        _ => {
            show(to, &client.get(&path).await?, table::fields);
            Ok(())
        }
    }
}

async fn routes(
    to: &To,
    client: &Client,
    path: &str,
    query: &[String],
    columns: &[&str],
) -> Result<(), CommandError> {
    let answer: Value = client.get(&format!("{path}?{}", query.join("&"))).await?;
    show(to, &answer, |answer| {
        table::rows(&answer["routes"], columns);
        if let Some(next) = answer["next"].as_str() {
            table::line(format!("more with --after '{next}'"));
        }
    });
    Ok(())
}
