//! A member that turned on its group: it has a valid key and the log keys, and keeps to no rule.
//!
//! It runs the honest session machine over a store of its own, so that its lies reach deep into a session.

use crate::{
    faults::{Fault, Faults, Fired},
    rng::Rng,
    truth::{EPOCH, GROUP, LOG_KEY},
    workload::Place,
};
use larder_node::catalog::Identity;
use larder_protocol::{
    bounded::{Bytes, List},
    log::{Author, Batch, Gap, Op, Opened, SealedBatch, SignedBatch, VersionVector, batch_hash, genesis_hash},
    record::Record,
    sync::{Gossip, Input, Local},
    time::{Hlc, Timestamp},
};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone)]
struct Stored {
    first: u64,
    next: u64,
    chain: [u8; 32],
    sealed: SealedBatch,
}

type Log = Vec<Stored>;

/// The store of a hostile member.
#[derive(Debug)]
pub(crate) struct Hostile {
    identity: Identity,
    own: Author,
    logs: BTreeMap<Author, Log>,
    /// Its own log as one part of the group is shown it, once it has signed two.
    other: Option<Log>,
    clock: Hlc,
    place: Place,
}

fn end(log: &[Stored]) -> u64 {
    log.last().map_or(0, |last| last.next)
}

impl Hostile {
    pub(crate) fn new(identity: Identity, place: Place) -> Self {
        let own = Author { device: identity.device(), incarnation: 0 };
        Self { identity, own, logs: BTreeMap::new(), other: None, clock: Hlc::default(), place }
    }

    /// Its log.
    pub(crate) fn own(&self) -> Author {
        self.own
    }

    /// How much it has of a log.
    pub(crate) fn count(&self, author: &Author) -> u64 {
        self.logs.get(author).map_or(0, |log| end(log))
    }

    /// Says something; gives the news for the one and the other part of the group, and every batch that was signed.
    pub(crate) fn say(
        &mut self,
        faults: Faults,
        rng: &mut Rng,
        fired: &mut Fired,
        wall: Timestamp,
    ) -> [(Gossip, SealedBatch); 2] {
        let mut when = wall;
        if faults.has(Fault::FutureMember) && rng.chance(300) {
            when = wall.plus_millis(900_000 + rng.below(3_600_000) as i64);
            fired.note(Fault::FutureMember);
        }
        let records = |rng: &mut Rng, place: &Place| {
            let mut records = vec![place.announcement()];
            records.extend(place.entries(rng, when));
            records
        };
        let first = records(rng, &self.place);
        let forks = faults.has(Fault::Equivocate) && (self.other.is_some() || rng.chance(400));
        let news = |sealed: &Stored, own: Author| Gossip::of(own, sealed.first, sealed.next, &sealed.sealed);
        let log = self.logs.remove(&self.own).unwrap_or_default();
        let (mut one, mut two) = (log.clone(), self.other.take().unwrap_or(log));
        let said = self.sign(&one, first.clone(), when);
        one.push(said.clone());
        let told = if forks {
            fired.note(Fault::Equivocate);
            let second = records(rng, &self.place);
            let other = self.sign(&two, second, when);
            two.push(other.clone());
            self.other = Some(two);
            other
        } else {
            said.clone()
        };
        self.logs.insert(self.own, one);
        [(news(&said, self.own), said.sealed), (news(&told, self.own), told.sealed)]
    }

    fn sign(&mut self, log: &[Stored], records: Vec<Record>, when: Timestamp) -> Stored {
        let ops = records.iter().filter_map(|record| {
            let physical = Hlc::from_parts(u64::try_from(when.as_millis()).unwrap_or(0), 0);
            self.clock = physical.max(Hlc(self.clock.0 + 1));
            Some(Op { hlc: self.clock, kind: record.kind(), body: Bytes::new(record.encode().ok()?).ok()? })
        });
        let ops: Vec<Op> = ops.collect();
        let batch = Batch {
            group: GROUP,
            author: self.own,
            first_seq: end(log),
            previous: log.last().map_or_else(|| genesis_hash(&GROUP, &self.own), |last| last.chain),
            ops: List::truncated(ops),
        };
        let signed = SignedBatch::sign(&batch, &self.identity.signing).expect("a few small records fit a batch");
        let chain = batch_hash(&signed);
        let mut nonce = [0; 24];
        nonce.copy_from_slice(&chain[..24]);
        let sealed = signed.pack().expect("a few small records fit a batch").seal(EPOCH, &LOG_KEY, nonce);
        Stored { first: batch.first_seq, next: batch.next_seq(), chain, sealed }
    }

