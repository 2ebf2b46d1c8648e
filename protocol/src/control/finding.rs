//! What `doctor` finds, as facts; the command line words them.

use serde::{Deserialize, Serialize};

/// What is not as it should be. Each kind has one wording and one advice in the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// Other users may look into a folder or file of the home.
    OpenToOthers,
    /// The device's keys are missing, damaged or of another device.
    Keys,
    /// The settings make no sense.
    Settings,
    /// The credentials of this device are damaged, or their key is gone.
    Credentials,
    /// The credentials of this device wait for their passphrase or keyring.
    CredentialsLocked,
    /// The catalog's database is missing or damaged; its next start builds it anew.
    CatalogDamaged,
    /// Segments of a device's log are damaged or shorter than the database.
    LogDamaged,
    /// The database says something else than the log segments.
    CatalogDiffers,
    /// The catalog cannot be opened.
    CatalogUnreadable,
    /// The catalog's disk takes no writes.
    CatalogNotWritable,
    /// A device signed two histories.
    Forked,
    /// Statements wait because a device's clock is ahead.
    HeldBack,
    /// The key of an epoch is not here.
    EpochKeyMissing,
    /// A new epoch has to begin before removed devices are shut out.
    RotationPending,
    /// Lines of the audit log were changed, taken out or put between.
    AuditChanged,
    /// The audit log is shorter than it was, or another one.
    AuditRolledBack,
    /// A location's storage is not there.
    LocationOffline,
    /// A folder carries the signature of another location, or a damaged one.
    LocationSignature,
    /// A location was mounted elsewhere since: a copy of the drive is in use.
    LocationCloned,
    /// A location cannot be written.
    LocationNotWritable,
    /// There is hardly any room left.
    NearlyFull,
    /// Files of transfers that nobody goes on with.
    LeftOver,
    /// Files that were set aside because they are damaged.
    SetAside,
    /// A shelf of this vault cannot be used.
    ShelfUnreadable,
    /// An object on a shelf of this vault is not what it was.
    ShelfObjectDamaged,
    /// The same, and it was put out of the way.
    ShelfObjectSetAside,
    /// This vault keeps more than its settings give.
    VaultOverQuota,
    /// A control socket without a node.
    StaleSocket,
    /// The node may open too few files.
    FewDescriptors,
    /// This device's clock is behind what was said before.
    ClockBehind,
    /// No other device of the group is reached.
    NoPeers,
    /// The node is of another version than the command.
    VersionDiffers,
}

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know.
    Note,
    /// Something will go wrong, or is left undone.
    Warning,
    /// Something is wrong now.
    Error,
}

impl FindingKind {
    /// How much it matters.
    pub const fn severity(self) -> Severity {
        match self {
            Self::SetAside | Self::NoPeers => Severity::Note,
            Self::HeldBack
            | Self::CredentialsLocked
            | Self::RotationPending
            | Self::LocationOffline
            | Self::LocationNotWritable
            | Self::NearlyFull
            | Self::LeftOver
            | Self::VaultOverQuota
            | Self::StaleSocket
            | Self::FewDescriptors
            | Self::VersionDiffers => Severity::Warning,
            _ => Severity::Error,
        }
    }
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FindingView {
    /// What.
    pub kind: FindingKind,
    /// Of what: a path, a location, a device.
    pub subject: String,
    /// Facts that help; empty when there are none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

impl FindingView {
    /// A finding without facts.
    pub fn new(kind: FindingKind, subject: impl Into<String>) -> Self {
        Self { kind, subject: subject.into(), detail: String::new() }
    }

    /// The same with facts.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }
}

/// What a running node finds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExaminedView {
    /// Its version.
    pub version: String,
    /// What it finds.
    pub findings: Vec<FindingView>,
}
