//! What was really said: every batch that was ever signed, kept outside the nodes.

use crate::oracle::Broken;
use larder_protocol::{
    codec,
    id::{DeviceId, EpochId, GroupId, LocationId},
    log::{Author, Batch, Header, Opened, SealedBatch, batch_hash, genesis_hash},
    path::RelPath,
    record::{Checkpoint, Dead, Record, Stamp, lasts},
    time::{FUTURE_MS_MAX, Timestamp},
};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) const GROUP: GroupId = GroupId::new([1; 32]);
pub(crate) const EPOCH: EpochId = EpochId::new([2; 16]);
pub(crate) const LOG_KEY: [u8; 32] = [3; 32];
/// Kind of an entry.
pub(crate) const ENTRY: u16 = 5;
const PROFILE: u16 = 3;
const CHECKPOINT: u16 = 11;

/// A batch as it was signed.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) batch: Batch,
    pub(crate) chain: [u8; 32],
}

/// The batches of a log, and whether each is only a husk.
pub(crate) type Chain<'a> = Vec<(&'a Known, bool)>;

/// Name of a sealed batch; the same batch seals to the same bytes.
pub(crate) fn name(sealed: &SealedBatch) -> [u8; 32] {
    *blake3::hash(&sealed.sealed).as_bytes()
}

/// The checkpoint that a batch is.
fn checkpoint_in(batch: &Batch) -> Option<Checkpoint> {
    let [op] = &batch.ops[..] else { return None };
    let checkpoint = (op.kind == CHECKPOINT).then(|| codec::decode::<Checkpoint>(&op.body).ok()).flatten()?;
    (checkpoint.end() <= batch.first_seq).then_some(checkpoint)
}

/// The header of a batch or husk.
pub(crate) fn header(sealed: &SealedBatch) -> Option<Header> {
    match sealed.open(&LOG_KEY).ok()? {
        Opened::Whole(signed) => signed.header.decode().ok(),
        Opened::Husk(header) => header.decode().ok(),
    }
}

/// Who was made a reader: from which operation on entries of a device are refused.
#[derive(Debug, Clone, Default)]
pub(crate) struct Roles {
    /// How often roles have changed.
    pub(crate) version: u64,
    pub(crate) readers: BTreeMap<DeviceId, u64>,
}

impl larder_node::catalog::Permits for Roles {
    fn is_member(&self, _: &Author) -> bool {
        true
    }

    fn permits(&self, author: &Author, seq: u64, kind: u16) -> bool {
        kind != ENTRY || self.readers.get(&author.device).is_none_or(|cut| author.incarnation == 0 && seq < *cut)
    }

    fn version(&self) -> [u8; 32] {
        let mut version = [0; 32];
        version[..8].copy_from_slice(&self.version.to_le_bytes());
        version
    }
}

/// All that was signed.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    batches: BTreeMap<[u8; 32], Known>,
    /// By their hash, which husks have too.
    by_hash: BTreeMap<[u8; 32], [u8; 32]>,
    /// The first batch that was signed for a place of a log.
    places: BTreeMap<(Author, u64), (u64, [u8; 32])>,
    /// The greatest count that was ever signed, or may have been when the power went.
    ends: BTreeMap<Author, u64>,
    /// Readings far ahead of true time, by place.
    ahead: BTreeMap<Author, BTreeMap<u64, u64>>,
    forked: BTreeSet<Author>,
    /// Under which name each batch would begin a split history, and who signed it.
    names: BTreeMap<Author, Author>,
    /// Batches whose place another one had taken.
    others: BTreeSet<[u8; 32]>,
    /// What checkpoints of each author let go.
    let_go: BTreeMap<Author, Dead>,
    /// The greatest reading of all.
    latest_ms: u64,
}

impl Truth {
    /// An author may sign up to this count.
    pub(crate) fn attempt(&mut self, author: Author, count: u64) {
        let end = self.ends.entry(author).or_default();
        *end = (*end).max(count);
    }

