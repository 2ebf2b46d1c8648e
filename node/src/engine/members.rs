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
    membership::{Admit, Enrolment, Inserted, MembershipLog, Role, Roster, SealedName, SignedOp, WrappedSecret},
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
    first_addresses: Mutex<BTreeMap<DeviceId, Vec<String>>>,
}

struct State {
    log: MembershipLog,
    roster: Roster,
    ring: Arc<KeyRing>,
}

/// Name for a member whose name does not open.
const UNNAMED: &str = "device";

impl Members {
    pub(crate) fn new(store: MembershipStore, log: MembershipLog, keys: DeviceKeys) -> Result<Self, ControlError> {
        let ring = open_key_ring(&log, &keys).ok_or_else(|| {
            ControlError::new(ErrorKind::NotAllowed, "membership").detail("this device holds no key of the group")
        })?;
        let state = State { roster: log.roster(), ring: Arc::new(ring), log };
        Ok(Self {
            store,
            keys,
            state: RwLock::new(state),
            changing: Mutex::new(()),
            changed: Notify::new(),
            first_addresses: Mutex::default(),
        })
    }

    fn with<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn group(&self) -> GroupId {
        self.with(|state| state.log.group())
    }

    pub(crate) fn ring(&self) -> Arc<KeyRing> {
        self.with(|state| state.ring.clone())
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
            let open = |name: &SealedName| state.open_name(name).map_or(UNNAMED.to_owned(), |name| name.to_string());
            state.roster.members().map(|member| (member.device, open(&member.name))).collect()
        })
    }

    /// Names of this device and of the group.
    pub(crate) fn own_names(&self) -> (Name, String) {
        self.with(|state| {
            let own = state.roster.member(&self.keys.device()).and_then(|member| state.open_name(&member.name));
            let group = state.roster.name().and_then(|name| state.open_name(name));
            let unnamed = || Name::new(UNNAMED).unwrap_or_default();
            (own.unwrap_or_else(unnamed), group.map_or_else(String::new, |name| name.to_string()))
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
        let ring = open_key_ring(&log, &self.keys).map_or_else(|| state.ring.clone(), Arc::new);
        *state = State { roster: log.roster(), ring, log };
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
        let ring = self.ring();
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

    /// Waits until the log changes; a change before the call counts.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Addresses that came with the invite, until the devices say more themselves.
    pub(crate) fn set_first_addresses(&self, addresses: BTreeMap<DeviceId, Vec<String>>) {
        *self.first_addresses.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
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
        name.open(|epoch| self.ring.get(epoch).map(|secret| *secret.as_bytes()))
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
