//! Statements and batches, true ones and forged ones.

use crate::peer::Peer;
use anyhow::{Context, Result};
use larder_protocol::{
    bounded::{Bytes, List, Text},
    codec,
    id::{ContentId, EpochId, LocationId},
    log::{Author, Batch, Op, SealedBatch, SignedBatch, VersionVector, batch_hash, genesis_hash},
    membership::{MembershipOp, SignedOp},
    path::RelPath,
    record::{Device, Entry, EntryValue, File, Location, Record, Storage},
    time::{Hlc, Timestamp},
};
use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// The clock reading that an honest device would take now.
pub fn reading() -> Hlc {
    Hlc::from_parts(u64::try_from(now().as_millis()).unwrap_or(0), 0)
}

/// A statement as an operation.
pub fn op(record: &Record, hlc: Hlc) -> Result<Op> {
    Ok(Op { hlc, kind: record.kind(), body: Bytes::new(record.encode()?)? })
}

/// An operation of any kind with any bytes.
pub fn junk(kind: u16, len: usize) -> Result<Op> {
    let mut body = vec![0; len];
    blake3::Hasher::new().update(&larder_node::keys::random::<16>()).finalize_xof().fill(&mut body);
    Ok(Op { hlc: reading(), kind, body: Bytes::new(body)? })
}

/// The batch that begins a log.
pub fn first(peer: &Peer, author: Author, ops: Vec<Op>) -> Batch {
    let previous = genesis_hash(&peer.group, &author);
    Batch { group: peer.group, author, first_seq: 0, previous, ops: List::truncated(ops) }
}

/// Signs with the hostile device's key, whoever the author is said to be.
pub fn sign(peer: &Peer, batch: &Batch) -> Result<SignedBatch> {
    Ok(SignedBatch::sign(batch, peer.keys.signing())?)
}

/// Seals under the current epoch as this device knows it.
pub fn seal(peer: &Peer, signed: &SignedBatch) -> Result<SealedBatch> {
    let (epoch, secret) = peer.ring.as_ref().context("a stranger holds no key")?.current();
    Ok(signed.pack()?.seal(epoch, &secret.log_key(), larder_node::keys::random()))
}

/// Seals under a name and a key of the attack's choice.
pub fn seal_as(signed: &SignedBatch, epoch: EpochId, key: &[u8; 32]) -> Result<SealedBatch> {
    Ok(signed.pack()?.seal(epoch, key, larder_node::keys::random()))
}

/// Consecutive batches of a new log, and how much of it they are.
pub fn log(peer: &Peer, batches: Vec<Vec<Op>>) -> Result<(VersionVector, Vec<SealedBatch>)> {
    let author = peer.fresh_author();
    let (mut next, mut previous, mut sealed) = (0, genesis_hash(&peer.group, &author), Vec::new());
    for ops in batches {
        let batch = Batch { first_seq: next, previous, ..first(peer, author, ops) };
        let signed = sign(peer, &batch)?;
        (next, previous) = (batch.next_seq(), batch_hash(&signed));
        sealed.push(seal(peer, &signed)?);
    }
    Ok((VersionVector::from_iter([(author, next)]), sealed))
}

/// A location of this device.
pub fn location(name: &str) -> (LocationId, Record) {
    let id = LocationId::new(larder_node::keys::random());
    let text = |text: &str| Text::new(text).unwrap_or_default();
    let location = Location {
        id,
        name: text(name),
        mount_epoch: 1,
        storage: Storage::Local,
        profile: text("raw"),
        purposes: List::default(),
        read_only: false,
        trust_store: true,
        settings: List::default(),
        removed: false,
    };
    (id, location.into())
}

/// What a device says of where it is.
pub fn device(name: &str, data: &[String]) -> Record {
    let texts = data.iter().filter_map(|text| Text::new(text.clone()).ok());
    Device { name: Text::new(name).unwrap_or_default(), control: List::default(), data: List::truncated(texts) }.into()
}

/// An entry that says that a file is there.
pub fn entry(location: LocationId, path: &str, content: ContentId, size: u64) -> Result<Record> {
    let file = File { content, size, modified: now(), verified: now() };
    Ok(Entry { location, mount_epoch: 1, path: RelPath::new(path)?, value: EntryValue::File(file) }.into())
}

/// A membership operation of this device, allowed or not.
pub fn membership(peer: &Peer, seq: u64, kind: u16, body: &impl codec::Wire) -> Result<SignedOp> {
    let log = peer.log.as_ref().context("a stranger has no membership log")?;
    let op = MembershipOp {
        group: Some(peer.group),
        author: peer.keys.device(),
        seq,
        previous: List::truncated(log.heads()),
        kind,
        body: Bytes::new(codec::encode(body)?)?,
    };
    Ok(SignedOp::sign(&op, peer.keys.signing())?)
}
