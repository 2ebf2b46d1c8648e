//! Objects are taken away while others store them.

use super::{
    gateways::neighbours,
    recovery::LOCATION,
    sealing,
    turns::{InTurn, Turn, Work, now, run_in_turns},
};
use crate::storage::{
    memory::MemoryProvider,
    withdrawal::{Orphans, Settled, Vigil, live_objects, withdraw},
    *,
};
use bytes::Bytes;
use ed25519_dalek::SigningKey;
use larder_protocol::{
    bounded::List,
    id::{ChunkId, ContentId, DeviceId, PlainChunkId},
    path::RelPath,
    seal::{Manifest, ManifestChunk, SnapshotEntry, chunk_id},
    time::Timestamp,
};
use proptest::prelude::*;
use std::{cell::RefCell, collections::BTreeSet, pin::pin, sync::Arc, task::Context};

const CUSTODIAN: DeviceId = DeviceId::new([1; 32]);

fn chunk(number: u8) -> (ChunkId, Bytes) {
    let bytes = Bytes::from(vec![number; 100]);
    (chunk_id(&bytes), bytes)
}

/// Stores a content of some chunks as gateways do: looks, puts what is not there, names it, and makes sure.
async fn store(provider: &dyn StorageProvider, by: u8, path: &RelPath, number: u8, chunks: &[u8]) -> Vec<ChunkId> {
    let sealing = Sealing { signing: SigningKey::from_bytes(&[by; 32]), ..sealing() };
    let content = ContentId::new([number; 32]);
    loop {
        let vigil = Vigil::begin(provider).await.unwrap();
        for (id, bytes) in chunks.iter().map(|number| chunk(*number)) {
            if provider.stat(&object_key(&id)).await.unwrap().is_none() {
                provider.put(&object_key(&id), bytes, PutMode::IfAbsent).await.unwrap();
            }
        }
        let listed = chunks.iter().zip(0u64..).map(|(number, at)| ManifestChunk {
            offset: at * 100,
            length: 100,
            stored: 100,
            chunk: chunk(*number).0,
            plain: PlainChunkId::new([0; 32]),
        });
        let size = chunks.len() as u64 * 100;
        let manifest = Manifest { content, size, epoch: None, chunks: List::truncated(listed) };
        let object = Bytes::from(manifest.close(&sealing.signing, None, [number; 24]).unwrap());
        let id = chunk_id(&object);
        provider.put(&object_key(&id), object, PutMode::IfAbsent).await.unwrap();
        let entry = SnapshotEntry { path: path.clone(), content, size, modified: Timestamp(0), manifest: id };
        write_snapshot(provider, &sealing, LOCATION, vec![entry]).await.unwrap();
        loop {
            match vigil.settled(provider, &sealing.ring, &id).await.unwrap() {
                Settled::Sure => return chunks.iter().map(|number| chunk(*number).0).chain([id]).collect(),
                Settled::Gone => break,
                Settled::Wait => Turn::default().await,
            }
        }
    }
}

async fn sweep(provider: &dyn StorageProvider, rounds: usize) -> usize {
    let ring = sealing().ring;
    let mut taken = 0;
    for _ in 0..rounds {
        let there = list_all(provider, "objects/").await.unwrap();
        // A manifest that is named and not there yet is a reason to take nothing this time.
        let Ok(live) = live_objects(provider, &ring, BTreeSet::new()).await else { continue };
        let orphans = there.iter().filter_map(|listed| listed.key.content_named()).filter(|id| !live.contains(id));
        let orphans = orphans.collect();
        let again = || live_objects(provider, &ring, BTreeSet::new());
        taken += withdraw(provider, &CUSTODIAN, Timestamp(0), orphans, again).await.unwrap_or(0);
    }
    taken
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// A custodian that takes away whatever nothing refers to, without any grace and without a catalog, and two gateways that
    /// store contents of shared chunks, which an aborted put had left, and name them on one page of the snapshot; whoever's
    /// turn it is, and whoever crashes and goes on with its next content: what was stored in the end is there.
    #[test]
    fn what_a_gateway_has_named_is_never_lost(
        left in prop::collection::btree_set(0u8..6, 0..6),
        first in prop::collection::vec(prop::collection::vec(0u8..6, 1..4), 1..3),
        second in prop::collection::vec(prop::collection::vec(0u8..6, 1..4), 1..3),
        turns in prop::collection::vec((0usize..3, 0u8..96), 0..400),
    ) {
        let memory = Arc::new(MemoryProvider::default());
        for (id, bytes) in left.iter().map(|number| chunk(*number)) {
            now(memory.put(&object_key(&id), bytes, PutMode::IfAbsent)).unwrap();
        }
        let provider = InTurn(memory.clone());
        let paths: Vec<RelPath> = neighbours().take(4).collect();
        let named = RefCell::new(BTreeSet::new());
        let contents = [first, second];
        let work = |which: usize, next: usize| -> Work<'_> {
            let (provider, paths, contents, named) = (&provider, &paths, &contents, &named);
            Box::pin(async move {
                let Some(contents) = contents.get(which) else {
                    sweep(provider, 4).await;
                    return;
                };
                for (at, chunks) in contents.iter().enumerate().skip(next) {
                    let number = 100 + u8::try_from(2 * which + at).unwrap();
                    let objects = store(provider, 50 + which as u8, &paths[2 * which + at], number, chunks).await;
                    named.borrow_mut().extend(objects);
                }
            })
        };
        let crashes = run_in_turns(3, turns, work);
        // Alone again, the custodian takes whatever it would ever take.
        now(sweep(&*memory, 2));
        let there = now(list_all(&*memory, "objects/")).unwrap();
        let there: BTreeSet<ChunkId> = there.iter().filter_map(|listed| listed.key.content_named()).collect();
        let named = named.into_inner();
        prop_assert!(named.is_subset(&there), "gone: {:?}", named.difference(&there).collect::<Vec<_>>());
        // What a crash left named is more than was told.
        prop_assert!(crashes > 0 || named == there, "left: {:?}", there.difference(&named).collect::<Vec<_>>());
    }
}