    /// Notes a batch that nobody else can have seen yet, and that may be withdrawn.
    pub(crate) fn learn_unsaid(&mut self, sealed: &SealedBatch) -> Result<(), Broken> {
        let signed = sealed.open_whole(&LOG_KEY).map_err(|error| Broken(error.to_string()))?;
        let batch = signed.verify(&GROUP).map_err(|error| Broken(error.to_string()))?;
        self.attempt(batch.author, batch.next_seq());
        let chain = batch_hash(&signed);
        self.by_hash.insert(chain, name(sealed));
        self.names.insert(Author::split(batch.author.device, &chain), batch.author);
        self.batches.entry(name(sealed)).or_insert(Known { chain, batch });
        Ok(())
    }

    /// Whether a batch has a place in its log, or may not have one.
    pub(crate) fn is_said(&self, sealed: &SealedBatch) -> bool {
        let name = name(sealed);
        let place = |known: &Known| self.places.get(&(known.batch.author, known.batch.first_seq));
        let other = |known: &Known| self.others.contains(&name) || place(known).is_some_and(|(_, it)| *it == name);
        self.batches.get(&name).is_some_and(other)
    }

    /// Notes a batch that others may see; gives whether it is new.
    pub(crate) fn learn(&mut self, sealed: &SealedBatch, true_now: Timestamp) -> Result<bool, Broken> {
        let name = name(sealed);
        if self.is_said(sealed) {
            return Ok(false);
        }
        let signed = sealed.open_whole(&LOG_KEY).map_err(|error| Broken(error.to_string()))?;
        let batch = signed.verify(&GROUP).map_err(|error| Broken(error.to_string()))?;
        let (author, first, next) = (batch.author, batch.first_seq, batch.next_seq());
        let before = self.places.range(..=(author, first)).next_back();
        let overlaps = before.is_some_and(|((other, _), (end, _))| *other == author && *end > first)
            || self.places.range((author, first)..(author, next)).next().is_some();
        if overlaps {
            self.forked.insert(author);
            self.others.insert(name);
        } else {
            self.places.insert((author, first), (next, name));
        }
        self.attempt(author, next);
        if let Some(checkpoint) = checkpoint_in(&batch) {
            self.let_go.entry(author).or_default().add(&checkpoint);
        }
        let soon_ms = u64::try_from(true_now.as_millis()).unwrap_or(0) + FUTURE_MS_MAX / 2;
        for (seq, op) in (first..).zip(batch.ops.iter()) {
            self.latest_ms = self.latest_ms.max(op.hlc.millis());
            if op.hlc.millis() > soon_ms {
                self.ahead.entry(author).or_default().insert(seq, op.hlc.millis());
            }
        }
        let chain = batch_hash(&signed);
        self.by_hash.insert(chain, name);
        self.names.insert(Author::split(batch.author.device, &chain), batch.author);
        self.batches.insert(name, Known { chain, batch });
        Ok(true)
    }

    /// Every place of a log that was taken: whose, and the number after it.
    pub(crate) fn places(&self) -> impl Iterator<Item = (Author, u64)> {
        self.places.iter().map(|((author, _), (next, _))| (*author, *next))
    }

    /// Forgets batches that nobody has any longer, so that their places may be used again; gives what they said.
    pub(crate) fn lose(&mut self, kept: impl Fn(&Author, u64) -> bool) -> BTreeSet<Vec<u8>> {
        let gone: Vec<(Author, u64)> =
            self.places.iter().filter(|((author, _), (next, _))| !kept(author, *next)).map(|(key, _)| *key).collect();
        let mut said = BTreeSet::new();
        for key in gone {
            if let Some((_, name)) = self.places.remove(&key)
                && let Some(known) = self.batches.get(&name)
            {
                said.extend(known.batch.ops.iter().map(|op| op.body.to_vec()));
            }
        }
        said
    }

    pub(crate) fn end(&self, author: &Author) -> u64 {
        self.ends.get(&self.signer(author)).copied().unwrap_or(0)
    }

    /// Who signed the batches of a log, which may be one of several histories.
    pub(crate) fn signer(&self, author: &Author) -> Author {
        self.names.get(author).copied().unwrap_or(*author)
    }

