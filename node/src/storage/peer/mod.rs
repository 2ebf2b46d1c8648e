//! `peer`: objects on a shelf of another device, a vault of the group.
//!
//! Membership is the credential: the vault serves writers and admins of its group, over a stream that proves who they are.
//! How a stream is opened is the node's affair ([`PeerLink`]); what is said on it is `larder_protocol::vault`.

pub(crate) mod parts;
mod stream;

pub use stream::{Frames, PeerLink};

use super::{
    Credential, Listed, Multipart, ObjectKey, Page, Pending, ProviderConfig, ProviderFactory, Put, PutMode, Quota,
    Setting, SettingError, Stat, StorageError, StorageErrorKind, StorageProvider, Usage, Version, check_config, value,
};
use bytes::Bytes;
use larder_protocol::{
    bounded::Text,
    id::{DeviceId, GroupId, ShelfId},
    vault::{self, LISTED_MAX, OBJECT_BYTES_MAX, PART_BYTES, VaultAnswer, VaultRefusal, VaultRequest},
};
use std::{ops::Range, sync::Arc};
use stream::Conversation;

const NAME: &str = "peer";
const SETTINGS: &[Setting] = &[
    Setting::required("device", "id of the vault, as `device show` has it"),
    Setting::with_default("shelf", "", "name of the shelf, which the vault does not learn"),
];
/// Requests of one location under way; a vault serves eight of a member at a time.
const REQUESTS_MAX: usize = 6;

/// Makes `peer` providers.
pub struct PeerFactory {
    group: GroupId,
    link: Arc<dyn PeerLink>,
}

impl PeerFactory {
    /// For the vaults of a group, which are reached by way of `link`.
    pub fn new(group: GroupId, link: Arc<dyn PeerLink>) -> Self {
        Self { group, link }
    }
}

impl ProviderFactory for PeerFactory {
    fn name(&self) -> &'static str {
        NAME
    }

    fn settings(&self) -> &'static [Setting] {
        SETTINGS
    }

    fn validate(&self, config: &ProviderConfig) -> Result<(), SettingError> {
        check_config(NAME, SETTINGS, config)?;
        match config.get("device").map(|id| id.parse::<DeviceId>()) {
            Some(Ok(_)) => Ok(()),
            _ => Err(SettingError::invalid(NAME, "device", "must be the id of a device")),
        }
    }

    fn create(&self, config: &ProviderConfig, _: &Credential) -> Result<Arc<dyn StorageProvider>, StorageError> {
        let invalid = || StorageError::new(NAME, StorageErrorKind::Invalid, "no such device");
        let device = config.get("device").and_then(|id| id.parse().ok()).ok_or_else(invalid)?;
        let shelf = vault::shelf(&self.group, value(SETTINGS, config, "shelf").unwrap_or_default());
        Ok(Arc::new(PeerProvider::new(self.link.clone(), device, shelf)))
    }
}

/// Objects on a shelf of a vault.
pub struct PeerProvider {
    link: Arc<dyn PeerLink>,
    device: DeviceId,
    shelf: ShelfId,
}

/// What a refusal means to whoever asked.
fn refused(refusal: VaultRefusal) -> StorageError {
    let kind = match refusal {
        // It may become a vault again; no credential of this device would help.
        VaultRefusal::Role => StorageErrorKind::Unavailable,
        VaultRefusal::NotAllowed => StorageErrorKind::NotAllowed,
        VaultRefusal::NotFound => StorageErrorKind::NotFound,
        VaultRefusal::Invalid => StorageErrorKind::Invalid,
        VaultRefusal::Damaged => StorageErrorKind::Damaged,
        VaultRefusal::Full => StorageErrorKind::Full,
        VaultRefusal::Busy => StorageErrorKind::Throttled,
        VaultRefusal::Failed => StorageErrorKind::Other,
    };
    StorageError::new(NAME, kind, refusal.to_string())
}

/// An answer that belongs to another request.
fn unexpected() -> StorageError {
    StorageError::new(NAME, StorageErrorKind::Other, "the vault answers something else")
}

/// Asks a vault what has one answer.
///
/// # Errors
/// [`StorageError`] when the vault is not there or refuses.
pub async fn ask(link: &dyn PeerLink, device: DeviceId, request: &VaultRequest) -> Result<VaultAnswer, StorageError> {
    let (conversation, answer) = Conversation::begin(link, device, request, true).await?;
    conversation.end().await;
    Ok(answer)
}

impl PeerProvider {
    /// A shelf of a vault, which is reached by way of `link`.
    pub fn new(link: Arc<dyn PeerLink>, device: DeviceId, shelf: ShelfId) -> Self {
        Self { link, device, shelf }
    }

    /// Asks what has one answer.
    async fn ask(&self, request: &VaultRequest) -> Result<VaultAnswer, StorageError> {
        ask(&*self.link, self.device, request).await
    }

    fn key(key: &ObjectKey) -> Result<vault::Key, StorageError> {
        Self::text(key.as_str())
    }

    fn text(text: &str) -> Result<vault::Key, StorageError> {
        Text::new(text).map_err(|error| StorageError::new(NAME, StorageErrorKind::Invalid, error.to_string()))
    }

