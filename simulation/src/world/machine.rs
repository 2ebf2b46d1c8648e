//! One machine: its disk, its clock, what runs on it, and what the world knows of it.

use crate::{
    clocks::Clock,
    disks::{Disk, Image},
    hostile::Hostile,
    oracle::View,
    truth::{EPOCH, GROUP, LOG_KEY, Roles},
    workload::Place,
};
use larder_node::catalog::{Catalog, Commit, Identity, LogKeys};
use larder_protocol::{
    id::DeviceId,
    log::{Author, SealedBatch, VersionVector},
    time::Timestamp,
};
use std::{collections::BTreeSet, sync::mpsc::Receiver};

/// A catalog that is open, and what it tells.
pub(super) struct Running {
    pub(super) catalog: Catalog,
    pub(super) commits: Receiver<Commit>,
}

pub(super) struct Machine {
    pub(super) identity: Identity,
    pub(super) disk: Disk,
    pub(super) running: Option<Running>,
    pub(super) clock: Clock,
    /// The latest that its clock has ever shown.
    pub(super) wall_max: Timestamp,
    /// Its log, and how much of it was acknowledged.
    pub(super) acknowledged: (Author, u64),
    /// Ends of sessions that have vouched for foreign operations, ever.
    pub(super) vouched: VersionVector,
    /// Of its own log, the greatest count that an honest peer has told it of in a session that went well.
    pub(super) told: Option<(Author, u64)>,
    /// What it last looked like.
    pub(super) view: Option<View>,
    /// News that it has passed on.
    pub(super) heard: BTreeSet<Vec<u8>>,
    /// The version of the roles that it knows.
    pub(super) roles: u64,
    pub(super) hostile: Option<Box<Hostile>>,
    /// Taken away for good.
    pub(super) retired: bool,
    /// Restored or copied, and has not yet asked the group how far its log goes.
    pub(super) provisional: bool,
    /// A database was opened on this disk before, so that one is there.
    pub(super) has_database: bool,
    /// Its places must be mounted anew before anything is said of them.
    pub(super) unmounted: bool,
    /// What it has said since, and told nobody.
    pub(super) unsaid: Vec<SealedBatch>,
    pub(super) backup: Option<Image>,
    /// An earlier state of the database, for as long as the log only grew since.
    pub(super) old_database: Option<Image>,
    /// The machine that this one is a copy of.
    pub(super) copy_of: Option<usize>,
    /// An author of whom it was given a second history without noticing.
    pub(super) unnoticed: Option<Author>,
    /// The disk has no room.
    pub(super) full: bool,
}

impl Machine {
    pub(super) fn new(key: [u8; 32]) -> Self {
        let identity = Identity {
            group: GROUP,
            signing: ed25519_dalek::SigningKey::from_bytes(&key),
            log_keys: LogKeys::single(EPOCH, LOG_KEY),
        };
        let own = Author { device: identity.device(), incarnation: 0 };
        Self {
            identity,
            disk: Disk::default(),
            running: None,
            clock: Clock::default(),
            wall_max: Timestamp(i64::MIN),
            acknowledged: (own, 0),
            vouched: VersionVector::default(),
            told: None,
            view: None,
            heard: BTreeSet::new(),
            roles: 0,
            hostile: None,
            retired: false,
            provisional: false,
            has_database: false,
            unmounted: false,
            unsaid: Vec::new(),
            backup: None,
            old_database: None,
            copy_of: None,
            unnoticed: None,
            full: false,
        }
    }

    /// Makes it hostile.
    pub(super) fn turn(&mut self, place: Place) {
        self.hostile = Some(Box::new(Hostile::new(self.identity.clone(), place)));
    }

    pub(super) fn device(&self) -> DeviceId {
        self.acknowledged.0.device
    }

    pub(super) fn is_honest(&self) -> bool {
        self.hostile.is_none() && !self.retired
    }

    pub(super) fn catalog(&self) -> Option<Catalog> {
        self.running.as_ref().map(|running| running.catalog.clone())
    }

    /// The roles as it knows them.
    pub(super) fn known_roles(&self, roles: &Roles) -> Roles {
        if self.roles == roles.version { roles.clone() } else { Roles::default() }
    }
}
