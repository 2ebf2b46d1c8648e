//! Who belongs to the group, for everybody who asks: the data plane, the catalog, the control plane.

use crate::{
    catalog::Permits,
    keys::{DeviceKeys, KeyFileError, MembershipStore, open_key_ring, random},
    operations::errors,
    transfer,
};
use larder_protocol::{
    bounded::List,
    control::{ControlError, ErrorKind},
    id::{DeviceId, EpochId, GroupId, MembershipOpId},
    log::Author,
    membership::{
        Admit, Cuts, Enrolment, Inserted, MembershipError, MembershipLog, RecoveryKey, Remove, Role, Roster,
        RotateRandomness, SealedName, SignedOp, Successor, WrappedSecret,
    },
    record::Name,
    seal::{KeyBundle, KeyRing},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError, RwLock},
};
use tokio::sync::Notify;

/// The membership log and what follows from it.
pub(crate) struct Members {
    store: MembershipStore,
    keys: DeviceKeys,
    state: RwLock<State>,
    /// One change at a time, so that the file follows the log.
    changing: Mutex<()>,
    changed: Notify,
    /// One at a time brings into force what the log says, so that an older state never follows a newer one.
    pub(super) enforcing: tokio::sync::Mutex<()>,
    first_addresses: Mutex<BTreeMap<DeviceId, Vec<String>>>,
}

struct State {
    log: MembershipLog,
    roster: Arc<Roster>,
    /// None for a vault, which was never handed a secret.
    ring: Option<Arc<KeyRing>>,
}

/// What became of a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Removal {
    /// The device is removed.
    Done,
    /// This device has voted; votes of more admins are missing.
    Voted,
}

fn randomness() -> RotateRandomness {
    RotateRandomness { secret: random(), seed: random() }
}

/// An operation that the log refuses, as an error of a command on `subject`.
fn refused(subject: &str, error: &MembershipError) -> ControlError {
    match error {
        MembershipError::NotAllowed => {
            ControlError::new(ErrorKind::NotAllowed, subject).detail("it is an admin that is senior to this device")
        }
        MembershipError::Removed => {
            ControlError::new(ErrorKind::NotAllowed, subject).detail("the device was removed for good")
        }
        error => errors::internal(error),
    }
}

impl Members {
    pub(crate) fn new(store: MembershipStore, log: MembershipLog, keys: DeviceKeys) -> Result<Self, ControlError> {
        let roster = log.roster();
        let not_allowed = |detail: &str| ControlError::new(ErrorKind::NotAllowed, "membership").detail(detail);
        let own = roster.member(&keys.device()).ok_or_else(|| not_allowed("this device was removed from its group"))?;
        let ring = open_key_ring(&log, &keys).map(Arc::new);
        if ring.is_none() && own.role.may_read() {
            return Err(not_allowed("this device holds no key of the group"));
        }
        let state = State { roster: Arc::new(roster), ring, log };
        Ok(Self {
            store,
            keys,
            state: RwLock::new(state),
            changing: Mutex::new(()),
            changed: Notify::new(),
            enforcing: tokio::sync::Mutex::default(),
            first_addresses: Mutex::default(),
        })
    }

    fn with<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn group(&self) -> GroupId {
        self.with(|state| state.log.group())
    }

    /// Who belongs to the group now.
    pub(crate) fn roster(&self) -> Arc<Roster> {
        self.with(|state| state.roster.clone())
    }

    /// Every secret that this device holds; none for a vault that never was anything else.
    pub(crate) fn ring(&self) -> Option<Arc<KeyRing>> {
        self.with(|state| state.ring.clone())
    }

    /// The secrets, for what cannot do without.
    ///
    /// # Errors
    /// [`ErrorKind::NotAllowed`] on a vault.
    pub(crate) fn reading_ring(&self) -> Result<Arc<KeyRing>, ControlError> {
        self.ring().ok_or_else(errors::vault)
    }

    /// Whether this device may read what the group shares.
    pub(crate) fn reads(&self) -> bool {
        self.role(&self.keys.device()).is_some_and(Role::may_read)
    }

    /// Whether this device and another one tell each other what is in the catalog.
    pub(super) fn shares_catalog_with(&self, device: &DeviceId) -> bool {
        self.reads() && self.role(device).is_some_and(Role::may_read)
    }

