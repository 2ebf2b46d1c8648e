//! Objects are taken away while others store them.

use super::sealing;
use crate::storage::{
    memory::MemoryProvider,
    withdrawal::{Orphans, Settled, Vigil, live_objects, withdraw},
    *,
};
use bytes::Bytes;
use larder_protocol::{
    bounded::List,
    id::{ChunkId, ContentId, DeviceId, LocationId, PlainChunkId},
    path::RelPath,
    seal::{Manifest, ManifestChunk, SnapshotEntry, chunk_id, page_of},
    time::Timestamp,
};
use proptest::prelude::*;
use std::{
    collections::BTreeSet,
    ops::Range,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

const LOCATION: LocationId = LocationId::new([9; 16]);
const CUSTODIAN: DeviceId = DeviceId::new([1; 32]);

/// Gives way to whoever is polled next.
#[derive(Default)]
struct Turn(bool);

impl Future for Turn {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// A storage at which each call takes one turn.
struct InTurn(Arc<MemoryProvider>);

impl StorageProvider for InTurn {
    fn name(&self) -> &'static str {
        "in-turn"
    }

    fn put<'a>(&'a self, key: &'a ObjectKey, bytes: Bytes, mode: PutMode) -> Pending<'a, Put> {
        Box::pin(async move {
            Turn::default().await;
            self.0.put(key, bytes, mode).await
        })
    }

    fn get_range<'a>(&'a self, key: &'a ObjectKey, range: Option<Range<u64>>) -> Pending<'a, Bytes> {
        Box::pin(async move {
            Turn::default().await;
            self.0.get_range(key, range).await
        })
    }

    fn stat<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, Option<Stat>> {
        Box::pin(async move {
            Turn::default().await;
            self.0.stat(key).await
        })
    }

    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a ObjectKey>, limit: usize) -> Pending<'a, Page> {
        Box::pin(async move {
            Turn::default().await;
            self.0.list(prefix, after, limit).await
        })
    }

    fn delete<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, ()> {
        Box::pin(async move {
            Turn::default().await;
            self.0.delete(key).await
        })
    }

    fn test(&self) -> Pending<'_, ()> {
        self.0.test()
    }
}

fn chunk(number: u8) -> (ChunkId, Bytes) {
    let bytes = Bytes::from(vec![number; 100]);
    (chunk_id(&bytes), bytes)
}

/// Stores a content of some chunks as gateways do: looks, puts what is not there, names it, and makes sure.
async fn store(provider: &dyn StorageProvider, number: u8, chunks: &[u8]) -> Vec<ChunkId> {
    let sealing = sealing();
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
        let path = RelPath::new(format!("file-{number}")).unwrap();
        let entry = SnapshotEntry { path, content, size, modified: Timestamp(0), manifest: id };
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

fn now<T>(work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    let mut context = Context::from_waker(std::task::Waker::noop());
    loop {
        if let Poll::Ready(done) = work.as_mut().poll(&mut context) {
            return done;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// A custodian that takes away whatever nothing refers to, without any grace, and two gateways that store contents of
    /// shared chunks, which an aborted put had left: whoever's turn it is, what is named in the end is there.
    #[test]
    fn what_a_gateway_has_named_is_never_lost(
        left in prop::collection::btree_set(0u8..6, 0..6),
        first in prop::collection::vec(0u8..6, 1..4),
        second in prop::collection::vec(0u8..6, 1..4),
        turns in prop::collection::vec(0usize..3, 0..300),
    ) {
        let pages = ["file-100", "file-200"].map(|path| page_of(&LOCATION, &RelPath::new(path).unwrap()));
        prop_assert_ne!(pages[0], pages[1], "two that rewrite one page may lose a name");
        let memory = Arc::new(MemoryProvider::default());
        for (id, bytes) in left.iter().map(|number| chunk(*number)) {
            now(memory.put(&object_key(&id), bytes, PutMode::IfAbsent)).unwrap();
        }
        let provider = InTurn(memory.clone());
        let mut context = Context::from_waker(std::task::Waker::noop());
        let named = {
            let mut custodian = pin!(async { sweep(&provider, 4).await; Vec::new() });
            let (mut a, mut b) = (pin!(store(&provider, 100, &first)), pin!(store(&provider, 200, &second)));
            let mut works: [Option<Pin<&mut dyn Future<Output = Vec<ChunkId>>>>; 3] =
                [Some(custodian.as_mut()), Some(a.as_mut()), Some(b.as_mut())];
            let mut named: Vec<ChunkId> = Vec::new();
            for which in turns.into_iter().chain((0..3).cycle()) {
                if works.iter().all(Option::is_none) {
                    break;
                }
                let Some(work) = &mut works[which] else { continue };
                if let Poll::Ready(objects) = work.as_mut().poll(&mut context) {
                    named.extend(objects);
                    works[which] = None;
                }
            }
            named
        };
        for id in &named {
            prop_assert!(now(memory.stat(&object_key(id))).unwrap().is_some(), "{id} is gone");
        }
        // Alone again, the custodian leaves nothing but what is named.
        now(sweep(&*memory, 2));
        let there: BTreeSet<ChunkId> =
            now(list_all(&*memory, "objects/")).unwrap().iter().filter_map(|listed| listed.key.content_named()).collect();
        prop_assert_eq!(there, named.into_iter().collect::<BTreeSet<_>>());
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
