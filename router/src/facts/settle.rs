//! What is dirty is carried to where it belongs: to the table of hosts, to the speaker, to the datapath and to the
//! kernel. And what is to be shown is shown.

use std::time::Instant;

use serde_json::{Value, json};
use watari_bgp::types::{Family, InstanceId};

use super::fabric::Fabric;
use super::hosts::{Notice, Subject};
use super::import::Changed;
use super::local::Age;
use super::originate::{Learnt, announced_nodes};
use super::show;
use super::tables::{self, Kept, MayRemove, Wanted};
use super::task::{RETURN, SELECTION_DEFERRAL, Task, boot_time_ns};
use crate::bgp::LocalChange;
use crate::drivers::DriverError;
use crate::pace::timed;

impl Task {
    /// Carries everything that is dirty, and walks what is due. `true` if the tables were compared whole, and are as
    /// they should be.
    pub(super) async fn settle(&mut self) -> Result<bool, DriverError> {
        self.guard.unsettled().into_iter().for_each(|vni| self.hosts.forgive(vni));
        let Some(fabric) = self.fabric.clone() else { return self.empty() };
        let now_ns = boot_time_ns();
        if self.walk.is_due() {
            let age = Age { ages_ns: &fabric.ages_ns, now_ns, parted: &self.guard.take_parted() };
            let (walked, cost) = timed(|| self.local.walk(&self.maps, age, &mut self.changed.hosts));
            self.walk.done(cost);
            walked?;
        }
        let now = watari_bgp::Instant::from_millis(now_ns / 1_000_000);
        let mut changed = std::mem::take(&mut self.changed);
        let change = self.hosts.look(now, self.local.seen(), &self.imported.claims, &mut changed.hosts);
        let forgotten = self.local.forget(&self.maps, &self.hosts, &change, &mut self.changed.hosts);
        self.tell_notices(&change.notices);
        self.freezes.write(&self.hosts);
        let kept = self.keep(&mut changed);
        let is_plan_new = std::mem::take(&mut self.is_plan_new);
        let changes = if is_plan_new {
            let learnt = self.learnt();
            let changes = self.told.renew(&self.desired, &fabric, &learnt);
            self.announced = announced_nodes(&self.desired, &fabric, self.told.all());
            changes
        } else {
            let wanted = wanted(&self.imported, &self.hosts, &self.campus, &self.kept);
            self.told.change(&fabric, &change, &changed.prefixes, &wanted)
        };
        // What could not be written keeps nothing else from its place, and the facts from nobody.
        let wanted = wanted(&self.imported, &self.hosts, &self.campus, &self.kept);
        let written = tables::write(&self.maps, &wanted, &changed, &self.plans, self.may_remove);
        // What could not be written is tried again at once, by a comparison; not again and again while that fails too.
        if written.is_err() && self.last_error.is_none() {
            self.compare.hurry();
        }
        self.tell(changes).await;
        if is_plan_new {
            self.pin_up().await;
        }
        let compared = self.compare();
        if !changed.prefixes.is_empty() {
            self.kernel_sync.hurry();
        }
        let routed = self.route(&fabric).await;
        forgotten.and(kept).and(written).and(routed).and(compared)
    }

    /// Without an object of its own a gateway has learnt nothing from anybody.
    fn empty(&mut self) -> Result<bool, DriverError> {
        self.walk.done(std::time::Duration::ZERO);
        self.kernel_sync.done(std::time::Duration::ZERO);
        self.changed = Changed::default();
        (self.may_remove, self.kept) = (MayRemove::ALL, Kept::default());
        self.compare()
    }

    /// Compares the tables, if that is due.
    fn compare(&mut self) -> Result<bool, DriverError> {
        if !self.compare.is_due() {
            return Ok(false);
        }
        let wanted = wanted(&self.imported, &self.hosts, &self.campus, &self.kept);
        let (compared, cost) = timed(|| tables::compare(&self.maps, &wanted, self.may_remove));
        self.compare.done(cost);
        self.plans = compared?;
        Ok(true)
    }

    /// Brings the routes in the kernel to what is wanted, if that is due.
    async fn route(&mut self, fabric: &Fabric) -> Result<(), DriverError> {
        if !self.kernel_sync.is_due() {
            return Ok(());
        }
        let start = Instant::now();
        let synced =
            self.kernel.sync(&self.desired, &fabric.tenants, &self.best, &self.imported, self.may_remove);
        let routed = synced.await;
        self.kernel_sync.done(start.elapsed());
        routed
    }

    /// Keeps what may not be removed yet, and lets it go once it may.
    fn keep(&mut self, changed: &mut Changed) -> Result<(), DriverError> {
        if self.started.elapsed() > SELECTION_DEFERRAL {
            self.awaiting.clear();
        }
        let is_evpn = |(_, family): &(InstanceId, Family)| *family == Family::L2vpnEvpn;
        let may_remove = MayRemove {
            evpn: !self.awaiting.iter().any(is_evpn),
            unicast: self.awaiting.iter().all(is_evpn),
        };
        let before = std::mem::replace(&mut self.may_remove, may_remove);
        let wanted = wanted(&self.imported, &self.hosts, &self.campus, &self.kept);
        let is_gone = |prefix| !wanted.has_route(prefix);
        if before == may_remove && (may_remove == MayRemove::ALL || !changed.prefixes.iter().any(is_gone)) {
            return Ok(());
        }
        if before != may_remove {
            self.compare.hurry();
        }
        let kept = Kept::read(&self.maps, may_remove)?;
        changed.prefixes.extend(kept.campus.symmetric_difference(&self.kept.campus));
        changed.prefixes.extend(kept.fabric.symmetric_difference(&self.kept.fabric));
        self.kept = kept;
        Ok(())
    }

