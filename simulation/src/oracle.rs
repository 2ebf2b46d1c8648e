//! What must hold, judged from outside the nodes.

use crate::{
    truth::{Reference, Roles, Truth, header, setting_body},
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
    pub(crate) fn of(catalog: &Catalog, roles: u64) -> Result<Self, Trouble> {
        let read = catalog.read()?;
        let (summary, digest) = (read.summary()?, read.digest()?);
        let mut key = summary.vector.hash().to_vec();
        key.extend(roles.to_le_bytes());
        // Who signed two histories may have given each of two nodes another one of the same length.
        key.extend(format!("{:?}{:?}{:?}", summary.held, summary.waiting, summary.tips).into_bytes());
        Ok(Self { summary, digest, key })
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
pub(crate) fn nothing_acknowledged_is_lost(
    node: usize,
    view: &View,
    truth: &Truth,
    own: &Author,
    count: u64,
) -> Result<(), Broken> {
    // Of a log with several histories, the end is in one of them.
    let logs = view.authors().filter(|author| truth.signer(author) == *own);
    let kept = logs.map(|author| view.stored(author)).max().unwrap_or(0);
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
    truth: &Truth,
    device: &DeviceId,
    vouched: &VersionVector,
) -> Result<(), Broken> {
    for (author, count) in view.summary.vector.iter().filter(|(author, _)| author.device != *device) {
        // What was vouched for before anybody knew of a second history has another name now.
        let known = vouched.iter().filter(|(other, _)| truth.signer(other) == truth.signer(author));
        let vouched = known.map(|(_, count)| *count).max().unwrap_or(0);
        if *count > vouched {
            return Err(Broken(format!(
                "node {node} accounts for {count} operations of {author}, sessions vouched for {vouched}"
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
    let (mut log, mut from) = (Vec::new(), 0);
    while from < stored {
        let (mut batches, next) = read.load(&Gap { author: *author, from, until: stored }, usize::MAX)?;
        if next <= from {
            break;
        }
        // Checkpoints that stand ahead of their place.
        let first = |sealed: &SealedBatch| header(sealed).map_or(0, |header| header.first_seq);
        let ahead = batches.windows(2).filter(|pair| first(&pair[0]) > first(&pair[1])).count();
        log.extend(batches.split_off(ahead));
        from = next;
    }
    Ok(log)
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
    let ends: BTreeMap<Author, (u64, [u8; 32])> =
        view.summary.tips.iter().map(|(author, tip)| (*author, (view.stored(author), *tip))).collect();
    let (mut logs, mut lineages, mut chains) = (Vec::new(), BTreeMap::new(), Vec::new());
    for author in view.authors() {
        let log = log_of(&read, author, view.stored(author))?;
        let first = log.first().and_then(|sealed| truth.get(sealed)).map_or(0, |known| known.batch.first_seq);
        logs.push((first, author.is_split(), *author, log));
    }
    // What histories go on from is merged before them.
    logs.sort_by_key(|(first, split, author, _)| (*first, *split, *author));
    for (_, _, author, log) in &logs {
        let stored = view.stored(author);
        let chain = truth.chain(author, log, &ends);
        let (chain, parent) = chain.map_err(|Broken(what)| Broken(format!("node {node}: {what}")))?;
        if !log.is_empty() && chain.last().map_or(0, |last| last.0.batch.next_seq()) < stored {
            return Err(Broken(format!("node {node} counts {stored} operations of {author} and has fewer")).into());
        }
        let mut lineage = vec![*author];
        lineage.extend(parent.and_then(|parent| lineages.get(&parent)).into_iter().flatten().copied());
        reference.let_go(&lineage, &chain);
        lineages.insert(*author, lineage);
        chains.push((*author, parent, chain));
    }
    for (author, parent, chain) in chains {
        let accounted = view.summary.vector.get(&author);
        for (known, _) in chain.iter().filter(|(known, husk)| *husk && known.batch.first_seq < accounted) {
            if !reference.proves(&author, known) {
                let seq = known.batch.first_seq;
                return Err(Broken(format!(
                    "node {node} accounts for {author} at {seq}, of which it has only a header"
                ))
                .into());
            }
        }
        let waiting = view.summary.waiting.get(&author).copied().unwrap_or(0);
        reference.merge(author, parent, &chain, view.stored(&author).saturating_sub(waiting), roles);
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

/// How many operations of each log there are, and the hash of the last batch.
pub(crate) type Ends = BTreeMap<Author, (u64, Option<[u8; 32]>)>;

/// The operations of which honest nodes must come to agree: how many each has, and with what batch they end; nothing if
/// some are only held. What a device has signed twice may stay held: nobody but its author could vouch for it.
pub(crate) fn settled(view: &View, truth: &Truth) -> Option<Ends> {
    if view.summary.held.keys().any(|author| !truth.is_forked(author)) {
        return None;
    }
    let logs = view.authors().filter(|author| view.stored(author) > 0);
    Some(logs.map(|author| (*author, (view.stored(author), view.summary.tips.get(author).copied()))).collect())
}