    /// Whether a device belongs to the group, or did.
    pub(crate) fn ever_belonged(&self, device: &DeviceId) -> bool {
        self.with(|state| {
            state.roster.member(device).is_some()
                || state.roster.former(device).is_some_and(|former| former.role.is_some())
        })
    }

    pub(crate) fn role(&self, device: &DeviceId) -> Option<Role> {
        self.with(|state| state.roster.member(device).map(|member| member.role))
    }

    pub(crate) fn devices(&self) -> BTreeSet<DeviceId> {
        self.with(|state| state.roster.members().map(|member| member.device).collect())
    }

    /// Names that devices were admitted with.
    pub(crate) fn names(&self) -> BTreeMap<DeviceId, String> {
        self.with(|state| {
            let name = |member: &larder_protocol::membership::Member| {
                state.open_name(&member.name).map_or_else(|| member.device.short(), |name| name.to_string())
            };
            state.roster.members().map(|member| (member.device, name(member))).collect()
        })
    }

    /// Names of this device and of the group, as far as they open.
    pub(crate) fn own_names(&self) -> (Option<Name>, Option<Name>) {
        self.with(|state| {
            let own = state.roster.member(&self.keys.device()).and_then(|member| state.open_name(&member.name));
            let group = state.roster.name().and_then(|name| state.open_name(name));
            (own, group)
        })
    }

    /// Ids and hash of the log, for a session.
    pub(crate) fn summary(&self) -> (BTreeSet<MembershipOpId>, [u8; 32], Option<EpochId>) {
        self.with(|state| (state.log.ids().collect(), state.log.hash(), state.roster.current_epoch()))
    }

    /// Operations by their ids; those that are not here are left out.
    pub(crate) fn load(&self, ids: &[MembershipOpId]) -> Vec<SignedOp> {
        self.with(|state| ids.iter().filter_map(|id| state.log.get(id).cloned()).collect())
    }

    /// The whole log.
    pub(crate) fn log(&self) -> MembershipLog {
        self.with(|state| state.log.clone())
    }

