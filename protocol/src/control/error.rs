//! Errors as facts; the command line words them.

use serde::{Deserialize, Serialize};

/// What went wrong. Each kind has one exit code and one wording in the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// The home has no device yet.
    NotInitialised,
    /// The home already belongs to a group.
    AlreadyInitialised,
    /// No node answers on the control socket.
    NodeNotRunning,
    /// A node already runs in this home.
    NodeRunning,
    /// The chain of the audit log does not hold.
    AuditBroken,
    /// The request makes no sense as it stands.
    BadRequest,
    /// No content, path, location or device is called that.
    UnknownReference,
    /// A prefix or name fits several things.
    AmbiguousReference,
    /// The text is no invite code.
    InviteMalformed,
    /// The code's secret is not the one that was handed out.
    InviteWrong,
    /// The code was used by another device.
    InviteUsed,
    /// The code's time is over.
    InviteExpired,
    /// The code was taken back.
    InviteRevoked,
    /// Too many wrong tries; the code is burnt.
    InviteBurnt,
    /// The two screens showed different words, or one person said so.
    WordsDiffer,
    /// Nobody answered at the code's addresses.
    InviteUnreachable,
    /// The inviting device answers, and has heard too many wrong tries lately.
    InviteBusy,
    /// The role does not allow this.
    NotAllowed,
    /// A device cannot do this to itself.
    OwnDevice,
    /// The words are no recovery key, or another group's.
    RecoveryWrong,
    /// The passphrase does not open the credentials.
    WrongPassphrase,
    /// The credentials cannot be used before they are unlocked.
    CredentialsLocked,
    /// The file of the credentials or of their key is damaged or gone.
    CredentialsBroken,
    /// The storage does not take a credential; nothing was kept.
    CredentialRefused,
    /// A credential could not be tried; nothing was kept.
    CredentialUntested,
    /// A secret stands where all of the group would read it.
    SecretSetting,
    /// The keyring cannot keep a key.
    NoKeyring,
    /// Something still uses it; `detail` says what.
    InUse,
    /// A name is taken.
    NameTaken,
    /// The folder already belongs to a location.
    LocationExists,
    /// The storage is not proven to be there.
    LocationOffline,
    /// More vanished at once than is believable; nothing was marked missing.
    LocationSuspicious,
    /// The storage does not accept this device's credential, or there is none.
    NeedsLogin,
    /// Content would be stored unencrypted with a service that nobody said to trust.
    StoreUntrusted,
    /// Another process works on the location.
    LocationLocked,
    /// Larder never writes there.
    LocationReadOnly,
    /// A different file stands there.
    Occupied,
    /// The name cannot be written on this platform.
    NameForbidden,
    /// No reachable copy; `detail` says what would help.
    NoSource,
    /// Bytes do not match their hash.
    Damaged,
    /// The file changed since it was indexed.
    Changed,
    /// The disk is full, or nearly.
    DiskFull,
    /// A file or folder cannot be read or written.
    Io,
    /// The catalog's disk takes no writes now; it is tried again by itself.
    NotWritable,
    /// It was asked for, and waits for a device to return.
    Queued,
    /// Part was done; `detail` says what was not.
    Partial,
    /// The user stopped it.
    Interrupted,
    /// A failure inside; the log says more.
    Internal,
}

/// An error as the control socket carries it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlError {
    /// What went wrong.
    pub kind: ErrorKind,
    /// To what: a reference, path, name or id.
    pub subject: String,
    /// Facts that help, such as the operating system's words; empty when there are none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// Whether the same call may succeed later.
    pub retry: bool,
}

impl ControlError {
    /// An error that trying again does not mend.
    pub fn new(kind: ErrorKind, subject: impl Into<String>) -> Self {
        Self { kind, subject: subject.into(), detail: String::new(), retry: false }
    }

    /// The same with facts.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    /// The same, and trying again later may help.
    #[must_use]
    pub fn retry(mut self) -> Self {
        self.retry = true;
        self
    }
}

impl std::fmt::Display for ControlError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}: {} {}", self.kind, self.subject, self.detail)
    }
}

impl std::error::Error for ControlError {}
