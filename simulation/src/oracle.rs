//! What must hold, judged from outside the nodes.

use crate::{
    truth::{Reference, Roles, Truth, setting_body},
    workload::{Place, body_of, setting_name},
};
use larder_node::catalog::{Catalog, CatalogError, Digest, Snapshot, Summary};
use larder_protocol::{
    id::DeviceId,
    log::{Author, Gap, SealedBatch, VersionVector},
    time::Timestamp,
};
use std::collections::BTreeMap;

/// Something that must never happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken(pub String);

/// What is wrong, or why it could not be looked at.
#[derive(Debug)]
pub(crate) enum Trouble {
    Broken(Broken),
    Catalog(CatalogError),
}

impl From<Broken> for Trouble {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

impl From<CatalogError> for Trouble {
    fn from(error: CatalogError) -> Self {
        Self::Catalog(error)
    }
}

/// What one look at a catalog showed.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) summary: Summary,
    pub(crate) digest: Digest,
    /// Equal ones must give equal digests.
    key: Vec<u8>,
}

impl View {
    /// Looks at a catalog.
    pub(crate) fn of(catalog: &Catalog, truth: &Truth, roles: u64) -> Result<Self, Trouble> {
        let read = catalog.read()?;
        let (summary, digest) = (read.summary()?, read.digest()?);
        let mut key = summary.vector.hash().to_vec();
        key.extend(roles.to_le_bytes());
        key.extend(format!("{:?}{:?}", summary.held, summary.waiting).into_bytes());
        let mut view = Self { summary, digest, key };
        let mut tails = Vec::new();
        for author in view.authors() {
            let stored = view.stored(author);
            // Who signed two histories may have given each of two nodes another one of the same length.
            if truth.is_forked(author)
                && let Some(last) = stored.checked_sub(1)
            {
                let (tail, _) = read.load(&Gap { author: *author, from: last, until: stored }, 1)?;
                tail.iter().for_each(|batch| tails.extend(crate::truth::name(batch)));
            }
        }
        view.key.extend(tails);
        Ok(view)
    }

    /// Operations of an author that are here.
    pub(crate) fn stored(&self, author: &Author) -> u64 {
        self.summary.held.get(author).map_or_else(|| self.summary.vector.get(author), |held| held.end)
    }

    /// All authors of whom anything is here.
    pub(crate) fn authors(&self) -> impl Iterator<Item = &Author> {
        let held = self.summary.held.keys().filter(|author| self.summary.vector.get(author) == 0);
        self.summary.vector.iter().map(|(author, _)| author).chain(held)
    }
}

/// An acknowledged operation survives whatever happens to its node.
pub(crate) fn nothing_acknowledged_is_lost(node: usize, view: &View, own: &Author, count: u64) -> Result<(), Broken> {
    let kept = view.stored(own);
    if kept < count {
        return Err(Broken(format!("node {node} acknowledged {count} operations of {own} and kept {kept}")));
    }
    Ok(())
}

/// No node knows of operations that their author has not made.
pub(crate) fn nothing_is_invented(node: usize, view: &View, truth: &Truth) -> Result<(), Broken> {
    for author in view.authors() {
        let (stored, signed) = (view.stored(author).max(view.summary.vector.get(author)), truth.end(author));
        if stored > signed {
            return Err(Broken(format!("node {node} has {stored} operations of {author}, who made {signed}")));
        }
    }
    Ok(())
}

/// The vector accounts for foreign operations only up to what the ends of sessions vouched for.
pub(crate) fn only_sessions_account(
    node: usize,
    view: &View,
    device: &DeviceId,
    vouched: &VersionVector,
) -> Result<(), Broken> {
    for (author, count) in view.summary.vector.iter().filter(|(author, _)| author.device != *device) {
        if *count > vouched.get(author) {
            return Err(Broken(format!(
                "node {node} accounts for {count} operations of {author}, sessions vouched for {}",
                vouched.get(author)
            )));
        }
    }
    Ok(())
}

/// What is from the future waits; by the latest that the node's clock has ever shown.
pub(crate) fn the_future_waits(
    node: usize,
    view: &View,
    device: &DeviceId,
    truth: &Truth,
    wall_max: Timestamp,
) -> Result<(), Broken> {
    for author in view.authors().filter(|author| author.device != *device && !truth.is_forked(author)) {
        let stored = view.stored(author);
        let merged = stored - view.summary.waiting.get(author).copied().unwrap_or(0).min(stored);
        if let Some(future) = truth.first_future(author, stored, wall_max)
            && merged > future
        {
            return Err(Broken(format!("node {node} merged operation {future} of {author}, which is from the future")));
        }
    }
    Ok(())
}

/// Equal vectors with equal things held and waiting give equal digests.
pub(crate) fn equal_vectors_give_equal_digests(a: (usize, &View), b: (usize, &View)) -> Result<(), Broken> {
    if a.1.key == b.1.key && a.1.digest != b.1.digest {
        return Err(Broken(format!("nodes {} and {} have equal vectors and different digests", a.0, b.0)));
    }
    Ok(())
}

/// Reads a whole log.
pub(crate) fn log_of(read: &Snapshot, author: &Author, stored: u64) -> Result<Vec<SealedBatch>, CatalogError> {
    if stored == 0 {
        return Ok(Vec::new());
    }
    Ok(read.load(&Gap { author: *author, from: 0, until: stored }, usize::MAX)?.0)
}

/// Every log is an unbroken chain of what its author signed, and the rows are what the merge rules make of the logs.
pub(crate) fn rows_follow_from_logs(
    node: usize,
    catalog: &Catalog,
    view: &View,
    truth: &Truth,
    roles: &Roles,
    places: &[Place],
) -> Result<(), Trouble> {
    let read = catalog.read()?;
    let mut reference = Reference::default();
    for author in view.authors() {
        let stored = view.stored(author);
        let log = log_of(&read, author, stored)?;
        let chain = truth.chain(author, &log).map_err(|Broken(what)| Broken(format!("node {node}: {what}")))?;
        if chain.last().map_or(0, |last| last.batch.next_seq()) < stored {
            return Err(Broken(format!("node {node} counts {stored} operations of {author} and has fewer")).into());
        }
        let waiting = view.summary.waiting.get(author).copied().unwrap_or(0);
        reference.merge(&chain, stored.saturating_sub(waiting), roles);
    }
    for place in places {
        for path in Place::paths() {
            let shown = read.entry(&place.id, &path)?.as_ref().and_then(body_of);
            if shown.as_deref() != reference.entry(place.id, &path) {
                return Err(Broken(format!(
                    "node {node} shows what does not follow from its logs: {} {path}",
                    place.id
                ))
                .into());
            }
        }
    }
    let name = setting_name();
    let shown = read.profile(name.as_str())?.and_then(|known| setting_body(&known.value));
    if shown.as_deref() != reference.setting(name.as_str()) {
        return Err(Broken(format!("node {node} shows a setting that does not follow from its logs")).into());
    }
    Ok(())
}

/// The operations of which honest nodes must come to agree: how many each has, and whether any are only held or wait.
pub(crate) fn settled(view: &View, truth: &Truth) -> Option<BTreeMap<Author, u64>> {
    let mine = |author: &&Author| !truth.is_forked(author);
    let unsettled = view.summary.held.keys().find(mine);
    if unsettled.is_some() {
        return None;
    }
    Some(
        view.summary
            .vector
            .iter()
            .filter(|(author, _)| mine(author))
            .map(|(author, count)| (*author, *count))
            .collect(),
    )
}
