//! What users ask of a node.

use crate::{membership::Role, record::Purpose};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

/// How thoroughly `index` looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScanMode {
    /// Existence and size only; nothing is hashed.
    Quick,
    /// Hash what is new or whose size, time or inode changed.
    #[default]
    Smart,
    /// Hash everything.
    Full,
}

/// Opens an invite.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenInvite {
    /// Seconds that it stays open, 1 to 86,400.
    pub ttl_seconds: u64,
    /// Role of who joins.
    pub role: Role,
}

/// Says whether the four words on both screens are the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompareWords {
    /// The invite's id.
    pub id: String,
    /// They are.
    pub same: bool,
}

/// Names an invite to take back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteRequest {
    /// Its public id in hex.
    pub id: String,
}

/// Adds a location.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddLocation {
    /// Name for people.
    pub name: String,
    /// Absolute path of a folder, or the address of a cloud location such as `s3://bucket/prefix`.
    pub path: String,
    /// Profile, or the default for the kind of place.
    pub profile: Option<String>,
    /// What it is for.
    #[serde(default)]
    pub purposes: Vec<Purpose>,
    /// Never write there.
    #[serde(default)]
    pub read_only: bool,
    /// Store unencrypted content in a cloud all the same.
    #[serde(default)]
    pub trust_store: bool,
    /// Settings of a cloud location that go before those of its profile, without secrets.
    #[serde(default)]
    pub settings: Vec<(String, String)>,
}

/// Changes what may change of a location after it was added; what is absent stays.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SetLocation {
    /// Name or id.
    pub location: String,
    /// A new name.
    pub name: Option<String>,
    /// What it is for.
    pub purposes: Option<Vec<Purpose>>,
    /// Settings of a cloud location by name; an empty value gives the profile's back.
    #[serde(default)]
    pub settings: Vec<(String, String)>,
}

/// Says who may do what at a location; what is absent stays.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AllowLocation {
    /// Name or id.
    pub location: String,
    /// Roles, names and ids of devices, or `everyone`, or `nobody`.
    pub read: Option<Vec<String>>,
    /// The same for storing.
    pub write: Option<Vec<String>>,
    /// The same for deleting.
    pub delete: Option<Vec<String>>,
}

/// Asks for the location that new files go to when none is named, or sets it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DefaultLocation {
    /// Name or id of the one to set.
    pub location: Option<String>,
    /// Forget what was set.
    #[serde(default)]
    pub unset: bool,
}

/// Asks who alone deletes in a cloud location, or hands that over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CustodianRequest {
    /// Name or id of the location.
    pub location: String,
    /// Name or id of the device that shall do it from now on.
    pub device: Option<String>,
}

/// Names a device or location.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedRequest {
    /// Name or id.
    pub name: String,
}

/// 24 recovery words on their way to the node; wiped when dropped, and never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RecoveryWords(String);

impl RecoveryWords {
    /// Takes the words.
    pub fn new(mut words: Zeroizing<String>) -> Self {
        Self(std::mem::take(&mut *words))
    }

    /// The words.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Drop for RecoveryWords {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl std::fmt::Debug for RecoveryWords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RecoveryWords(…)")
    }
}

/// Removes a device from the group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokeDevice {
    /// Its name or id.
    pub device: String,
    /// The recovery words, when they decide instead of this device's role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<RecoveryWords>,
}

/// Changes what a device may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetDeviceRole {
    /// Its name or id.
    pub device: String,
    /// What it may do from now on.
    pub role: Role,
}

/// Reads a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexRequest {
    /// Name or id of a location; all of this device when absent.
    pub location: Option<String>,
    /// How thoroughly.
    #[serde(default)]
    pub mode: ScanMode,
    /// Believe that more than a tenth is gone.
    #[serde(default)]
    pub accept_loss: bool,
}

/// Searches names.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FindQuery {
    /// Words and parts of words that must all occur.
    pub query: String,
    /// Only in this location.
    pub location: Option<String>,
    /// Only this media type or its first part, such as `image`.
    #[serde(rename = "type")]
    pub media_type: Option<String>,
    /// Only with a copy that can be reached now.
    #[serde(default)]
    pub reachable: bool,
    /// At most so many.
    pub limit: Option<usize>,
}

/// Asks where a content is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhereQuery {
    /// A reference.
    pub reference: String,
}

/// Brings contents here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetRequest {
    /// References; folders end in `/`.
    pub references: Vec<String>,
    /// Absolute path of the file or folder to write.
    pub output: String,
    /// `output` names the file itself, not a folder to put it in.
    pub output_is_file: bool,
    /// Replace a different file.
    #[serde(default)]
    pub force: bool,
}

/// Makes contents available at a location.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnsureRequest {
    /// References; folders end in `/`.
    pub references: Vec<String>,
    /// Name or id of the location.
    pub location: String,
    /// Path there, for a single content.
    pub path: Option<String>,
}

/// Puts files and folders of this machine into a location, or, where `path` is given, the stream that follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutRequest {
    /// Absolute paths of files and folders; empty for a stream.
    #[serde(default)]
    pub sources: Vec<String>,
    /// Name or id of a location [default: as `location default` says]. What goes to one of another device is stored at the default
    /// of this one first.
    pub location: Option<String>,
    /// Path there; of several sources, and when it ends in `/`, the folder that they go into.
    pub path: Option<String>,
}

/// Reads a content's bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatQuery {
    /// A reference.
    pub reference: String,
    /// First byte, counted from 0.
    pub first: Option<u64>,
    /// Last byte, included.
    pub last: Option<u64>,
}

/// Asks for an address under which a content can be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UrlRequest {
    /// A reference.
    pub reference: String,
    /// Seconds that it is good for, 1 to 604,800.
    pub ttl_seconds: u64,
    /// Served by this device in any case, although a storage could do it itself.
    #[serde(default)]
    pub local: bool,
}

/// Reads the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LogQuery {
    /// Only lines about this reference.
    pub reference: Option<String>,
}
