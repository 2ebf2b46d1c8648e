//! Answering one request of a member.

use super::{ASIDE, SUMS, Shelf, ShelfError, Shelves, UPLOADS, blocking, keeping::is_noted};
use crate::storage::{
    ObjectKey, StorageError, StorageErrorKind, StorageProvider,
    peer::{Frames, parts},
};
use larder_protocol::{
    bounded::{List, Text, TooLong},
    codec::{self, DecodeError, EncodeError},
    id::{DeviceId, ShelfId},
    time::Timestamp,
    vault::{Addresses, Key, LISTED_MAX, ListedObject, ObjectStat, VaultAnswer, VaultRefusal, VaultRequest},
};
use std::{io, sync::Arc, time::Duration};
use tokio::time::timeout;

/// How long a member may take for one frame.
const FRAME_TIME_MAX: Duration = Duration::from_secs(30);
/// What a device may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// Nothing.
    None,
    /// To put and read, and to remove from shelves that it has begun.
    Store,
    /// The same, and to remove from any shelf.
    Decide,
}

/// Who asks, and what it may ask for at that moment.
pub struct Asker<'a> {
    /// Who.
    pub device: DeviceId,
    /// What it may do now.
    pub rights: &'a (dyn Fn() -> Rights + Send + Sync),
    /// Takes what it says of where members are.
    pub meet: &'a (dyn Fn(Met) + Send + Sync),
}

/// Where members are, as multiaddrs.
pub type Met = Vec<(DeviceId, Vec<String>)>;

