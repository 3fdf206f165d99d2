//! What a gateway says of BGP, asked over its API: neighbours, the paths of a prefix, and what of it is in the kernel.

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::world::SOON;
use crate::{Gateway, wait_until};

/// Protocol number of learnt routes in the kernel.
const PROTOCOL_LEARNT: &str = "220";

impl Gateway {
    /// A neighbour of the document by its name: counts, what was negotiated, why it last went down.
    ///
    /// # Errors
    /// When there is none, or the API does not answer.
    pub fn neighbour(&self, name: &str) -> Result<Value> {
        self.get(&format!("/api/v1/bgp/neighbours/peers.{name}"))
    }

    /// Waits until the session with a neighbour is established.
    ///
    /// # Errors
    /// When it is not within [`SOON`], with what is said of it.
    pub fn wait_for_neighbour(&self, name: &str) -> Result<()> {
        wait_until(SOON, &format!("the session with {name} at {}", self.name()), || {
            let neighbour = self.neighbour(name)?;
            ensure!(neighbour["state"] == "established", "{neighbour:#}");
            Ok(())
        })
    }

    /// All paths to a prefix, the selected one first; none where it is not known.
    ///
    /// # Errors
    /// When the API does not answer.
    pub fn paths(&self, prefix: &str) -> Result<Vec<Value>> {
        let answer = self.api().get(&format!("/api/v1/bgp/route?prefix={prefix}"))?;
        if answer.status == 404 {
            return Ok(Vec::new());
        }
        Ok(answer.success()?["paths"].as_array().cloned().unwrap_or_default())
    }

    /// Waits for a selected path to a prefix that is as wanted.
    ///
    /// # Errors
    /// When there is none within [`SOON`], with all there are.
    pub fn wait_for_path(&self, prefix: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        wait_until(SOON, &format!("a path to {prefix} at {}", self.name()), || {
            let paths = self.paths(prefix)?;
            let found = paths.iter().find(|path| path["selected"] == true && wanted(path));
            found.cloned().ok_or_else(|| anyhow::anyhow!("{paths:#?}"))
        })
    }

    /// Waits until no path to a prefix is left.
    ///
    /// # Errors
    /// When one is after [`SOON`].
    pub fn wait_for_no_path(&self, prefix: &str) -> Result<()> {
        wait_until(SOON, &format!("{prefix} to be gone from {}", self.name()), || {
            let paths = self.paths(prefix)?;
            ensure!(paths.is_empty(), "{paths:#?}");
            Ok(())
        })
    }

    /// Next hops of a learnt route in a tenant's namespace, as the kernel has it.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn kernel_next_hops(&self, tenant: &str, prefix: &str) -> Result<Vec<String>> {
        let family = if prefix.contains(':') { "-6" } else { "-4" };
        let tenant = format!("wt-{}.{tenant}", self.name());
        let routes =
            self.ns().ip_json(&format!("{family} -n {tenant} route show proto {PROTOCOL_LEARNT}"))?;
        let of = routes.iter().filter(|route| route["dst"] == prefix);
        Ok(of.filter_map(|route| route["gateway"].as_str().map(str::to_owned)).collect())
    }
}