    pub(crate) fn is_forked(&self, author: &Author) -> bool {
        self.forked.contains(&self.signer(author))
    }

    /// The logs with two histories, for messages.
    pub(crate) fn forked_names(&self) -> String {
        self.forked.iter().map(Author::to_string).collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn forks(&self) -> usize {
        self.forked.len()
    }

    /// Whether any log of a device has two histories.
    pub(crate) fn is_device_forked(&self, device: &DeviceId) -> bool {
        self.forked.iter().any(|author| author.device == *device)
    }

    /// Marks a log of which nothing is demanded any longer.
    pub(crate) fn give_up(&mut self, author: Author) {
        self.forked.insert(author);
    }

    pub(crate) fn latest_ms(&self) -> u64 {
        self.latest_ms
    }

    /// The first operation below `stored` that is from the future at a wall clock.
    pub(crate) fn first_future(&self, author: &Author, stored: u64, wall: Timestamp) -> Option<u64> {
        let limit = u64::try_from(wall.as_millis()).unwrap_or(0) + FUTURE_MS_MAX;
        let signer = self.signer(author);
        // What its author let go says nothing, and does not wait either where only its header is.
        let counts = |seq: u64| self.let_go.get(&signer).is_none_or(|dead| !dead.contains(seq));
        let ahead = self.ahead.get(&signer)?;
        ahead.range(..stored).find(|(seq, ms)| **ms > limit && counts(**seq)).map(|(seq, _)| *seq)
    }

    /// A batch that was signed, also of its husk.
    pub(crate) fn get(&self, sealed: &SealedBatch) -> Option<&Known> {
        let known = self.batches.get(&name(sealed));
        known.or_else(|| match sealed.open(&LOG_KEY).ok()? {
            Opened::Husk(header) => self.batches.get(self.by_hash.get(&header.hash())?),
            Opened::Whole(_) => None,
        })
    }

    /// Whether only the header of a batch is left.
    pub(crate) fn is_husk(&self, sealed: &SealedBatch) -> bool {
        !self.batches.contains_key(&name(sealed)) && matches!(sealed.open(&LOG_KEY), Ok(Opened::Husk(_)))
    }

    /// Checks that a log is an unbroken chain of batches that were signed, and that one of several histories goes on from
    /// one of the `others`; gives its batches and whether they are husks, and which of the others.
    pub(crate) fn chain(
        &self,
        author: &Author,
        log: &[SealedBatch],
        others: &BTreeMap<Author, (u64, [u8; 32])>,
    ) -> Result<(Chain<'_>, Option<Author>), Broken> {
        let signer = self.signer(author);
        let (mut seq, mut previous, mut chain) = (0, genesis_hash(&GROUP, &signer), Vec::new());
        let mut parent = None;
        if author.is_split()
            && let Some(first) = log.first().and_then(|sealed| self.get(sealed))
        {
            (seq, previous) = (first.batch.first_seq, first.batch.previous);
            if seq > 0 || previous != genesis_hash(&GROUP, &signer) {
                let found = others
                    .iter()
                    .find(|(other, end)| self.signer(other) == signer && *other != author && **end == (seq, previous));
                let (found, _) =
                    found.ok_or_else(|| Broken(format!("{author}: a history at {seq} that goes on from nothing")))?;
                parent = Some(*found);
            }
        }
        for sealed in log {
            let known =
                self.get(sealed).ok_or_else(|| Broken(format!("{author}: a batch at {seq} that nobody signed")))?;
            if known.batch.author != signer || known.batch.first_seq != seq || known.batch.previous != previous {
                return Err(Broken(format!("{author}: the batch at {seq} does not continue the log")));
            }
            (seq, previous) = (known.batch.next_seq(), known.chain);
            chain.push((known, self.is_husk(sealed)));
        }
        Ok((chain, parent))
    }
}

/// What a catalog must show: the merge rules of `record`, said once more in the plainest way.
#[derive(Debug, Default)]
pub(crate) struct Reference {
    entries: BTreeMap<(LocationId, RelPath), (u64, Stamp, Vec<u8>)>,
    announced: BTreeMap<(Author, LocationId), u64>,
    settings: BTreeMap<Vec<u8>, (Stamp, Vec<u8>)>,
    /// What no longer counts of each log, as checkpoints of histories say that go on from it.
    dead: BTreeMap<Author, Dead>,
    /// The checkpoints of the same.
    checkpoints: BTreeMap<Author, Vec<Checkpoint>>,
}

impl Reference {
    /// Takes note of the checkpoints of a log; `lineage`: the log, and what it goes on from.
    pub(crate) fn let_go(&mut self, lineage: &[Author], log: &[(&Known, bool)]) {
        for checkpoint in log.iter().filter_map(|(known, _)| checkpoint_in(&known.batch)) {
            for author in lineage {
                self.dead.entry(*author).or_default().add(&checkpoint);
                self.checkpoints.entry(*author).or_default().push(checkpoint.clone());
            }
        }
    }

