//! What a node answers.

use super::ControlError;
use serde::{Deserialize, Serialize};

/// One line of a streamed answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StreamItem<T> {
    /// How far it is.
    Progress(Progress),
    /// One result; there may be several.
    Result(T),
    /// What could not be done; others may follow.
    Error(ControlError),
    /// Nothing follows; all that was asked has an answer.
    End,
}

/// How far an operation is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// What is being done: `scan`, `fetch`, `seal`, `wait`.
    pub stage: String,
    /// To what, now.
    pub path: String,
    /// Items done.
    pub done: u64,
    /// Items in all, 0 when not known yet.
    pub total: u64,
    /// Bytes done.
    pub bytes: u64,
    /// Bytes in all, 0 when not known yet.
    pub bytes_total: u64,
}

/// How a copy is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Evidence {
    /// This device hashed it.
    Verified,
    /// This device saw it by name, size and time.
    Listed,
    /// Another device said so.
    Told,
}

/// One copy of a content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyView {
    /// Name of the location.
    pub location: String,
    /// Its id.
    pub location_id: String,
    /// Names of the devices that hold it.
    pub devices: Vec<String>,
    /// Path inside the location.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// `present`, `missing`, `offline` or `suspect`.
    pub state: String,
    /// How it is known.
    pub evidence: Evidence,
    /// When its bytes were last checked.
    pub verified_at: String,
    /// Whether it can be read now from here.
    pub reachable: bool,
    /// Sealed with the group's keys.
    pub encrypted: bool,
    /// Split into chunks.
    pub chunked: bool,
    /// What would make it reachable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
}

/// A content and its copies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhereView {
    /// The content.
    pub content_id: String,
    /// Its length.
    pub size: u64,
    /// Its copies.
    pub replicas: Vec<CopyView>,
}

/// A hit of `find`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundView {
    /// The content.
    pub content_id: String,
    /// Name of the entry that matched.
    pub name: String,
    /// Its length.
    pub size: u64,
    /// Media type by its name.
    pub media_type: String,
    /// Modification time of the entry.
    pub modified: String,
    /// Tags of the content.
    pub tags: Vec<String>,
    /// Its copies.
    pub replicas: Vec<CopyView>,
}

/// Who gave bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// Another device.
    Device,
    /// A location of this device.
    Location,
}

/// A source and its share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceView {
    /// Kind of source.
    pub kind: SourceKind,
    /// Its name.
    pub name: String,
    /// Bytes of content that it gave.
    pub bytes: u64,
}

/// A content that arrived.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GotView {
    /// The content.
    pub content_id: String,
    /// Where it was written.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Who gave it.
    pub sources: Vec<SourceView>,
    /// How long it took.
    pub seconds: f64,
    /// Always true: nothing unverified is reported.
    pub verified: bool,
}

/// A content that is available at a location.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EnsureView {
    /// The content.
    pub content_id: String,
    /// Name of the location.
    pub location: String,
    /// Path there.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// It was there before.
    pub already: bool,
    /// Waits for the location's device to return.
    pub queued: bool,
}

/// Who serves an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UrlKind {
    /// This device, on loopback: only programs of this machine can read it.
    Local,
    /// The storage that has it, from anywhere, until it ends.
    Presigned,
    /// The storage that has it, from anywhere and for good: it was set up to be read by all.
    Public,
}

/// An address under which a content can be read for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UrlView {
    /// The content.
    pub content_id: String,
    /// The address; whoever has it can read the content until it ends.
    pub url: String,
    /// When it ends; a public one does not.
    pub expires_at: Option<String>,
    /// Who serves it.
    pub kind: UrlKind,
}

/// A content that was put.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutView {
    /// The content.
    pub content_id: String,
    /// Name of the location.
    pub location: String,
    /// Path there.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// The same file stood there before.
    pub already: bool,
    /// Waits for the location's device to return.
    pub queued: bool,
    /// Name of the location of this device that has it, too, since the one that was named is kept by another device.
    pub kept_at: Option<String>,
}

/// What a scan found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IndexView {
    /// Name of the location.
    pub location: String,
    /// How thoroughly it looked.
    pub mode: super::ScanMode,
    /// Files seen.
    pub scanned: u64,
    /// New ones.
    pub added: u64,
    /// With other bytes than before.
    pub changed: u64,
    /// Under another path than before.
    pub moved: u64,
    /// Not there any more.
    pub missing: u64,
    /// Files that no entry describes.
    pub orphans: u64,
    /// Files whose content another path of the location has too.
    pub duplicates: u64,
    /// Bytes that were read and hashed.
    pub hashed_bytes: u64,
    /// How long it took.
    pub seconds: f64,
}