#[test]
fn a_round_that_a_crash_left_is_ended_by_who_began_it() {
    let memory = Arc::new(MemoryProvider::default());
    let (id, bytes) = chunk(1);
    let live = || async { Ok(BTreeSet::new()) };
    let round = |by: u8, at: i64| now(withdraw(&*memory, &DeviceId::new([by; 32]), Timestamp(at), [id].into(), live));
    let there = || now(memory.stat(&object_key(&id))).unwrap().is_some();
    let crash = || {
        let provider = InTurn(memory.clone());
        let mut context = Context::from_waker(std::task::Waker::noop());
        let mut work = pin!(withdraw(&provider, &CUSTODIAN, Timestamp(0), [id].into(), live));
        // It has read and written, and is about to delete.
        (0..3).for_each(|_| assert!(work.as_mut().poll(&mut context).is_pending()));
    };
    now(memory.put(&object_key(&id), bytes, PutMode::IfAbsent)).unwrap();
    crash();
    assert_eq!(round(2, 60).unwrap(), 0, "another custodian leaves it alone for a day");
    assert_eq!(round(2, 60).unwrap(), 0);
    assert_eq!(round(1, 60).unwrap(), 0, "who had begun it ends it");
    assert!(there());
    crash();
    assert_eq!(round(2, 25 * 3_600_000_000_000).unwrap(), 0);
    assert!(there());
    // What cannot be read ends the round, too, and takes nothing.
    let failing = || async { Err(OpenError::OtherContent) };
    assert!(now(withdraw(&*memory, &CUSTODIAN, Timestamp(0), [id].into(), failing)).is_err());
    assert!(there());
    assert_eq!(round(2, 60).unwrap(), 1);
    assert!(!there());
}

#[test]
fn nothing_is_due_before_its_grace_is_over() {
    let (live, orphan, young) = (chunk(1).0, chunk(2).0, chunk(3).0);
    let lives: BTreeSet<ChunkId> = [live].into();
    let there = [(live, None), (orphan, None), (young, Some(Timestamp(95)))];
    let mut orphans = Orphans::default();
    let mut due = |there: &[(ChunkId, Option<Timestamp>)], at| orphans.look(there, &lives, Timestamp(at), 10);
    assert_eq!(due(&there, 90), BTreeSet::new());
    assert_eq!(due(&there, 99), BTreeSet::new());
    assert_eq!(due(&there, 100), [orphan].into(), "the other was written five ago");
    assert_eq!(due(&there, 105), [orphan, young].into());
    // What was referred to meanwhile, or was not there, begins anew.
    assert_eq!(due(&there[..1], 106), BTreeSet::new());
    assert_eq!(due(&there, 120), BTreeSet::new());
    let mut fresh = Orphans::default();
    assert_eq!(fresh.look(&[(young, Some(Timestamp(0)))], &lives, Timestamp(1000), 10), BTreeSet::new());
    assert_eq!(fresh.look(&[(young, Some(Timestamp(0)))], &lives, Timestamp(1001), 10), [young].into());
}