    /// Whether a checkpoint lets a whole batch go.
    pub(crate) fn proves(&self, author: &Author, known: &Known) -> bool {
        let covers = |it: &Checkpoint| it.covers(known.batch.first_seq, known.batch.next_seq());
        self.checkpoints.get(author).is_some_and(|all| all.iter().any(covers))
    }

    /// Merges the first operations of a log, up to `merged`; those of one of several histories after what it goes on
    /// from.
    pub(crate) fn merge(
        &mut self,
        author: Author,
        parent: Option<Author>,
        log: &[(&Known, bool)],
        merged: u64,
        roles: &Roles,
    ) {
        let inherited = self.announced.iter().filter(|((other, _), _)| Some(*other) == parent);
        let inherited: Vec<_> = inherited.map(|((_, location), epoch)| ((author, *location), *epoch)).collect();
        self.announced.extend(inherited);
        for (known, _) in log.iter().filter(|(_, husk)| !husk) {
            for (seq, op) in (known.batch.first_seq..).zip(known.batch.ops.iter()).filter(|(seq, _)| *seq < merged) {
                if !lasts(op.kind) && self.dead.get(&author).is_some_and(|dead| dead.contains(seq)) {
                    continue;
                }
                if !larder_node::catalog::Permits::permits(roles, &author, seq, op.kind) {
                    continue;
                }
                let stamp = Stamp { hlc: op.hlc, author, seq };
                match Record::decode(op.kind, &op.body) {
                    Ok(Some(Record::Location(location))) => {
                        let epoch = self.announced.entry((author, location.id)).or_insert(location.mount_epoch);
                        *epoch = (*epoch).max(location.mount_epoch);
                    }
                    Ok(Some(Record::Entry(entry))) => {
                        let announced = self.announced.get(&(author, entry.location));
                        if announced.is_none_or(|epoch| *epoch < entry.mount_epoch) {
                            continue;
                        }
                        let key = (entry.location, entry.path.clone());
                        let said = (entry.mount_epoch, stamp, op.body.to_vec());
                        let stands = self.entries.entry(key).or_insert_with(|| said.clone());
                        if (stands.0, stands.1) < (said.0, said.1) {
                            *stands = said;
                        }
                    }
                    Ok(Some(Record::Profile(profile))) => {
                        let said = (stamp, op.body.to_vec());
                        let name = profile.name.as_bytes().to_vec();
                        let stands = self.settings.entry(name).or_insert_with(|| said.clone());
                        if stands.0 < said.0 {
                            *stands = said;
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    /// What stands under a path.
    pub(crate) fn entry(&self, location: LocationId, path: &RelPath) -> Option<&[u8]> {
        self.entries.get(&(location, path.clone())).map(|(_, _, body)| body.as_slice())
    }

    /// What stands under the name of a setting.
    pub(crate) fn setting(&self, name: &str) -> Option<&[u8]> {
        self.settings.get(name.as_bytes()).map(|(_, body)| body.as_slice())
    }
}

/// A setting as its author encoded it.
pub(crate) fn setting_body(profile: &larder_protocol::record::Profile) -> Option<Vec<u8>> {
    debug_assert_eq!(Record::from(profile.clone()).kind(), PROFILE);
    codec::encode(profile).ok()
}