/// An open invite.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteView {
    /// Public id, which `invite list` and `invite revoke` use.
    pub id: String,
    /// The code; present only in the answer that opened it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// When it ends.
    pub expires_at: String,
    /// Role of who joins.
    pub role: String,
    /// `open`, `used`, `burnt`, `revoked` or `expired`; of a short code also `comparing`.
    pub state: String,
    /// Where the joiner of a short code reaches this device, as `HOST:PORT`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub at: Vec<String>,
    /// Four words that the joiner's screen must show too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub words: Option<String>,
    /// Name of the device that has joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
}

/// What joining brought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinView {
    /// This device.
    pub device_id: String,
    /// The group.
    pub group_id: String,
    /// Its name.
    pub group: String,
    /// The four words that both screens showed, after a short code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub words: Option<String>,
}

/// How a peer is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathKind {
    /// Straight.
    Direct,
    /// Through a relay.
    Relayed,
}

/// Another device as this one sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerView {
    /// Its name.
    pub name: String,
    /// Its id.
    pub device_id: String,
    /// Connected now.
    pub online: bool,
    /// Where.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addr: Option<String>,
    /// How.
    pub path: Option<PathKind>,
    /// What it did that no honest device does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<TroubleView>,
}

/// What is held against a device since the node started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TroubleView {
    /// How often it sent what no honest device sends.
    pub faults: u64,
    /// The last of it.
    pub last: String,
    /// It is not listened to for a while.
    pub silenced: bool,
    /// Statements beyond its daily quota that were not kept; 0 when it is within it.
    pub over_quota: u64,
}

/// A location in `status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocationSummary {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: String,
    /// `present`, `offline` or `suspicious`.
    pub state: String,
    /// Files in it.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A location in full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocationView {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `present`, `offline` or `suspicious`; in a cloud `connected`, `needs-login` or `offline`.
    pub state: String,
    /// Name of the device that speaks for it.
    pub steward: String,
    /// Path on this device, when it is here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Address, when it is in a cloud.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The devices that serve it to the others, when it is in a cloud.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<GatewayView>,
    /// Bytes in use there, by whomever, where the storage tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<u64>,
    /// Bytes that it holds at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// Name of its profile.
    pub profile: String,
    /// Sealed with the group's keys.
    pub encrypted: bool,
    /// Split into chunks.
    pub chunked: bool,
    /// What it is for.
    pub purposes: Vec<crate::record::Purpose>,
    /// Settings of its own, which go before those of its profile.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub settings: std::collections::BTreeMap<String, String>,
    /// Larder never writes there.
    pub read_only: bool,
    /// Who may do what there.
    pub access: AccessView,
    /// Name of the device that alone deletes there, when it is in a cloud.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custodian: Option<String>,
    /// New files of this device go there when no location is named.
    pub default: bool,
    /// Files in it.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Who may do what at a location: `everyone`, or roles and names of devices; empty for nobody. Never more than a role allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessView {
    /// Who gets the bytes of what is there.
    pub read: Vec<String>,
    /// Who stores there.
    pub write: Vec<String>,
    /// Who deletes there.
    pub delete: Vec<String>,
    /// Name of the device that said so; absent where nobody did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// What this device may do there.
    pub here: Vec<crate::record::Action>,
}

/// Why new files go to a location when none is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DefaultWhy {
    /// A person said so on this device.
    Set,
    /// It is this device's inbox.
    Inbox,
    /// It is the only one that this device can write.
    Only,
    /// It is the only one in a folder of this device.
    Local,
    /// There is none: nobody set one, and several would do or none.
    None,
}

/// The location that new files of this device go to when none is named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefaultView {
    /// Its name, if there is one.
    pub location: Option<String>,
    /// Its id.
    pub location_id: Option<String>,
    /// Why it is this one.
    pub why: DefaultWhy,
}

/// Who alone deletes in a cloud location.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CustodianView {
    /// Name of the location.
    pub location: String,
    /// Its id.
    pub location_id: String,
    /// Name of the device.
    pub device: String,
    /// Its id.
    pub device_id: String,
}

/// A device that fronts a cloud location.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayView {
    /// Its name.
    pub device: String,
    /// Its id.
    pub device_id: String,
    /// `connected`, `needs-login` or `offline`: its way to the storage.
    pub state: String,
    /// It is connected now, or this one.
    pub online: bool,
    /// When the state was found out, RFC 3339.
    pub seen: String,
    /// Why it is not connected, as far as this device knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The command to run on that device, where it must log in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Bytes in use at the storage, where it tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<u64>,
    /// Bytes that it holds at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
}

/// A device of the group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceView {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its role.
    pub role: String,
    /// It is this one.
    pub this: bool,
    /// Connected now.
    pub online: bool,
    /// Names of admins that have voted to remove it, in vain so far.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub votes: Vec<String>,
}

