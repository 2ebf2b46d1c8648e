//! Whose pages a recovery believes, and that what is missing shows.

use super::{content, noise};
use crate::storage::{
    ProfileSpec, PutMode, Recovery, RecoveryError, Sealing, StorageProvider, layout::Desk, list_all,
    memory::MemoryProvider, put_content, write_key_bundle, write_membership, write_snapshot,
};
use ed25519_dalek::SigningKey;
use larder_protocol::{
    bounded::List,
    id::{DeviceId, EpochId, LocationId},
    membership::{Admit, CreateRandomness, Cuts, Enrolment, MembershipLog, RecoveryKey, Role, SealedName, WrappingKey},
    path::RelPath,
    record::Name,
    seal::{EpochSecret, KeyBundle, KeyRing, SnapshotEntry, SnapshotPage, page_of},
    time::Timestamp,
};
use std::sync::Arc;

pub(super) const LOCATION: LocationId = LocationId::new([4; 16]);

pub(super) fn device(sealing: &Sealing) -> DeviceId {
    DeviceId::new(sealing.signing.verifying_key().to_bytes())
}

pub(super) fn desk(sealing: &Sealing) -> Desk {
    Desk::of(&LOCATION, &device(sealing))
}

pub(super) struct Vault {
    pub(super) storage: Arc<MemoryProvider>,
    pub(super) recovery: RecoveryKey,
    pub(super) log: MembershipLog,
    pub(super) founder: Sealing,
    pub(super) entry: SnapshotEntry,
}

impl Vault {
    /// A group of one, and a location with one file at `first` that the founder stored.
    pub(super) async fn new() -> Self {
        let (recovery, founder) = (RecoveryKey::from_entropy([1; 32]), SigningKey::from_bytes(&[2; 32]));
        let (epoch, secret, wrapping) = (EpochId::new([3; 16]), [5; 32], WrappingKey::from_bytes([6; 32]).public());
        let random = CreateRandomness { group: [7; 32], ephemeral: [[8; 32], [9; 32]], nonces: [[1; 24], [2; 24]] };
        let name = Name::new("founder").unwrap();
        let log = MembershipLog::create(&founder, wrapping, &name, &name, &recovery, epoch, &secret, &random).unwrap();
        let ring = Arc::new(KeyRing::new(epoch, EpochSecret::new(secret)));
        let founder = Sealing { ring, signing: founder };
        let storage = Arc::new(MemoryProvider::default());
        let bundle = KeyBundle::new(log.group(), log.roster().for_recovery().iter().cloned());
        write_key_bundle(&*storage, &LOCATION, &device(&founder), &bundle).await.unwrap();
        let bytes = noise(100_000);
        let (file, id) = content(&bytes);
        let stored = put_content(&*storage, ProfileSpec::SEALED, &founder, None, file, id, 100_000, &|_| {});
        let manifest = stored.await.unwrap().manifest;
        let path = RelPath::new("first").unwrap();
        let entry = SnapshotEntry { path, content: id, size: 100_000, modified: Timestamp(1), manifest };
        let vault = Self { storage, recovery, log, founder, entry };
        vault.tells().await;
        vault.name(&vault.founder, "first").await;
        vault
    }

    /// The log as it is now goes into the location.
    async fn tells(&self) {
        self.told_by(&self.founder, &self.log).await;
    }

    /// A log goes onto somebody's desk.
    pub(super) async fn told_by(&self, by: &Sealing, log: &MembershipLog) {
        write_membership(&*self.storage, by, LOCATION, log).await.unwrap();
    }

    pub(super) fn named(&self, path: &str) -> SnapshotEntry {
        SnapshotEntry { path: RelPath::new(path).unwrap(), ..self.entry.clone() }
    }

    pub(super) async fn name(&self, by: &Sealing, path: &str) {
        write_snapshot(&*self.storage, by, LOCATION, vec![self.named(path)]).await.unwrap();
    }

    /// Rewrites the page of a path and leaves the index as it was.
    async fn slip_in(&self, by: &Sealing, path: &str) {
        let number = page_of(&LOCATION, &RelPath::new(path).unwrap());
        let key = desk(by).page(number);
        let page = match self.storage.get_range(&key, None).await {
            Ok(object) => SnapshotPage::open(&object, |epoch| by.ring.get(epoch).cloned()).unwrap().0,
            Err(_) => SnapshotPage::empty(LOCATION, number),
        };
        let (epoch, secret) = by.ring.current();
        let object = page.with([self.named(path)]).close(&by.signing, epoch, secret, [9; 24]).unwrap();
        self.storage.put(&key, object.into(), PutMode::Replace).await.unwrap();
    }

    pub(super) fn key(&self, seed: u8) -> Sealing {
        Sealing { signing: SigningKey::from_bytes(&[seed; 32]), ..self.founder.clone() }
    }

    pub(super) fn admit(&mut self, device: &Sealing) {
        let (epoch, secret) = self.founder.ring.current();
        let name = SealedName::seal(&Name::new("other").unwrap(), epoch, secret.as_bytes(), [4; 24]);
        let member = Enrolment::sign(WrappingKey::from_bytes([7; 32]).public(), &device.signing);
        let admit = Admit { member, name, role: Role::Writer, epochs: List::default() };
        self.log.admit(&self.founder.signing, &admit).unwrap();
    }

    pub(super) fn remove(&mut self, device: &Sealing) {
        self.log.remove(&self.founder.signing, self::device(device), Cuts::default()).unwrap();
    }

