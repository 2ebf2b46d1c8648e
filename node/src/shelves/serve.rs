//! Answering one request of a member.

use super::{ASIDE, Ledger, Room, Shelf, ShelfError, Shelves};
use crate::storage::{
    Multipart, ObjectKey, Part, Pending, Put, PutMode, Rename, StorageError, StorageErrorKind, StorageProvider, Upload,
    peer::Frames,
};
use bytes::Bytes;
use larder_protocol::{
    bounded::{List, Text, TooLong},
    codec::{self, DecodeError, EncodeError},
    id::{ChunkId, DeviceId, ShelfId},
    time::Timestamp,
    vault::{
        Addresses, Key, LISTED_MAX, ListedObject, OBJECT_BYTES_MAX, ObjectStat, PART_BYTES, VaultAnswer, VaultRefusal,
        VaultRequest,
    },
};
use std::{fs::File, io, os::unix::fs::FileExt, sync::Arc, time::Duration};
use tokio::time::timeout;

/// How long a member may take for one frame.
const FRAME_TIME_MAX: Duration = Duration::from_secs(30);
/// Longest object that is held in memory as a whole; longer ones are written and read in pieces of that length.
const PIECE_BYTES: usize = 4 << 20;

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
enum Stop {
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
        tracing::warn!(%error, "vault: the disk");
        Self::Refused(if error.kind() == io::ErrorKind::StorageFull {
            VaultRefusal::Full
        } else {
            VaultRefusal::Failed
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

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Whether a key, or the beginning of one, is the vault's own affair.
fn is_own(key: &str) -> bool {
    [ASIDE, ".larder/tmp/"].iter().any(|prefix| key.starts_with(prefix))
}

/// The key of an object, as far as members may name one.
fn object_key(key: &Key) -> Result<ObjectKey, Stop> {
    ObjectKey::new(key.as_str()).filter(|_| !is_own(key)).ok_or(Stop::Refused(VaultRefusal::Invalid))
}

/// Whether bytes are what the key names, where it names any.
fn check(named: Option<ChunkId>, hasher: &blake3::Hasher) -> Result<(), Stop> {
    match named {
        Some(id) if hasher.finalize() != *id.as_bytes() => Err(Stop::Refused(VaultRefusal::Damaged)),
        _ => Ok(()),
    }
}

/// An object that comes.
struct Coming<'a> {
    shelf: &'a Shelf,
    ledger: &'a Ledger,
    key: &'a ObjectKey,
    size: u64,
    replace: bool,
}

impl Coming<'_> {
    fn mode(&self) -> PutMode {
        if self.replace { PutMode::Replace } else { PutMode::IfAbsent }
    }

    /// Does what gives the object its place, and counts it.
    async fn placed(&self, placing: Pending<'_, Put>) -> Result<Put, Stop> {
        if self.replace {
            let _alone = self.shelf.changing.write().await;
            let before = self.shelf.storage.stat(self.key).await?.map_or(0, |stat| stat.size);
            let put = placing.await?;
            self.ledger.changed(self.size, before);
            return Ok(put);
        }
        let _shared = self.shelf.changing.read().await;
        let put = placing.await?;
        if put == Put::New {
            self.ledger.changed(self.size, 0);
        }
        Ok(put)
    }
}

struct Answering<'a, 'b> {
    shelves: &'a Shelves,
    asker: &'a Asker<'b>,
    frames: &'a mut dyn Frames,
}

impl Answering<'_, '_> {
    async fn frames_answer(self, answer: &VaultAnswer) -> Result<(), ServeError> {
        Ok(self.frames.send(&codec::encode(answer)?).await?)
    }