    /// Takes operations from a peer, durably. Blocks.
    pub(crate) fn insert(&self, ops: Vec<SignedOp>) -> Result<(), KeyFileError> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut log = self.log();
        let mut new = false;
        for op in ops {
            match log.insert(op) {
                Ok(Inserted::Known) => {}
                Ok(Inserted::New) => new = true,
                Ok(Inserted::Fork { author, seq }) => {
                    tracing::error!(%author, seq, "membership: a device signed two histories and is quarantined");
                    new = true;
                }
                Err(error) => tracing::warn!(%error, "membership: unsound operation"),
            }
        }
        if new { self.replace(log) } else { Ok(()) }
    }

    fn replace(&self, log: MembershipLog) -> Result<(), KeyFileError> {
        self.store.save(&log)?;
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let ring = open_key_ring(&log, &self.keys).map(Arc::new).or_else(|| state.ring.clone());
        *state = State { roster: Arc::new(log.roster()), ring, log };
        self.changed.notify_one();
        Ok(())
    }

    /// Admits a device durably, unless it is a member already. Blocks.
    pub(crate) fn admit(&self, enrolment: Enrolment, name: &Name, role: Role) -> Result<(), ControlError> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.role(&enrolment.device).is_some() {
            return Ok(());
        }
        let mut log = self.log();
        let ring = self.reading_ring()?;
        let wrap = |(epoch, secret): (&EpochId, &larder_protocol::seal::EpochSecret)| {
            WrappedSecret::wrap(secret.as_bytes(), &enrolment.wrapping, random()).map(|wrapped| (*epoch, wrapped))
        };
        let epochs: Vec<_> = if role.may_read() {
            ring.iter().map(wrap).collect::<Result<_, _>>().map_err(errors::internal)?
        } else {
            Vec::new()
        };
        let (epoch, secret) = ring.current();
        let admit = Admit {
            name: SealedName::seal(name, epoch, secret.as_bytes(), random()),
            member: enrolment,
            role,
            epochs: List::truncated(epochs),
        };
        log.admit(self.keys.signing(), &admit).map_err(errors::internal)?;
        self.replace(log).map_err(|error| errors::keys(&error))
    }

    /// What an admin wants to do to a member; refuses everybody else, and oneself.
    fn must_decide_over(&self, name: &str, device: &DeviceId) -> Result<(), ControlError> {
        if *device == self.keys.device() {
            return Err(ControlError::new(ErrorKind::OwnDevice, name));
        }
        if self.role(&self.keys.device()) != Some(Role::Admin) {
            return Err(ControlError::new(ErrorKind::NotAllowed, name).detail("only admins decide who may do what"));
        }
        Ok(())
    }

    /// Removes a device and begins an epoch without it, in one durable change; or votes for it, when the device is senior
    /// to this one. `cuts` says how much of its catalog log is here. Blocks.
    pub(crate) fn remove(&self, name: &str, device: DeviceId, cuts: Cuts) -> Result<Removal, ControlError> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.must_decide_over(name, &device)?;
        let mut log = self.log();
        if self.with(|state| state.roster.votes(&device).any(|voter| *voter == self.keys.device())) {
            return Ok(Removal::Voted);
        }
        log.remove(self.keys.signing(), device, cuts).map_err(|error| refused(name, &error))?;
        let removed = log.roster().former(&device).is_some();
        if removed {
            self.rotate_in(&mut log);
        }
        self.replace(log).map_err(|error| errors::keys(&error))?;
        Ok(if removed { Removal::Done } else { Removal::Voted })
    }

    /// Removes a device by the recovery key, whoever it is, makes this device the most senior admin and begins an epoch.
    /// Blocks.
    pub(crate) fn recover(
        &self,
        name: &str,
        recovery: &RecoveryKey,
        device: DeviceId,
        cuts: Cuts,
    ) -> Result<(), ControlError> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let own = self.keys.device();
        if device == own {
            return Err(ControlError::new(ErrorKind::OwnDevice, name));
        }
        // A vault does not know how much of the other's log the group has seen, and would cut it all off.
        if !self.reads() {
            return Err(errors::vault());
        }
        let mut log = self.log();
        let key = DeviceId::new(recovery.signing().verifying_key().to_bytes());
        if log.roster().recovery_signing() != Some(key) {
            return Err(ControlError::new(ErrorKind::RecoveryWrong, name));
        }
        log.recover(recovery, vec![Remove { device, cuts }], Successor::Member(own), &randomness())
            .map_err(|error| refused(name, &error))?;
        self.replace(log).map_err(|error| errors::keys(&error))
    }

    /// Changes the role of a member, and begins an epoch when that calls for one, in one durable change. `cuts` says how
    /// much of its catalog log is here. Blocks.
    pub(crate) fn set_role(&self, name: &str, device: DeviceId, role: Role, cuts: Cuts) -> Result<(), ControlError> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.must_decide_over(name, &device)?;
        if self.role(&device) == Some(role) {
            return Ok(());
        }
        let mut log = self.log();
        log.set_role(self.keys.signing(), device, role, cuts).map_err(|error| refused(name, &error))?;
        if log.roster().needs_rotation() {
            self.rotate_in(&mut log);
        }
        self.replace(log).map_err(|error| errors::keys(&error))
    }

    /// A change of membership stands even when no epoch can follow it; the engine tries again after the next one.
    fn rotate_in(&self, log: &mut MembershipLog) -> bool {
        let rotated = log.rotate(self.keys.signing(), self.keys.wrapping(), &randomness());
        if let Err(error) = &rotated {
            tracing::error!(%error, "membership: no new epoch can be begun");
        }
        rotated.is_ok()
    }

    /// How many admins come before this device when an epoch must be begun; `None` when none must be, or not by this one.
    pub(super) fn turn_to_rotate(&self, online: &BTreeSet<DeviceId>) -> Option<usize> {
        let (roster, own) = (self.roster(), self.keys.device());
        if !roster.needs_rotation() {
            return None;
        }
        let present = |device: &DeviceId| *device == own || online.contains(device);
        roster.admins().iter().map(|admin| admin.device).filter(present).position(|device| device == own)
    }

    /// Begins an epoch, if one is still called for; gives whether. Blocks.
    pub(super) fn rotate(&self) -> Result<bool, KeyFileError> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut log = self.log();
        let roster = log.roster();
        if !roster.needs_rotation() || self.role(&self.keys.device()) != Some(Role::Admin) || !self.rotate_in(&mut log)
        {
            return Ok(false);
        }
        self.replace(log).map(|()| true)
    }

    /// Waits until the log changes; a change before the call counts.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Addresses that came with the invite, until the devices say more themselves.
    pub(crate) fn set_first_addresses(&self, addresses: BTreeMap<DeviceId, Vec<String>>) {
        *self.first_addresses.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    /// Adds to them; what was known of a device before does not count any more.
    pub(super) fn add_first_addresses(&self, addresses: BTreeMap<DeviceId, Vec<String>>) {
        self.first_addresses.lock().unwrap_or_else(PoisonError::into_inner).extend(addresses);
    }

    pub(super) fn first_addresses(&self) -> BTreeMap<DeviceId, Vec<String>> {
        self.first_addresses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every epoch's secret wrapped to the recovery key, for sealed locations.
    pub(crate) fn key_bundle(&self) -> KeyBundle {
        self.with(|state| KeyBundle::new(state.log.group(), state.roster.for_recovery().iter().cloned()))
    }
}

impl State {
    fn open_name(&self, name: &SealedName) -> Option<Name> {
        let ring = self.ring.as_ref()?;
        name.open(|epoch| ring.get(epoch).map(|secret| *secret.as_bytes()))
    }
}

impl transfer::Members for Members {
    fn may_read(&self, device: &DeviceId) -> bool {
        self.role(device).is_some_and(Role::may_read)
    }
}

impl Permits for Members {
    /// A former member's log up to its cut is still forwarded.
    fn is_member(&self, author: &Author) -> bool {
        self.with(|state| {
            state.roster.member(&author.device).is_some() || state.roster.former(&author.device).is_some()
        })
    }

    fn permits(&self, author: &Author, seq: u64, kind: u16) -> bool {
        self.with(|state| state.roster.permits(author, seq, kind))
    }

    fn version(&self) -> [u8; 32] {
        self.with(|state| state.roster.hash())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use larder_protocol::membership::CreateRandomness;
    use tempfile::TempDir;

    struct Machine {
        dir: TempDir,
        keys: DeviceKeys,
        members: Members,
    }

    impl Machine {
        fn new(keys: DeviceKeys, log: MembershipLog) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = MembershipStore::new(dir.path(), keys.device());
            store.save(&log).unwrap();
            let members = Members::new(store, log, keys.clone()).unwrap();
            Self { dir, keys, members }
        }

        fn found() -> (Self, RecoveryKey) {
            let (keys, recovery) = (DeviceKeys::generate(), RecoveryKey::from_entropy(random()));
            let bytes =
                CreateRandomness { group: random(), ephemeral: [random(), random()], nonces: [random(), random()] };
            let (wrapping, epoch) = (keys.wrapping().public(), EpochId::new(random()));
            let (group, device) = (name("group"), name("founder"));
            let secret = random();
            let log =
                MembershipLog::create(keys.signing(), wrapping, &group, &device, &recovery, epoch, &secret, &bytes);
            (Self::new(keys, log.unwrap()), recovery)
        }

        fn invite(&self, called: &str, role: Role) -> Self {
            let keys = DeviceKeys::generate();
            self.members.admit(keys.enrolment(), &name(called), role).unwrap();
            Self::new(keys, self.members.log())
        }

        fn device(&self) -> DeviceId {
            self.keys.device()
        }

        fn hears(&self, other: &Self) {
            self.members.insert(other.members.log().ops().cloned().collect()).unwrap();
        }

        fn epoch(&self) -> EpochId {
            self.members.ring().unwrap().current().0
        }
    }

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn refusal<T: std::fmt::Debug>(result: Result<T, ControlError>) -> ErrorKind {
        result.unwrap_err().kind
    }

    #[test]
    fn a_removal_and_its_epoch_are_one_durable_change() {
        let (founder, _) = Machine::found();
        let writer = founder.invite("writer", Role::Writer);
        let (before, device) = (founder.epoch(), writer.device());
        assert_eq!(refusal(writer.members.remove("founder", founder.device(), Cuts::default())), ErrorKind::NotAllowed);
        assert_eq!(refusal(founder.members.remove("founder", founder.device(), Cuts::default())), ErrorKind::OwnDevice);
        let cuts = Cuts::new(vec![(0, 7)]).unwrap();
        assert_eq!(founder.members.remove("writer", device, cuts).unwrap(), Removal::Done);
        assert_ne!(founder.epoch(), before);
        assert!(!founder.members.roster().needs_rotation());

        let stored = MembershipStore::new(founder.dir.path(), founder.keys.device()).load().unwrap().unwrap();
        let again =
            Members::new(MembershipStore::new(founder.dir.path(), founder.keys.device()), stored, founder.keys.clone())
                .unwrap();
        assert_eq!((again.role(&device), again.ring().unwrap().current().0), (None, founder.epoch()));
        let author = Author { device, incarnation: 0 };
        assert!(again.permits(&author, 6, 2) && !again.permits(&author, 7, 2) && again.is_member(&author));
        assert!(again.ever_belonged(&device));

        // The removed one, if it hears of it, keeps what it had and starts no more.
        writer.hears(&founder);
        assert!(writer.members.ring().unwrap().get(&founder.epoch()).is_none());
        let restarted = Members::new(
            MembershipStore::new(writer.dir.path(), writer.keys.device()),
            writer.members.log(),
            writer.keys.clone(),
        );
        assert_eq!(restarted.err().map(|error| error.kind), Some(ErrorKind::NotAllowed));
    }

    #[test]
    fn votes_that_meet_call_for_an_epoch_and_the_most_senior_admin_present_begins_it() {
        let (founder, _) = Machine::found();
        let second = founder.invite("second", Role::Admin);
        let third = founder.invite("third", Role::Admin);
        second.hears(&third);
        let old = second.epoch();
        let vote = |by: &Machine| by.members.remove("founder", founder.device(), Cuts::default()).unwrap();
        assert_eq!((vote(&second), vote(&third)), (Removal::Voted, Removal::Voted));
        assert_eq!(vote(&second), Removal::Voted);
        assert_eq!(second.members.log().ops().count(), 4, "one vote each, however often it is cast");
        second.hears(&third);
        third.hears(&second);
        assert_eq!(second.members.role(&founder.device()), None);
        let with = |device: DeviceId| BTreeSet::from([device]);
        let turns = (
            second.members.turn_to_rotate(&with(third.device())),
            third.members.turn_to_rotate(&with(second.device())),
            third.members.turn_to_rotate(&BTreeSet::new()),
        );
        assert_eq!(turns, (Some(0), Some(1), Some(0)));
        assert!(second.members.rotate().unwrap());
        assert_ne!(second.epoch(), old);
        third.hears(&second);
        assert_eq!((third.members.turn_to_rotate(&BTreeSet::new()), third.members.rotate().unwrap()), (None, false));
        assert_eq!(third.epoch(), second.epoch());
    }

    #[test]
    fn the_recovery_key_removes_the_founder_and_makes_an_admin() {
        let (founder, recovery) = Machine::found();
        let writer = founder.invite("writer", Role::Writer);
        let vault = founder.invite("vault", Role::Vault);
        let recover = |by: &Machine, key: &RecoveryKey, device| by.members.recover("it", key, device, Cuts::default());
        let other = RecoveryKey::from_entropy(random());
        assert_eq!(refusal(recover(&writer, &other, founder.device())), ErrorKind::RecoveryWrong);
        assert_eq!(refusal(recover(&writer, &recovery, writer.device())), ErrorKind::OwnDevice);
        assert_eq!(refusal(recover(&vault, &recovery, founder.device())), ErrorKind::NotAllowed);
        recover(&writer, &recovery, founder.device()).unwrap();
        assert_eq!(writer.members.role(&writer.device()), Some(Role::Admin));
        assert_eq!(writer.members.role(&founder.device()), None);
        // What the founder answers, whatever it says, changes nothing.
        founder.members.remove("writer", writer.device(), Cuts::default()).unwrap();
        writer.hears(&founder);
        assert_eq!(writer.members.role(&writer.device()), Some(Role::Admin));
    }

    #[test]
    fn roles_bring_and_take_the_keys() {
        let (founder, _) = Machine::found();
        let vault = founder.invite("vault", Role::Vault);
        assert!(vault.members.ring().is_none() && !vault.members.reads());
        assert_eq!(refusal(vault.members.reading_ring().map(|_| ())), ErrorKind::NotAllowed);
        assert_eq!(vault.members.names().len(), 2, "names that do not open have a stand-in");
        let set = |role| founder.members.set_role("vault", vault.device(), role, Cuts::default()).unwrap();
        set(Role::Writer);
        vault.hears(&founder);
        assert_eq!(vault.epoch(), founder.epoch());
        assert!(vault.members.shares_catalog_with(&founder.device()));
        set(Role::Vault);
        vault.hears(&founder);
        assert!(vault.members.ring().unwrap().get(&founder.epoch()).is_none());
        assert!(!vault.members.shares_catalog_with(&founder.device()));
        let before = founder.epoch();
        set(Role::Vault);
        assert_eq!(founder.epoch(), before, "what changes nothing begins nothing");
    }
}
