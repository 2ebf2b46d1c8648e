//! Several gateways write at once what a recovery reads.

use super::{
    recovery::{LOCATION, Vault, device},
    turns::{InTurn, Work, now, run_in_turns},
};
use crate::storage::*;
use larder_protocol::{
    id::{ContentId, EpochId},
    membership::WrappedSecret,
    path::RelPath,
    seal::{EpochSecret, KeyBundle, KeyRing, SnapshotEntry, page_of},
    time::Timestamp,
};
use proptest::prelude::*;
use std::{cell::RefCell, collections::BTreeSet, sync::Arc};

/// Names that all belong to one page.
pub(super) fn neighbours() -> impl Iterator<Item = RelPath> {
    let names = (0..).map(|number: u32| RelPath::new(format!("file-{number}")).unwrap());
    names.filter(|path| page_of(&LOCATION, path) == 7)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Three gateways name contents on one page of the snapshot, in turns of one call each, and crash at any call: every name
    /// that one of them was told is durable is in what a recovery reads, and nothing is said to be missing.
    #[test]
    fn what_was_told_is_durable_is_in_the_union(
        names in prop::collection::vec(1usize..5, 3),
        removed in any::<bool>(),
        turns in prop::collection::vec((0usize..3, 0u8..12), 0..120),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let mut vault = runtime.block_on(Vault::new());
        let gateways = [vault.founder.clone(), vault.key(20), vault.key(21)];
        vault.admit(&gateways[1]);
        let older = vault.log.clone();
        vault.admit(&gateways[2]);
        // The second has not heard of the third, the first of neither.
        let logs = [None, Some(&older), Some(&vault.log)];
        let provider = InTurn(vault.storage.clone());
        let mut paths = neighbours();
        let entries = names.iter().map(|count| {
            paths.by_ref().take(*count).map(|path| SnapshotEntry { path, ..vault.entry.clone() }).collect::<Vec<_>>()
        });
        let entries: Vec<Vec<SnapshotEntry>> = entries.collect();
        let told = RefCell::new(BTreeSet::from(["first".to_owned()]));
        // What a gateway does from its `next` name on; after a crash it begins again with the one after it.
        let work = |which: usize, next: usize| -> Work<'_> {
            let (provider, gateways, entries, told) = (&provider, &gateways, &entries, &told);
            Box::pin(async move {
                if let Some(log) = logs[which] {
                    write_membership(provider, &gateways[which], LOCATION, log).await.unwrap();
                }
                for entry in entries[which].iter().skip(next) {
                    write_snapshot(provider, &gateways[which], LOCATION, vec![entry.clone()]).await.unwrap();
                    told.borrow_mut().insert(entry.path.to_string());
                }
            })
        };
        run_in_turns(3, turns, work);
        if removed {
            vault.remove(&gateways[2]);
            now(vault.told_by(&gateways[0], &vault.log));
        }
        let (found, problems) = now(vault.recovered());
        let found: BTreeSet<String> = found.into_iter().collect();
        let told = told.borrow();
        prop_assert!(problems.is_empty(), "{problems:?}");
        prop_assert!(told.is_subset(&found), "lost: {:?}", told.difference(&found).collect::<Vec<_>>());
    }
}

/// The second gateway has not heard of the newest epoch, nor of the device that began it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_device_that_is_behind_writes_takes_nothing_from_others() {
    let mut vault = Vault::new().await;
    let (behind, before) = (vault.key(20), vault.log.clone());
    let mut ahead = vault.key(21);
    let bundle = |epochs: Vec<_>| KeyBundle::new(before.group(), epochs);
    let known = before.roster().for_recovery().to_vec();
    let (epoch, secret) = (EpochId::new([30; 16]), [31; 32]);
    let wrapped = WrappedSecret::wrap(&secret, &vault.recovery.wrapping().public(), [32; 32]).unwrap();
    let newer = [known.clone(), vec![(epoch, wrapped)]].concat();
    vault.admit(&behind);
    let older = vault.log.clone();
    vault.admit(&ahead);
    let mut ring = KeyRing::clone(&ahead.ring);
    ring.rotate(epoch, EpochSecret::new(secret));
    ahead.ring = Arc::new(ring);
    write_key_bundle(&*vault.storage, &LOCATION, &device(&ahead), &bundle(newer)).await.unwrap();
    vault.told_by(&ahead, &vault.log).await;
    vault.name(&ahead, "second").await;

    write_key_bundle(&*vault.storage, &LOCATION, &device(&behind), &bundle(known.clone())).await.unwrap();
    vault.told_by(&behind, &older).await;
    vault.name(&behind, "third").await;
    let (paths, problems) = vault.recovered().await;
    assert!(paths == ["first", "second", "third"] && problems.is_empty(), "{paths:?} {problems:?}");

    // Nor does one that was put back to an older state take from itself.
    write_key_bundle(&*vault.storage, &LOCATION, &device(&ahead), &bundle(known)).await.unwrap();
    vault.told_by(&ahead, &older).await;
    let (paths, problems) = vault.recovered().await;
    assert!(paths == ["first", "second", "third"] && problems.is_empty(), "{paths:?} {problems:?}");
}

/// Two that had not heard of each other: both contents are given, the one that was modified later first.
#[tokio::test(flavor = "multi_thread")]
async fn different_contents_at_one_path_both_count() {
    let mut vault = Vault::new().await;
    let other = vault.key(20);
    vault.admit(&other);
    vault.told_by(&other, &vault.log).await;
    let newer = SnapshotEntry { content: ContentId::new([8; 32]), modified: Timestamp(2), ..vault.entry.clone() };
    write_snapshot(&*vault.storage, &other, LOCATION, vec![newer.clone()]).await.unwrap();
    vault.name(&other, "second").await;
    vault.name(&vault.founder, "second").await;
    let recovery = Recovery::open(vault.storage.clone(), &vault.recovery).await.unwrap();
    let (entries, problems) = recovery.entries().await.unwrap();
    assert_eq!(entries, [newer, vault.entry.clone(), vault.named("second")]);
    assert!(problems.is_empty(), "{problems:?}");
}