    /// Everything that was learnt and is to be told on.
    fn learnt(&self) -> Learnt {
        let fabric = self.imported.prefixes().map(|(prefix, _)| prefix);
        Learnt {
            stations: self.hosts.held().clone(),
            addresses: self.hosts.bound().clone(),
            campus: self.campus.union(&self.kept.campus).copied().collect(),
            fabric: fabric.chain(&self.kept.fabric).copied().collect(),
        }
    }

    /// Tells the speaker what changed of our own routes.
    async fn tell(&mut self, changes: Vec<LocalChange>) {
        if !changes.is_empty() {
            // Only a speaker that has ended takes none; so does this task then.
            let _ = self.bgp.apply(changes).await;
        }
        // Those who come by themselves are known again once they have come.
        let some_come = self.peers.values().any(|peer| peer.range.is_some());
        if self.is_restart && !self.told_local && (!some_come || self.started.elapsed() >= RETURN) {
            self.told_local = true;
            let _ = self.bgp.local_routes_complete().await;
        }
    }

    /// Tells an operator what was frozen, freed or pinned elsewhere.
    fn tell_notices(&self, notices: &[Notice]) {
        let object = |subject: &Subject| format!("duplicates.{}.{subject}", subject.vni());
        for notice in notices {
            match notice {
                Notice::Frozen(subject) => {
                    let found = self.hosts.duplicates().find(|d| d.subject == *subject);
                    let reason = found.map(|d| show::reason(&d)).unwrap_or_default();
                    self.brain.events().emit("duplicate", object(subject), reason);
                }
                Notice::Thawed(subject) => {
                    self.brain.events().emit("duplicate", object(subject), "free again, by time");
                }
                Notice::Pinned(subject, vtep) => {
                    let message = format!("learnt here, pinned by gateway {vtep}: not advertised");
                    self.brain.events().emit("pinned", object(subject), message);
                }
                Notice::PinnedTwice(subject, vtep) => {
                    let message = format!("pinned here and by gateway {vtep}");
                    self.brain.events().emit("pinned", object(subject), message);
                }
            }
        }
    }

    /// An event for each table of the datapath that has become full, whoever fills it, or has room again.
    pub(super) fn tell_full_tables(&mut self) {
        if !self.fill.is_due() {
            return;
        }
        let (levels, cost) = timed(|| self.maps.fill_levels());
        self.fill.done(cost);
        for level in levels.unwrap_or_default() {
            let (table, limit) = (level.map, level.limit);
            let is_full = level.entries >= limit;
            if is_full && self.full.insert(table) {
                let message = format!("table {table} is full: its limit is {limit} entries");
                self.brain.events().emit("table-full", "datapath", message);
            } else if !is_full && self.full.remove(table) {
                self.brain.events().emit("recovered", "datapath", format!("table {table} has room again"));
            }
        }
    }

    /// What was learnt, for one who asks.
    pub(super) async fn facts(&self) -> Value {
        let shown = show::Shown {
            desired: &self.desired,
            seen: self.local.seen(),
            maps: &self.maps,
            imported: &self.imported,
            best: &self.best,
            hosts: &self.hosts,
        };
        let mut facts = show::facts(&shown);
        let brief = self.brief().await;
        if let (Some(facts), Value::Object(brief)) = (facts.as_object_mut(), brief) {
            facts.extend(brief.into_iter().filter(|(part, _)| part != "objects"));
        }
        facts
    }

    /// Pins up what is small.
    pub(super) async fn pin_up(&self) {
        self.board.write(self.brief().await);
    }

    async fn brief(&self) -> Value {
        let now = watari_bgp::Instant::from_millis(boot_time_ns() / 1_000_000);
        let mut brief = show::brief(&self.hosts, now);
        brief["announced"] = json!(self.announced);
        let awaits = !self.awaiting.is_empty();
        show::bgp(&mut brief, &self.bgp, (&self.numbers, &self.peers), self.is_restart, awaits).await;
        for (path, reason) in self.passwords.failed() {
            // One that has its old password may be up; what is wrong is said all the same.
            if brief["objects"][path].is_null() {
                brief["objects"][path] = json!({ "state": "down" });
            }
            brief["objects"][path]["reason"] = json!(reason);
        }
        brief
    }
}

/// What the tables should hold, of parts of the task that are borrowed one by one.
fn wanted<'a>(
    imported: &'a super::import::Imported,
    hosts: &'a super::hosts::Hosts,
    campus: &'a std::collections::BTreeSet<super::import::TenantPrefix>,
    kept: &'a Kept,
) -> Wanted<'a> {
    Wanted { imported, hosts, campus, kept }
}