/// Why a conversation broke off.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The stream failed, or the other end fell silent.
    #[error(transparent)]
    Stream(#[from] io::Error),
    /// What came is no request.
    #[error("request: {0}")]
    Request(#[from] DecodeError),
    /// An object came in other pieces than was agreed.
    #[error("a frame of {got} bytes instead of {expected}")]
    Piece {
        /// Bytes that came.
        got: usize,
        /// Bytes that were due.
        expected: usize,
    },
    /// An answer is too long.
    #[error("answer: {0}")]
    Answer(#[from] EncodeError),
}

impl ServeError {
    /// Whether no honest device does that.
    pub fn is_fault(&self) -> bool {
        matches!(self, Self::Request(_) | Self::Piece { .. })
    }
}

/// Why a request is not done.
pub(super) enum Stop {
    /// The other end is told.
    Refused(VaultRefusal),
    /// Nobody is there to be told.
    Broken(ServeError),
}

impl From<ServeError> for Stop {
    fn from(error: ServeError) -> Self {
        Self::Broken(error)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Refused(match error.kind() {
            io::ErrorKind::NotFound => VaultRefusal::NotFound,
            io::ErrorKind::InvalidInput | io::ErrorKind::AlreadyExists => VaultRefusal::Invalid,
            io::ErrorKind::StorageFull => VaultRefusal::Full,
            _ => {
                tracing::warn!(%error, "vault: the disk");
                VaultRefusal::Failed
            }
        })
    }
}

impl From<StorageError> for Stop {
    fn from(error: StorageError) -> Self {
        Self::Refused(match error.kind {
            StorageErrorKind::NotFound => VaultRefusal::NotFound,
            StorageErrorKind::Invalid | StorageErrorKind::Conflict => VaultRefusal::Invalid,
            StorageErrorKind::Full => VaultRefusal::Full,
            _ => {
                tracing::warn!(%error, "vault: a shelf");
                VaultRefusal::Failed
            }
        })
    }
}

impl From<ShelfError> for Stop {
    fn from(error: ShelfError) -> Self {
        match error {
            ShelfError::Io(error) => error.into(),
            ShelfError::Storage(error) => error.into(),
            ShelfError::TooMany => Self::Refused(VaultRefusal::Full),
        }
    }
}

impl From<TooLong> for Stop {
    fn from(_: TooLong) -> Self {
        Self::Refused(VaultRefusal::Invalid)
    }
}

/// Answers the request that comes on a stream.
///
/// # Errors
/// [`ServeError`] when the stream breaks, or what comes on it is no request; a request that is refused is no error.
pub async fn serve(shelves: &Shelves, asker: &Asker<'_>, frames: &mut dyn Frames) -> Result<(), ServeError> {
    let request = next(frames).await?;
    let _serving = shelves.busy.serving();
    let answering = Answering { shelves, asker, frames };
    if (asker.rights)() == Rights::None {
        tracing::info!(device = %asker.device, "vault: refused a device that may not ask");
        return answering.frames_answer(&VaultAnswer::Refused(VaultRefusal::Role)).await;
    }
    let request = codec::decode(&request)?;
    answering.run(request).await
}

async fn next(frames: &mut dyn Frames) -> io::Result<Vec<u8>> {
    timeout(FRAME_TIME_MAX, frames.next()).await??.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Whether a key, or the beginning of one, is the vault's own affair.
pub(super) fn is_own(key: &str) -> bool {
    let beneath = |folder: &str| key.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    key.starts_with(ASIDE) || [".larder/tmp", SUMS, UPLOADS].into_iter().any(beneath)
}

/// Whether a key, or the beginning of one, is about an upload.
fn is_of_upload(key: &str) -> bool {
    key.starts_with(parts::UPLOADS)
}

/// The key of an object, as far as members may name one.
pub(super) fn object_key(key: &Key) -> Result<ObjectKey, Stop> {
    ObjectKey::new(key.as_str()).filter(|_| !is_own(key)).ok_or(Stop::Refused(VaultRefusal::Invalid))
}

pub(super) struct Answering<'a, 'b> {
    pub(super) shelves: &'a Shelves,
    pub(super) asker: &'a Asker<'b>,
    pub(super) frames: &'a mut dyn Frames,
}

impl Answering<'_, '_> {
    async fn frames_answer(self, answer: &VaultAnswer) -> Result<(), ServeError> {
        Ok(self.frames.send(&codec::encode(answer)?).await?)
    }

    async fn run(mut self, request: VaultRequest) -> Result<(), ServeError> {
        let answered = match request {
            VaultRequest::Put { shelf, key, size, replace } if is_of_upload(&key) => {
                self.put_of_upload(shelf, &key, size, replace).await
            }
            VaultRequest::Put { shelf, key, size, replace } => self.put(shelf, &key, size, replace).await,
            VaultRequest::Get { shelf, key, range } => match self.give(shelf, &key, range).await {
                Ok(()) => return Ok(()),
                Err(stop) => Err(stop),
            },
            VaultRequest::Stat { shelf, key } => self.stat(shelf, &key).await,
            VaultRequest::List { shelf, prefix, after, limit } if is_of_upload(&prefix) => {
                self.list_uploads(shelf, &prefix, after.as_ref(), limit).await
            }
            VaultRequest::List { shelf, prefix, after, limit } => {
                self.list(shelf, &prefix, after.as_ref(), limit).await
            }
            VaultRequest::Delete { shelf, key } if is_of_upload(&key) => self.give_up_upload(shelf, &key).await,
            VaultRequest::Delete { shelf, key } => self.delete(shelf, &key).await,
            VaultRequest::Test { shelf } => self.test(shelf).await,
            VaultRequest::Usage => self.usage().await,
            VaultRequest::Meet { devices } => {
                let texts = |texts: &Addresses| texts.iter().map(ToString::to_string).collect();
                (self.asker.meet)(devices.iter().map(|(device, addresses)| (*device, texts(addresses))).collect());
                Ok(VaultAnswer::Done)
            }
        };
        let answer = match answered {
            Ok(answer) => answer,
            Err(Stop::Refused(refusal)) => VaultAnswer::Refused(refusal),
            Err(Stop::Broken(error)) => return Err(error),
        };
        self.frames_answer(&answer).await
    }

    async fn give(&mut self, id: ShelfId, key: &Key, range: Option<(u64, u64)>) -> Result<(), Stop> {
        if is_of_upload(key) { self.get_upload(id, key).await } else { self.get(id, key, range).await }
    }

    /// A shelf that must be there for what is asked.
    pub(super) async fn shelf(&mut self, id: ShelfId) -> Result<Arc<Shelf>, Stop> {
        self.shelves.find(id).await?.ok_or(Stop::Refused(VaultRefusal::NotFound))
    }

    /// Sends what is not the last of an answer.
    pub(super) async fn say(&mut self, answer: &VaultAnswer) -> Result<(), Stop> {
        let answer = codec::encode(answer).map_err(ServeError::from)?;
        Ok(self.frames.send(&answer).await.map_err(ServeError::from)?)
    }

    /// The next piece of an object that comes.
    pub(super) async fn piece(&mut self, expected: usize) -> Result<Vec<u8>, Stop> {
        let frame = next(self.frames).await.map_err(ServeError::from)?;
        if frame.len() != expected {
            return Err(ServeError::Piece { got: frame.len(), expected }.into());
        }
        self.still_may()?;
        Ok(frame)
    }

    /// Whether who asks may still ask.
    pub(super) fn still_may(&self) -> Result<(), Stop> {
        if (self.asker.rights)() == Rights::None { Err(Stop::Refused(VaultRefusal::Role)) } else { Ok(()) }
    }

    async fn stat(&mut self, id: ShelfId, key: &Key) -> Result<VaultAnswer, Stop> {
        let key = object_key(key)?;
        let Some(shelf) = self.shelves.find(id).await? else { return Ok(VaultAnswer::Found(None)) };
        let Some(found) = shelf.storage.stat(&key).await? else { return Ok(VaultAnswer::Found(None)) };
        let version = found.version.map(|version| version.0).unwrap_or_default();
        Ok(VaultAnswer::Found(Some(ObjectStat {
            size: found.size,
            modified: found.modified.unwrap_or(Timestamp(0)),
            version: Text::new(version)?,
        })))
    }

    async fn list(&mut self, id: ShelfId, prefix: &Key, after: Option<&Key>, limit: u16) -> Result<VaultAnswer, Stop> {
        let invalid = || Stop::Refused(VaultRefusal::Invalid);
        // A prefix that no key could begin with might lead out of the shelf.
        ObjectKey::new(format!("{prefix}x")).filter(|_| !is_own(prefix)).ok_or_else(invalid)?;
        let after = after.map(|key| ObjectKey::new(key.as_str()).ok_or_else(invalid)).transpose()?;
        let Some(shelf) = self.shelves.find(id).await? else {
            return Ok(VaultAnswer::Page { objects: List::default(), next: None });
        };
        let page = shelf.storage.list(prefix, after.as_ref(), usize::from(limit).min(LISTED_MAX)).await?;
        let mut objects = Vec::new();
        for listed in page.objects.iter().filter(|listed| !is_own(listed.key.as_str())) {
            let modified = listed.modified.unwrap_or(Timestamp(0));
            objects.push(ListedObject { key: Text::new(listed.key.as_str())?, size: listed.size, modified });
        }
        let next = page.next.map(|key| Text::new(key.as_str())).transpose()?;
        Ok(VaultAnswer::Page { objects: List::new(objects)?, next })
    }

    async fn delete(&mut self, id: ShelfId, key: &Key) -> Result<VaultAnswer, Stop> {
        let key = object_key(key)?;
        let Some(shelf) = self.shelves.find(id).await? else { return Ok(VaultAnswer::Done) };
        if (self.asker.rights)() != Rights::Decide && shelf.owner != self.asker.device {
            return Err(Stop::Refused(VaultRefusal::NotAllowed));
        }
        let ledger = self.shelves.ledger().await?;
        let _alone = shelf.changing.write().await;
        let Some(found) = shelf.storage.stat(&key).await? else { return Ok(VaultAnswer::Done) };
        shelf.storage.delete(&key).await?;
        ledger.changed(0, found.size);
        if is_noted(&key, found.size) {
            shelf.forget(&key).await?;
        }
        Ok(VaultAnswer::Done)
    }

    async fn test(&mut self, id: ShelfId) -> Result<VaultAnswer, Stop> {
        let shelf = self.shelves.begin(id, self.asker.device).await?;
        shelf.storage.test().await?;
        Ok(VaultAnswer::Done)
    }

    async fn usage(&mut self) -> Result<VaultAnswer, Stop> {
        let ledger = self.shelves.ledger().await?;
        let (used, free) = blocking(move || ledger.usage()).await?;
        Ok(VaultAnswer::Usage { used, free })
    }
}