    /// Its log as this peer is shown it.
    fn shown(&self, author: &Author, peer: usize) -> &[Stored] {
        let log = self.logs.get(author).map_or(&[][..], Vec::as_slice);
        match &self.other {
            Some(other) if *author == self.own && peer % 2 == 1 => other,
            _ => log,
        }
    }

    /// What it claims to have, to this peer.
    pub(crate) fn local(
        &self,
        peer: usize,
        device: larder_protocol::id::DeviceId,
        faults: Faults,
        rng: &mut Rng,
        fired: &mut Fired,
    ) -> Local {
        let mut vector: VersionVector =
            self.logs.keys().map(|author| (*author, end(self.shown(author, peer)))).collect();
        if faults.has(Fault::Withhold) && rng.chance(400) {
            fired.note(Fault::Withhold);
            let authors: Vec<Author> = self.logs.keys().copied().filter(|author| author.device != device).collect();
            if !authors.is_empty() {
                let author = authors[rng.index(authors.len())];
                vector.advance(author, vector.get(&author) + 1 + rng.below(5));
            }
        }
        if faults.has(Fault::FalseClaim) && rng.chance(200) {
            fired.note(Fault::FalseClaim);
            let incarnation = rng.below(2) as u32 * (1 + rng.below(3) as u32);
            let author = Author { device, incarnation };
            vector.advance(author, vector.get(&author) + 1 + rng.below(5));
        }
        let tip = |author: &Author| Some((*author, self.shown(author, peer).last()?.chain));
        Local {
            group: GROUP,
            epoch: Some(EPOCH),
            tips: vector.iter().filter_map(|(author, _)| tip(author)).collect(),
            vector,
            held: BTreeMap::new(),
            membership: BTreeSet::new(),
            membership_hash: [0; 32],
        }
    }

    /// Gives batches of a gap; of what it only claims, something that the peer has already.
    pub(crate) fn load(&self, gap: &Gap, peer: usize, faults: Faults, rng: &mut Rng, fired: &mut Fired) -> Input {
        let log = self.shown(&gap.author, peer);
        let mut batches: Vec<SealedBatch> = log
            .iter()
            .filter(|stored| stored.next > gap.from && stored.first < gap.until)
            .map(|stored| stored.sealed.clone())
            .collect();
        if faults.has(Fault::Strip) && !batches.is_empty() && rng.chance(150) {
            let at = rng.index(batches.len());
            if let Ok(signed) = batches[at].open_whole(&LOG_KEY) {
                fired.note(Fault::Strip);
                let mut nonce = [0; 24];
                nonce.copy_from_slice(&blake3::hash(&signed.header.bytes).as_bytes()[..24]);
                batches[at] = signed.header.pack().seal(EPOCH, &LOG_KEY, nonce);
            }
        }
        match (batches.is_empty(), self.logs.values().find_map(|log| log.first())) {
            (true, Some(old)) => Input::Loaded { batches: vec![old.sealed.clone()], next_seq: gap.until },
            (true, None) => Input::Loaded { batches, next_seq: gap.from },
            (false, _) => Input::Loaded { batches, next_seq: gap.until },
        }
    }

    /// Takes what others say, so that it can pass it on, or not.
    pub(crate) fn take(&mut self, batches: &[SealedBatch]) {
        for sealed in batches {
            let Ok(opened) = sealed.open(&LOG_KEY) else { continue };
            let header = match opened {
                Opened::Whole(signed) => signed.header,
                Opened::Husk(header) => header,
            };
            let (chain, Ok(header)) = (header.hash(), header.verify(&GROUP)) else { continue };
            let log = self.logs.entry(header.author).or_default();
            if header.author != self.own && end(log) == header.first_seq {
                log.push(Stored { first: header.first_seq, next: header.next_seq(), chain, sealed: sealed.clone() });
            }
        }
    }

    /// Announcements of nothing.
    pub(crate) fn flood(&self, rng: &mut Rng) -> Vec<Gossip> {
        let authors: Vec<Author> = self.logs.keys().copied().collect();
        (0..8)
            .map(|_| {
                let author = if authors.is_empty() { self.own } else { authors[rng.index(authors.len())] };
                Gossip::Head { author, next_seq: 1 + rng.below(1 << 41) }
            })
            .collect()
    }
}

/// Changes a few bytes.
pub(crate) fn spoil(bytes: &mut Vec<u8>, rng: &mut Rng) {
    match rng.below(4) {
        0 => bytes.truncate(rng.index(bytes.len().max(1))),
        1 => bytes.push(rng.next() as u8),
        _ => {
            let at = rng.index(bytes.len().max(1));
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << rng.below(8);
            }
        }
    }
}