/// What became of a revocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RevokeOutcome {
    /// The device is removed.
    Removed,
    /// The device is senior to this one; its removal waits for the votes of more admins.
    Voted,
}

/// What a removed device has in a location of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldView {
    /// Name of the location.
    pub location: String,
    /// Its id.
    pub location_id: String,
    /// Files in it.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What a removed device could still read: what it learnt before.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReadableView {
    /// Contents whose names and places it knows.
    pub contents: u64,
    /// What lies in its own locations.
    pub held: Vec<HeldView>,
    /// Names of sealed locations of other devices: it has the keys of what was sealed so far, should it get at them.
    pub sealed: Vec<String>,
    /// Names of locations whose credentials it has: change those.
    pub credentials: Vec<String>,
}

/// What revoking a device did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedView {
    /// The device.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What it might do.
    pub role: String,
    /// Whether it is removed.
    pub outcome: RevokeOutcome,
    /// Names of admins that have voted so far; empty when no vote was needed.
    pub votes: Vec<String>,
    /// The epoch under which everything is sealed from now on; absent while votes are missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<String>,
    /// What it could still read.
    pub readable: ReadableView,
    /// Names of devices that are connected, and so hear of it now.
    pub online: Vec<String>,
    /// Names of devices that hear of it only when they meet one that has.
    pub offline: Vec<String>,
}

/// What a removed device said that does not count: kept, passed on, never merged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DisputedView {
    /// Name of the device.
    pub device: String,
    /// Its id.
    pub device_id: String,
    /// Statements that it made after its removal, as far as the remover knew.
    pub statements: u64,
}

/// Statements of a device that wait here because their time lies in the future.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AheadView {
    /// Name of the device.
    pub device: String,
    /// Its id.
    pub device_id: String,
    /// How many; they count when their time has come.
    pub statements: u64,
}

/// A log that its device has signed in several versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForkView {
    /// Name of the device.
    pub device: String,
    /// Its id.
    pub device_id: String,
    /// Place in the log from which on they differ.
    pub seq: u64,
    /// Histories that are known, the first one included.
    pub histories: u64,
}

/// The node in one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusView {
    /// Name of this device.
    pub device: String,
    /// Its id.
    pub device_id: String,
    /// Name of the group.
    pub group: String,
    /// Its id.
    pub group_id: String,
    /// What this device may do; `none` when it was removed.
    pub role: String,
    /// Where the node listens.
    pub listen: Vec<String>,
    /// The other devices.
    pub peers: Vec<PeerView>,
    /// Every location of the group.
    pub locations: Vec<LocationSummary>,
    /// Contents known.
    pub contents: u64,
    /// Transfers under way or queued.
    pub pending_transfers: u64,
    /// Conflicts that a person may resolve.
    pub conflicts: u64,
    /// Operations that are held back because their time lies in the future.
    pub held_back: u64,
    /// The same for each device.
    pub ahead: Vec<AheadView>,
    /// Operations of this device that are provisional: told nobody before a first session since the start.
    pub provisional: u64,
    /// Logs that are known to be forked.
    pub forks: Vec<ForkView>,
    /// What removed devices said that does not count.
    pub disputed: Vec<DisputedView>,
    /// Digest of what the group shares.
    pub catalog_digest: String,
}

/// The catalog's digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DigestView {
    /// Equal on every device that has caught up.
    pub digest: String,
}

/// A catalog that was built anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebuildView {
    /// Its digest.
    pub digest: String,
    /// Contents that are known.
    pub contents: u64,
    /// Files that hold them.
    pub files: u64,
    /// Batches that were read from the log segments.
    pub batches: u64,
    /// Where the old database was moved, if there was one.
    pub aside: Option<String>,
    /// Devices whose log segments are damaged; what is missing comes back from others.
    pub damaged: Vec<String>,
}

/// A file that was restored from a sealed location and the recovery words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredView {
    /// Its content.
    pub content_id: String,
    /// Its path under the folder.
    pub path: String,
    /// Its length.
    pub bytes: u64,
}

/// An audit log whose chain holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogCheckView {
    /// Lines in it.
    pub lines: u64,
    /// Hash of the last one in hex: whoever noted it can tell later that nothing before it was changed.
    pub head: String,
}

/// A line of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditLine {
    /// Position in the log, from 0.
    pub seq: u64,
    /// When.
    pub time: String,
    /// What was done, such as `get` or `admit`.
    pub action: String,
    /// To what.
    pub subject: String,
    /// How it ended: `ok`, `refused` or `failed`.
    pub result: String,
    /// Facts.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub facts: std::collections::BTreeMap<String, String>,
}