    async fn send(&self, key: &str, bytes: Bytes, replace: bool) -> Result<Put, StorageError> {
        let size = bytes.len() as u64;
        if size > OBJECT_BYTES_MAX {
            let detail = format!("{size} bytes at once; a vault takes {OBJECT_BYTES_MAX}, and more in parts");
            return Err(StorageError::new(NAME, StorageErrorKind::Invalid, detail));
        }
        let request = VaultRequest::Put { shelf: self.shelf, key: Self::text(key)?, size, replace };
        let (mut conversation, answer) = Conversation::begin(&*self.link, self.device, &request, false).await?;
        let stored = |answer| match answer {
            VaultAnswer::Stored { new: true } => Ok(Put::New),
            VaultAnswer::Stored { new: false } => Ok(Put::AlreadyThere),
            _ => Err(unexpected()),
        };
        if answer != VaultAnswer::Ready {
            return stored(answer);
        }
        for part in bytes.chunks(PART_BYTES) {
            // A vault that refuses halfway takes no more; why is in its answer.
            if let Err(error) = conversation.send(part).await {
                return match conversation.answer().await {
                    Err(refusal) if !refusal.may_retry() => Err(refusal),
                    _ => Err(error),
                };
            }
        }
        conversation.close().await?;
        let answer = conversation.answer().await?;
        conversation.end().await;
        stored(answer)
    }

    async fn read(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Bytes, StorageError> {
        let range = range.map(|range| (range.start, range.end.max(range.start)));
        let request = VaultRequest::Get { shelf: self.shelf, key: Self::key(key)?, range };
        let (mut conversation, answer) = Conversation::begin(&*self.link, self.device, &request, true).await?;
        let VaultAnswer::Object { size } = answer else { return Err(unexpected()) };
        let most = range.map_or(OBJECT_BYTES_MAX, |(start, end)| (end - start).min(OBJECT_BYTES_MAX));
        let size = usize::try_from(size).ok().filter(|_| size <= most).ok_or_else(unexpected)?;
        let mut bytes = Vec::new();
        while bytes.len() < size {
            let part = conversation.part().await?;
            if part.len() != PART_BYTES.min(size - bytes.len()) {
                return Err(unexpected());
            }
            bytes.extend_from_slice(&part);
        }
        conversation.end().await;
        Ok(bytes.into())
    }

    async fn page(&self, prefix: &str, after: Option<&ObjectKey>, limit: usize) -> Result<Page, StorageError> {
        let limit = u16::try_from(limit.clamp(1, LISTED_MAX)).unwrap_or(1);
        let after = after.map(Self::key).transpose()?;
        let request = VaultRequest::List { shelf: self.shelf, prefix: Self::text(prefix)?, after, limit };
        let VaultAnswer::Page { objects, next } = self.ask(&request).await? else { return Err(unexpected()) };
        let key = |key: vault::Key| ObjectKey::new(key.as_str()).ok_or_else(unexpected);
        let listed = |object: vault::ListedObject| {
            Ok(Listed { key: key(object.key)?, size: object.size, modified: Some(object.modified) })
        };
        Ok(Page {
            objects: objects.into_vec().into_iter().map(listed).collect::<Result<_, StorageError>>()?,
            next: next.map(key).transpose()?,
        })
    }

    async fn done(&self, request: VaultRequest) -> Result<(), StorageError> {
        match self.ask(&request).await? {
            VaultAnswer::Done => Ok(()),
            _ => Err(unexpected()),
        }
    }
}

impl StorageProvider for PeerProvider {
    fn name(&self) -> &'static str {
        NAME
    }

    fn put<'a>(&'a self, key: &'a ObjectKey, bytes: Bytes, mode: PutMode) -> Pending<'a, Put> {
        Box::pin(self.send(key.as_str(), bytes, mode == PutMode::Replace))
    }

    fn get_range<'a>(&'a self, key: &'a ObjectKey, range: Option<Range<u64>>) -> Pending<'a, Bytes> {
        Box::pin(self.read(key, range))
    }

    fn stat<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, Option<Stat>> {
        Box::pin(async move {
            let request = VaultRequest::Stat { shelf: self.shelf, key: Self::key(key)? };
            let VaultAnswer::Found(found) = self.ask(&request).await? else { return Err(unexpected()) };
            Ok(found.map(|found| Stat {
                size: found.size,
                modified: Some(found.modified),
                version: Some(Version(found.version.to_string())),
            }))
        })
    }

    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a ObjectKey>, limit: usize) -> Pending<'a, Page> {
        Box::pin(self.page(prefix, after, limit))
    }

    fn delete<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, ()> {
        Box::pin(async move { self.done(VaultRequest::Delete { shelf: self.shelf, key: Self::key(key)? }).await })
    }

    fn test(&self) -> Pending<'_, ()> {
        Box::pin(self.done(VaultRequest::Test { shelf: self.shelf }))
    }

    fn requests_max(&self) -> usize {
        REQUESTS_MAX
    }

    fn multipart(&self) -> Option<&dyn Multipart> {
        Some(self)
    }

    fn quota(&self) -> Option<&dyn Quota> {
        Some(self)
    }
}

impl Quota for PeerProvider {
    fn usage(&self) -> Pending<'_, Usage> {
        Box::pin(async move {
            match self.ask(&VaultRequest::Usage).await? {
                VaultAnswer::Usage { used, free } => Ok(Usage { used, free: Some(free) }),
                _ => Err(unexpected()),
            }
        })
    }
}