    async fn run(mut self, request: VaultRequest) -> Result<(), ServeError> {
        let answered = match request {
            VaultRequest::Put { shelf, key, size, replace } => self.put(shelf, &key, size, replace).await,
            VaultRequest::Get { shelf, key, range } => match self.get(shelf, &key, range).await {
                Ok(()) => return Ok(()),
                Err(stop) => Err(stop),
            },
            VaultRequest::Stat { shelf, key } => self.stat(shelf, &key).await,
            VaultRequest::List { shelf, prefix, after, limit } => {
                self.list(shelf, &prefix, after.as_ref(), limit).await
            }
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

    /// A shelf that must be there for what is asked.
    async fn shelf(&mut self, id: ShelfId) -> Result<Arc<Shelf>, Stop> {
        self.shelves.find(id).await?.ok_or(Stop::Refused(VaultRefusal::NotFound))
    }

    /// The next piece of an object that comes.
    async fn piece(&mut self, expected: usize) -> Result<Vec<u8>, Stop> {
        let frame = next(self.frames).await.map_err(ServeError::from)?;
        if frame.len() != expected {
            return Err(ServeError::Piece { got: frame.len(), expected }.into());
        }
        if (self.asker.rights)() == Rights::None {
            return Err(Stop::Refused(VaultRefusal::Role));
        }
        Ok(frame)
    }

    async fn put(&mut self, id: ShelfId, key: &Key, size: u64, replace: bool) -> Result<VaultAnswer, Stop> {
        let key = object_key(key)?;
        if size > OBJECT_BYTES_MAX {
            return Err(Stop::Refused(VaultRefusal::Invalid));
        }
        let shelf = self.shelves.begin(id, self.asker.device).await?;
        if !replace && shelf.storage.stat(&key).await?.is_some() {
            return Ok(VaultAnswer::Stored { new: false });
        }
        let ledger = self.shelves.ledger().await?;
        let counting = ledger.clone();
        let room: Option<Room> = blocking(move || counting.room(size)).await?;
        let Some(_room) = room else { return Err(Stop::Refused(VaultRefusal::Full)) };
        let ready = codec::encode(&VaultAnswer::Ready).map_err(ServeError::from)?;
        self.frames.send(&ready).await.map_err(ServeError::from)?;
        let object = Coming { shelf: &shelf, ledger: &ledger, key: &key, size, replace };
        let put = if size <= PIECE_BYTES as u64 { self.whole(&object).await? } else { self.in_pieces(&object).await? };
        Ok(VaultAnswer::Stored { new: put == Put::New })
    }

    async fn whole(&mut self, object: &Coming<'_>) -> Result<Put, Stop> {
        let len = usize::try_from(object.size).unwrap_or(PIECE_BYTES);
        let (bytes, hasher) = self.gather(len, blake3::Hasher::new()).await?;
        check(object.key.content_named(), &hasher)?;
        object.placed(object.shelf.storage.put(object.key, bytes, object.mode())).await
    }

    async fn in_pieces(&mut self, object: &Coming<'_>) -> Result<Put, Stop> {
        let storage = &object.shelf.storage;
        let upload = storage.begin(object.key, object.size, object.mode()).await?;
        let done = match self.pieces(object.shelf, &upload, object.size).await {
            Ok(parts) => object.placed(storage.complete(&upload, &parts, object.mode())).await,
            Err(stop) => Err(stop),
        };
        if !matches!(done, Ok(Put::New)) {
            storage.abort(&upload).await?;
        }
        done
    }

    async fn pieces(&mut self, shelf: &Shelf, upload: &Upload, size: u64) -> Result<Vec<Part>, Stop> {
        let (mut parts, mut offset, mut hasher) = (Vec::new(), 0_u64, blake3::Hasher::new());
        while offset < size {
            let len = usize::try_from(size - offset).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
            let (bytes, hashed) = self.gather(len, hasher).await?;
            hasher = hashed;
            let number = u32::try_from(parts.len() + 1).unwrap_or(u32::MAX);
            parts.push(shelf.storage.put_part(upload, number, offset, bytes).await?);
            offset += len as u64;
        }
        check(upload.key.content_named(), &hasher)?;
        Ok(parts)
    }

    /// So many bytes of an object that comes, hashed on the way.
    async fn gather(&mut self, len: usize, mut hasher: blake3::Hasher) -> Result<(Bytes, blake3::Hasher), Stop> {
        let mut bytes = Vec::new();
        while bytes.len() < len {
            let piece = self.piece(PART_BYTES.min(len - bytes.len())).await?;
            hasher.update(&piece);
            bytes.extend_from_slice(&piece);
        }
        Ok((bytes.into(), hasher))
    }

    async fn get(&mut self, id: ShelfId, key: &Key, range: Option<(u64, u64)>) -> Result<(), Stop> {
        let key = object_key(key)?;
        let shelf = self.shelf(id).await?;
        let path = shelf.storage.local_path(&key).ok_or(Stop::Refused(VaultRefusal::NotFound))?;
        let named = key.content_named();
        let opened = blocking(move || open(&path, named)).await;
        let (file, len) = match opened {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                set_aside(&shelf, &key).await?;
                return Err(Stop::Refused(VaultRefusal::Damaged));
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(Stop::Refused(VaultRefusal::NotFound));
            }
            Err(error) => return Err(error.into()),
        };
        let (start, end) = range.unwrap_or((0, len));
        let (start, end) = (start.min(len), end.min(len));
        let size = end.saturating_sub(start);
        let answer = codec::encode(&VaultAnswer::Object { size }).map_err(ServeError::from)?;
        self.frames.send(&answer).await.map_err(ServeError::from)?;
        // From here on a failure can only end the stream.
        let (file, mut at) = (Arc::new(file), start);
        while at < start + size {
            let piece = usize::try_from(start + size - at).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
            let reading = file.clone();
            let bytes = blocking(move || {
                let mut bytes = vec![0; piece];
                reading.read_exact_at(&mut bytes, at)?;
                Ok(bytes)
            })
            .await
            .map_err(ServeError::from)?;
            for part in bytes.chunks(PART_BYTES) {
                if (self.asker.rights)() == Rights::None {
                    return Err(ServeError::from(io::Error::from(io::ErrorKind::PermissionDenied)).into());
                }
                self.frames.send(part).await.map_err(ServeError::from)?;
            }
            at += piece as u64;
        }
        Ok(())
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
        for listed in page.objects.iter().filter(|listed| !listed.key.as_str().starts_with(ASIDE)) {
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

/// Opens an object, and reads all of one that must match its name; one that does not is `InvalidData`. Blocks.
fn open(path: &std::path::Path, named: Option<ChunkId>) -> io::Result<(File, u64)> {
    let file = File::open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    if let Some(id) = named {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(&file)?;
        if hasher.finalize() != *id.as_bytes() {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok((file, meta.len()))
}

/// Takes a damaged object out of the way, so that it can be put again. It is kept for whoever looks into it.
async fn set_aside(shelf: &Shelf, key: &ObjectKey) -> Result<(), Stop> {
    tracing::error!(%key, "vault: an object is not what its name says");
    let name = key.as_str().rsplit('/').next().unwrap_or_default();
    let Some(aside) = ObjectKey::new(format!("{ASIDE}{name}")) else { return Ok(()) };
    Ok(Rename::rename(&shelf.storage, key, &aside, PutMode::Replace).await?)
}