    /// Paths that a recovery finds, and what it says is wrong.
    pub(super) async fn recovered(&self) -> (Vec<String>, Vec<RecoveryError>) {
        let recovery = Recovery::open(self.storage.clone(), &self.recovery).await.unwrap();
        let (entries, problems) = recovery.entries().await.unwrap();
        (entries.iter().map(|entry| entry.path.to_string()).collect(), problems)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_or_older_shows() {
    let vault = Vault::new().await;
    assert!(matches!(vault.recovered().await, (paths, problems) if paths == ["first"] && problems.is_empty()));
    let desk = desk(&vault.founder);
    let key = desk.page(page_of(&LOCATION, &vault.entry.path));
    let older = vault.storage.get_range(&key, None).await.unwrap();
    vault.name(&vault.founder, "first").await;
    vault.storage.put(&key, older, PutMode::Replace).await.unwrap();
    let (paths, problems) = vault.recovered().await;
    assert!(paths == ["first"] && matches!(problems[..], [RecoveryError::OlderPage(_)]), "{problems:?}");
    // Whoever writes it next counts on from what the index has.
    vault.name(&vault.founder, "first").await;
    assert!(vault.recovered().await.1.is_empty());
    vault.storage.delete(&key).await.unwrap();
    let (paths, problems) = vault.recovered().await;
    assert!(paths.is_empty() && matches!(problems[..], [RecoveryError::Page { .. }]), "{problems:?}");
    for (key, said) in [(desk.index(), "Index"), (desk.membership_copy(), "Members")] {
        vault.storage.delete(&key).await.unwrap();
        let (_, problems) = vault.recovered().await;
        assert!(problems.iter().any(|problem| format!("{problem:?}").starts_with(said)), "{problems:?}");
    }
    // A device that has the log brings both back.
    vault.tells().await;
    assert!(vault.recovered().await.1.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_counts_by_who_signed_it_and_where() {
    let mut vault = Vault::new().await;
    let (member, stranger) = (vault.key(20), vault.key(21));
    // It had the group's secret, and was never admitted: neither its own desk counts nor what it puts on another's.
    vault.slip_in(&stranger, "forged").await;
    let number = page_of(&LOCATION, &RelPath::new("forged").unwrap());
    assert_ne!(number, page_of(&LOCATION, &vault.entry.path), "choose another name");
    let (own, other) = (desk(&stranger).page(number), desk(&vault.founder).page(number));
    let forged = vault.storage.get_range(&own, None).await.unwrap();
    vault.storage.put(&other, forged, PutMode::Replace).await.unwrap();
    let (paths, problems) = vault.recovered().await;
    let pages = problems.iter().filter(|problem| matches!(problem, RecoveryError::Page { .. })).count();
    assert!(paths == ["first"] && pages == 2, "{paths:?} {problems:?}");
    vault.storage.delete(&own).await.unwrap();

    // A member's pages count, also when the index has not heard of the last one; but not on another's desk.
    vault.admit(&member);
    vault.tells().await;
    vault.slip_in(&member, "forged").await;
    let page = vault.storage.get_range(&desk(&member).page(number), None).await.unwrap();
    vault.storage.put(&other, page, PutMode::Replace).await.unwrap();
    vault.storage.delete(&desk(&member).page(number)).await.unwrap();
    let (paths, problems) = vault.recovered().await;
    assert!(paths == ["first"] && problems.len() == 1, "{paths:?} {problems:?}");
    vault.storage.delete(&other).await.unwrap();
    vault.name(&member, "second").await;
    vault.slip_in(&member, "third").await;
    let (paths, problems) = vault.recovered().await;
    assert!(paths == ["first", "second", "third"] && problems.is_empty(), "{paths:?} {problems:?}");

    // Of a removed one, too: a crash may have come before the index. What is older, or other than the index says, does not.
    vault.name(&member, "second").await;
    let page = desk(&member).page(page_of(&LOCATION, &RelPath::new("second").unwrap()));
    let newest = vault.storage.get_range(&page, None).await.unwrap();
    vault.remove(&member);
    vault.tells().await;
    let (paths, problems) = vault.recovered().await;
    assert!(paths == ["first", "second", "third"] && problems.is_empty(), "{paths:?} {problems:?}");
    let index = vault.storage.get_range(&desk(&member).index(), None).await.unwrap();
    vault.name(&member, "second").await;
    vault.storage.put(&page, newest, PutMode::Replace).await.unwrap();
    let (paths, problems) = vault.recovered().await;
    assert!(paths == ["first", "third"] && problems.len() == 1, "{paths:?} {problems:?}");
    vault.storage.put(&desk(&member).index(), index, PutMode::Replace).await.unwrap();
    assert!(vault.recovered().await.1.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_membership_copy_is_written_when_there_is_news_and_loses_nothing() {
    let mut vault = Vault::new().await;
    let read =
        async |vault: &Vault| vault.storage.get_range(&desk(&vault.founder).membership_copy(), None).await.unwrap();
    let before = read(&vault).await;
    vault.tells().await;
    assert_eq!(read(&vault).await, before);
    let (older, member) = (vault.log.clone(), vault.key(20));
    vault.admit(&member);
    vault.tells().await;
    let after = read(&vault).await;
    assert_ne!(after, before);
    // A device that has not heard of the member yet.
    write_membership(&*vault.storage, &vault.founder, LOCATION, &older).await.unwrap();
    assert_eq!(read(&vault).await, after);
    let all = list_all(&*vault.storage, ".larder/").await.unwrap();
    assert_eq!(all.len(), 4, "{all:?}");
}
