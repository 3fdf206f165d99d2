//! The two ways to ask why: an operator asks the API, and this gateway asks the one behind which the other host is.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;
use watari_config::{Mac, Problem as FieldProblem};
use watari_dataplane::Dataplane;

use super::Explain;
use super::names::Called;
use super::why::{At, Half, Host, Look, Why, WhyAsk, conclude, silent};
use crate::api::problem::Problem;
use crate::api::request::Query;
use crate::brain::Brain;
use crate::nodes::internal::{WHY_PATH, ask};

/// How long the far gateway may take.
const FAR_WAIT_MAX: Duration = Duration::from_secs(8);

/// Two hosts.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WhyArgs {
    /// Who sends: an IP or MAC address.
    from: String,
    /// Who does not hear it: an IP or MAC address.
    to: String,
}

/// What this gateway finds, and where the packet goes on to.
struct Found {
    half: Half,
    next: Option<(IpAddr, WhyAsk)>,
}

/// Says why one host does not reach another, or that packets should pass.
#[utoipa::path(get, path = "/why", tag = "explain", params(WhyArgs),
    responses((status = 200, body = Why),
        (status = 422, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn why(
    State(explain): State<Arc<Explain>>,
    Query(args): Query<WhyArgs>,
) -> Result<Json<Why>, Problem> {
    let wrong = [("from", &args.from), ("to", &args.to)].into_iter().filter(|(_, name)| !is_host(name));
    let problems: Vec<FieldProblem> = wrong
        .map(|(path, name)| FieldProblem {
            path: path.to_owned(),
            message: format!("{name:?} is neither an IP nor a MAC address"),
        })
        .collect();
    if !problems.is_empty() {
        return Err(Problem::request().with_errors(problems));
    }
    let own = explain.brain.desired().gateway().map(|gateway| gateway.vtep);
    let looking = explain.clone();
    let found = tokio::task::spawn_blocking(move || looking.found(&args));
    let Found { half, next } = found.await.map_err(|_| Problem::internal())??;
    let mut halves = vec![half];
    if let Some((vtep, question)) = next {
        let far: Result<Half, _> = ask(own, vtep, WHY_PATH, &question, FAR_WAIT_MAX).await;
        let name = explain
            .brain
            .desired()
            .document()
            .gateways
            .iter()
            .find_map(|(name, gateway)| (gateway.vtep == vtep).then(|| name.to_string()));
        halves.push(far.unwrap_or_else(|e| silent(name.unwrap_or_else(|| vtep.to_string()), e.to_string())));
    }
    Ok(Json(conclude(halves)))
}

fn is_host(name: &str) -> bool {
    name.parse::<IpAddr>().is_ok() || name.parse::<Mac>().is_ok()
}

impl Explain {
    fn found(&self, args: &WhyArgs) -> Result<Found, Problem> {
        let (desired, view) = (self.brain.desired(), self.brain.view().borrow().clone());
        let called = Called::new(&desired, &self.maps);
        let look = Look { desired: &desired, view: &view, maps: &self.maps, called: &called };
        let unknown = |path: &str, name: &str| {
            let message = format!("{name} is not known, and in no subnet of a segment");
            Problem::request().with_errors(vec![FieldProblem { path: path.to_owned(), message }])
        };
        let from = look.find(&args.from, None)?.ok_or_else(|| unknown("from", &args.from))?;
        let to = look.find(&args.to, Some(from.vni))?.ok_or_else(|| unknown("to", &args.to))?;
        let (half, there) = look.half(&from, &to)?;
        let next = half.traces.first().and_then(|traced| onward(&from, &to, there, traced));
        Ok(Found { half, next })
    }
}

/// The far gateway's part, if the packet goes there.
fn onward(from: &Host, to: &Host, there: At, traced: &super::trace::Traced) -> Option<(IpAddr, WhyAsk)> {
    let (At::Far(vtep), Some(vni)) = (there, traced.vni) else { return None };
    Some((vtep, WhyAsk { from: *from, to: *to, vni, frame: traced.leaves.clone() }))
}

/// Answers another gateway, whose VTEP is `vtep`.
///
/// # Errors
/// The kernel refused.
pub fn answer(
    brain: &Brain,
    maps: &Dataplane,
    question: &WhyAsk,
    vtep: IpAddr,
) -> Result<Half, watari_dataplane::Error> {
    let (desired, view) = (brain.desired(), brain.view().borrow().clone());
    let called = Called::new(&desired, maps);
    Look { desired: &desired, view: &view, maps, called: &called }.far_half(question, vtep)
}
