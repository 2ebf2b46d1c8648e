//! The same operations in any order, with any repetition, give the same rows and the same digest.

use super::*;
use larder_protocol::{
    id::{ChunkId, FolderId, WantId},
    log::{Author, SealedBatch},
    path::NfcPath,
    record::{
        Access, Alias, AuditHead, Context, Custodian, Device, FolderEntry, FolderFile, FolderValue, Gateway,
        GatewayState, LocationState, Profile, Replica, ReplicaState, StorageState, Suspicion, SuspicionReason, Want,
        WantOutcome, WantResult, Whom,
    },
};
use proptest::prelude::*;

fn records() -> impl Strategy<Value = Record> {
    let value = prop_oneof![
        3 => (0u8..4, 0u64..3, -2i64..3).prop_map(|(number, size, time)| EntryValue::File(File {
            content: content(number),
            size,
            modified: Timestamp(time),
            verified: NOW.plus_millis(time),
        })),
        1 => Just(gone()),
        1 => Just(EntryValue::Gone(GoneReason::Moved)),
    ];
    let paths = prop::sample::select(vec!["a", "b", "d/a", "d/e/a"]);
    // Contexts that name anything: what an author had not been shown as well.
    let context = prop::collection::btree_map(1u8..4, 1u64..12, 0..3).prop_map(|counts| {
        let mut counts: Vec<(Author, u64)> =
            counts.into_iter().map(|(of, count)| (Author { device: device(of), incarnation: 0 }, count)).collect();
        counts.sort_unstable();
        Context::new(counts).unwrap()
    });
    let result = prop_oneof![Just(WantResult::Done), Just(WantResult::Occupied)];
    prop_oneof![
        3 => (0u8..2, 0u64..3).prop_map(|(number, epoch)| location(number, epoch)),
        8 => (0u8..2, 0u64..3, paths.clone(), value).prop_map(|(number, epoch, at, value)| entry(number, epoch, at, value)),
        2 => (0u8..2, 0u64..3, 0u8..4, any::<bool>()).prop_map(|(number, mount_epoch, of, present)| Record::from(Replica {
            location: location_id(number),
            mount_epoch,
            content: content(of),
            size: 1,
            manifest: ChunkId::new([of; 32]),
            state: if present { ReplicaState::Present } else { ReplicaState::Missing },
            verified: NOW,
        })),
        1 => (0u8..2, 0u64..3).prop_map(|(number, mount_epoch)| Record::from(LocationState {
            location: location_id(number), mount_epoch, state: StorageState::Present, seen: NOW,
        })),
        2 => (0u8..2, 1u64..3, any::<bool>()).prop_map(|(number, mount_epoch, serves)| Record::from(Gateway {
            location: location_id(number),
            mount_epoch,
            state: if serves { GatewayState::Serving } else { GatewayState::Withdrawn },
            seen: NOW,
            usage: None,
        })),
        1 => (0u8..2, any::<bool>()).prop_map(|(number, shut)| Record::from(Access {
            write: if shut { Whom::Only { roles: List::default(), devices: List::default() } } else { Whom::Everyone },
            ..Access::open(location_id(number))
        })),
        1 => (0u8..2, 1u8..3).prop_map(|(number, of)| Record::from(Custodian {
            location: location_id(number), device: device(of),
        })),
        1 => (0u8..2, 0u8..4).prop_map(|(number, of)| Record::from(Suspicion {
            location: location_id(number), content: content(of), reason: SuspicionReason::Changed, seen: NOW,
        })),
        1 => "[ab]".prop_map(|name| Record::from(Device {
            name: Name::new(name).unwrap(), control: List::default(), data: List::default(),
        })),
        1 => ("[ab]", any::<bool>()).prop_map(|(name, encrypted)| Record::from(Profile {
            name: Name::new(name).unwrap(),
            provider: Name::new("fs").unwrap(),
            config: List::default(),
            encrypted,
            chunked: false,
            removed: false,
        })),
        1 => (0u8..2, 0u8..2, paths.clone()).prop_map(|(id, number, at)| Record::from(Want {
            id: WantId::new([id; 16]), content: content(0), location: location_id(number), path: path(at),
        })),
        1 => (0u64..3, 0u8..2).prop_map(|(lines, head)| Record::from(AuditHead { lines, head: [head; 32] })),
        1 => (0u8..3, 0u8..2).prop_map(|(number, sha)| Record::from(Alias { content: content(number), sha256: [sha; 32] })),
        6 => (0u8..2, paths.clone(), prop::option::of(0u8..3), context).prop_map(|(folder, at, of, context)| {
            let file = |of| FolderValue::File(FolderFile { content: content(of), size: 1, modified: NOW });
            Record::from(FolderEntry {
                folder: FolderId::new([folder; 16]),
                path: NfcPath::of(&path(at)).unwrap(),
                value: of.map_or(FolderValue::Deleted, file),
                context,
                moved_from: None,
            })
        }),
        1 => (0u8..2, result).prop_map(|(id, result)| Record::from(WantOutcome { id: WantId::new([id; 16]), result })),
    ]
}

/// Everything that a reader can see and that the group shares.
type Rows = (Vec<KnownEntry>, Vec<Option<Copies>>, Vec<KnownLocation>, Vec<Vec<Known<Want>>>, Counts, String);

fn rows(catalog: &Catalog) -> Rows {
    let read = catalog.read().unwrap();
    let mut entries = Vec::new();
    for number in 0..2 {
        read.for_each_file(&location_id(number), None, &mut |entry| {
            entries.push(entry);
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    }
    let copies = (0..4)
        // A content that was only ever named by a refused statement may be unknown to one and empty to another;
        // its size is what was heard first.
        .map(|number| {
            read.copies(&content(number))
                .unwrap()
                .filter(|found| !(found.entries.is_empty() && found.replicas.is_empty()))
        })
        .map(|found| found.map(|found| Copies { size: 0, ..found }))
        .collect();
    let named: Vec<_> = (0..2)
        .map(|sha| {
            let mut contents = read.with_sha256(&[sha; 32]).unwrap();
            contents.sort_unstable();
            contents
        })
        .collect();
    let wants = (0..2).map(|number| read.wants_for(&location_id(number)).unwrap()).collect();
    let folders: Vec<_> = (0..2).map(|number| read.synced_folder(&FolderId::new([number; 16])).unwrap()).collect();
    let others = format!("{:?} {:?} {named:?} {folders:?}", read.devices().unwrap(), read.profiles().unwrap());
    (entries, copies, read.locations().unwrap(), wants, read.counts().unwrap(), others)
}

fn shuffle<T>(items: &mut [T], mut seed: u64) {
    for at in (1..items.len()).rev() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        items.swap(at, (seed >> 33) as usize % (at + 1));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_order_gives_the_same_rows_and_digest(
        said in prop::collection::vec((1u8..4, records(), 0i64..20), 1..40),
        seed: u64,
    ) {
        // Three devices say things without hearing of each other; two more hear everything in different orders.
        let authors: Vec<Catalog> = (1..4).map(memory).collect();
        let mut logs: Vec<Vec<SealedBatch>> = vec![Vec::new(); 3];
        for (device, record, ms) in said {
            let at = usize::from(device) - 1;
            logs[at].extend(authors[at].append(vec![record], Vec::new(), NOW.plus_millis(ms)).unwrap().batches);
        }
        let later = NOW.plus_millis(1_000);
        let one = memory(4);
        for log in &logs {
            one.apply(log.clone(), later).unwrap();
        }
        // Interleave the logs at random, part by gossip with repetitions, part by sessions.
        let other = memory(5);
        let mut turns: Vec<usize> = logs.iter().enumerate().flat_map(|(at, log)| vec![at; log.len()]).collect();
        shuffle(&mut turns, seed);
        let mut next = [0; 3];
        for (turn, at) in turns.into_iter().enumerate() {
            let batch = logs[at][next[at]].clone();
            next[at] += 1;
            if (seed >> (turn % 64)) & 1 == 0 {
                other.hold(vec![batch.clone()], later).unwrap();
                prop_assert_eq!(other.hold(vec![batch], later).unwrap().duplicates, 1);
            } else {
                other.apply(vec![batch], later).unwrap();
            }
        }
        other.account(one.read().unwrap().vector().unwrap().iter().map(|(author, count)| (*author, *count)).collect()).unwrap();
        let (first, second) = (one.read().unwrap(), other.read().unwrap());
        prop_assert_eq!(first.vector().unwrap(), second.vector().unwrap());
        prop_assert_eq!(first.digest().unwrap(), second.digest().unwrap());
        prop_assert_eq!(rows(&one), rows(&other));
        for (at, author) in authors.iter().enumerate() {
            for (from, log) in logs.iter().enumerate() {
                if from != at {
                    author.apply(log.clone(), later).unwrap();
                }
            }
            prop_assert_eq!(author.read().unwrap().digest().unwrap(), first.digest().unwrap());
        }
    }
}
