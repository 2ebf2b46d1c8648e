//! `cat`: a content's bytes, or a range of them, without a file.

use super::{
    blocking,
    bring::{addresses, fetch_manifest},
    checked,
    copies::{Copy, Form, Known},
    errors,
    select::{self, Wanted},
};
use crate::{
    audit::Event,
    node::{Node, now},
    storage::{ChunkSource, LONG_BYTES, OpenError, StorageProvider, object_key, open_range},
    transfer::{Blob, Item, Request},
    tree_hash,
};
use larder_protocol::{
    control::{CatQuery, ControlError, ErrorKind},
    fetch::Reason,
    id::{ChunkId, ContentId, DeviceId},
    seal::Manifest,
};
use std::{fs, io, ops::Range, os::unix::fs::FileExt, path::PathBuf, sync::Arc};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

/// Bytes that are read and verified at a time.
const PIECE_BYTES: u64 = 4 << 20;

type Pieces = ReceiverStream<io::Result<Vec<u8>>>;

/// The number of bytes that follow, and the bytes in pieces.
pub(crate) async fn cat(node: Arc<Node>, query: CatQuery) -> Result<(u64, Pieces), ControlError> {
    let (finding, reference) = (node.clone(), query.reference.clone());
    let wanted = blocking(move || one(&finding, &reference)).await?;
    let (content, size) = (wanted.content, wanted.size);
    let mut reading = Reading::of(&node, content, size).await?;
    let first = query.first.unwrap_or(0);
    let end = query.last.map_or(size, |last| last.saturating_add(1)).min(size);
    if first > size || (first == size && size > 0) {
        let detail = format!("it has {size} bytes");
        return Err(ControlError::new(ErrorKind::BadRequest, "--range").detail(detail));
    }
    let range = first..end.max(first);
    let (pieces, receiver) = mpsc::channel(2);
    let length = range.end - range.start;
    // The first piece decides whether there is anything to say at all, so that an error comes as one.
    let head = range.start..range.end.min(range.start + PIECE_BYTES);
    let first_piece = reading.read(head.clone()).await?;
    node.note(Event::ok("cat", content).fact("bytes", length));
    tokio::spawn(async move {
        if pieces.send(Ok(first_piece)).await.is_err() {
            return;
        }
        let mut at = head.end;
        while at < range.end {
            let next = at..range.end.min(at + PIECE_BYTES);
            at = next.end;
            let piece = reading.read(next).await;
            let failed = piece.is_err();
            if pieces.send(piece.map_err(io::Error::other)).await.is_err() || failed {
                return;
            }
        }
    });
    Ok((length, ReceiverStream::new(receiver)))
}

/// The one content that a reference names.
pub(super) fn one(node: &Node, reference: &str) -> Result<Wanted, ControlError> {
    let mut wanted = select::contents(node, reference)?;
    match (wanted.pop(), wanted.is_empty()) {
        (Some(wanted), true) => Ok(wanted),
        _ => Err(ControlError::new(ErrorKind::AmbiguousReference, reference).detail("name one file")),
    }
}

/// A content whose ranges are read and verified, wherever its copies are.
pub(crate) struct Reading {
    node: Arc<Node>,
    content: ContentId,
    readers: Vec<Reader>,
}

impl Reading {
    /// Finds the copies of a content that can be read now.
    ///
    /// # Errors
    /// [`ErrorKind::NotAllowed`] when it is only where this device may not read.
    pub(crate) async fn of(node: &Arc<Node>, content: ContentId, size: u64) -> Result<Self, ControlError> {
        let finding = node.clone();
        let copies = blocking(move || {
            let snapshot = finding.catalog.read().map_err(errors::catalog)?;
            let known = Known::read(&finding, &snapshot)?;
            let found = snapshot.copies(&content).map_err(errors::catalog)?;
            let copies = found.map_or_else(Vec::new, |found| known.copies(&finding, &found));
            match known.withheld(&content, &copies) {
                Some(refusal) => {
                    finding.note(Event::refused("read", content));
                    Err(refusal)
                }
                None => Ok(copies),
            }
        })
        .await?;
        Ok(Self { node: node.clone(), content, readers: readers(node, &content, size, &copies) })
    }

    /// Verified bytes of a range, held in memory: the caller bounds it.
    ///
    /// # Errors
    /// [`ErrorKind::NoSource`] when no copy gives them now.
    pub(crate) async fn read(&mut self, range: Range<u64>) -> Result<Vec<u8>, ControlError> {
        read(&mut self.readers, &self.node, range).await.ok_or_else(|| {
            ControlError::new(ErrorKind::NoSource, self.content.to_string())
                .detail("no reachable copy gives these bytes")
                .retry()
        })
    }
}

/// A way to read ranges of one content.
enum Reader {
    /// A file of this device, once it was verified.
    File { path: PathBuf, content: ContentId, size: u64, verified: Option<checked::Mark> },
    /// Another device's file.
    Remote { holder: DeviceId, content: ContentId, size: u64 },
    /// Objects of this device or another.
    Sealed {
        holders: Vec<DeviceId>,
        own: Option<Own>,
        id: ChunkId,
        content: ContentId,
        manifest: Option<Arc<Manifest>>,
    },
}

/// A place of this device with objects.
#[derive(Clone)]
enum Own {
    Place(crate::engine::Place),
    Cloud(Arc<crate::engine::Cloud>),
}

fn readers(node: &Node, content: &ContentId, size: u64, copies: &[Copy]) -> Vec<Reader> {
    let reader = |copy: &Copy| {
        let place = node.places.get(&copy.location);
        match (&copy.form, &copy.path, place) {
            (Form::InPlace, Some(path), Some(place)) if copy.here => {
                Some(Reader::File { path: place.file(path), content: *content, size, verified: None })
            }
            (Form::InPlace, _, _) if !copy.here => {
                Some(Reader::Remote { holder: *copy.holders.first()?, content: *content, size })
            }
            (Form::Objects(id), _, place) => {
                let cloud = || node.clouds.get(&copy.location).filter(|cloud| cloud.may_be_there()).map(Own::Cloud);
                let own = place.map(Own::Place).or_else(cloud);
                let holders = copy.holders_online(node);
                Some(Reader::Sealed { holders, own, id: *id, content: *content, manifest: None })
            }
            _ => None,
        }
    };
    copies.iter().filter(|copy| copy.reachable).filter_map(reader).collect()
}

/// Reads a range by the first way that still works; ways that fail are dropped.
async fn read(readers: &mut Vec<Reader>, node: &Arc<Node>, range: Range<u64>) -> Option<Vec<u8>> {
    while let Some(reader) = readers.first_mut() {
        match read_by(reader, node, range.clone()).await {
            Some(bytes) => return Some(bytes),
            None => {
                readers.remove(0);
            }
        }
    }
    None
}

async fn read_by(reader: &mut Reader, node: &Arc<Node>, range: Range<u64>) -> Option<Vec<u8>> {
    match reader {
        Reader::File { path, content, size, verified } => {
            let (path, content, size, known) = (path.clone(), *content, *size, *verified);
            let node = node.clone();
            let read = blocking(move || Ok(read_file(&node, &path, &content, size, known, range))).await.ok()??;
            *verified = Some(read.1);
            Some(read.0)
        }
        Reader::Remote { holder, content, size } => {
            let item = Item { hash: *content.as_bytes(), size: *size, partial: PathBuf::new(), sources: vec![*holder] };
            let request = Request {
                items: vec![item],
                addresses: addresses(node).ok()?,
                progress: Arc::new(|_| {}),
                cancel: CancellationToken::new(),
            };
            node.data.fetch_range(&request, range).await.ok().map(|(_, bytes)| bytes)
        }
        Reader::Sealed { holders, own, id, content, manifest } => {
            if manifest.is_none() {
                *manifest = match own {
                    Some(own) => own_manifest(node, own, id, content).await,
                    None => fetch_manifest(node, *id, holders, content).await,
                }
                .map(Arc::new);
            }
            let (manifest, own, holders, node) = (manifest.clone()?, own.clone(), holders.clone(), node.clone());
            let ring = node.members.ring()?;
            let runtime = tokio::runtime::Handle::current();
            let source = Chunks {
                node,
                own,
                holders,
                runtime,
                sizes: manifest.chunks.iter().map(|chunk| (chunk.chunk, chunk.stored)).collect(),
            };
            blocking(move || Ok(open_range(&manifest, &source, &ring, range).ok())).await.ok()?
        }
    }
}

/// Reads a range of a file whose bytes were checked against its hash: in the same breath, or before and nothing has touched
/// it since.
fn read_file(
    node: &Node,
    path: &PathBuf,
    content: &ContentId,
    size: u64,
    verified: Option<checked::Mark>,
    range: Range<u64>,
) -> Option<(Vec<u8>, checked::Mark)> {
    let file = fs::File::open(path).ok()?;
    let mark = checked::Mark::of(&file).ok().filter(|mark| mark.size() == size)?;
    let mut bytes = vec![0; usize::try_from(range.end - range.start).ok()?];
    // Of a large file the first piece pays for checking all of it.
    if verified != Some(mark) && !node.checked.knows(content, &mark) {
        if tree_hash::hash_file(&file, size).ok()?.as_bytes() != content.as_bytes() {
            return None;
        }
        node.checked.note(*content, mark, now());
    }
    file.read_exact_at(&mut bytes, range.start).ok()?;
    // Bytes that were written over meanwhile are not those that were checked.
    (checked::Mark::of(&file).ok()? == mark).then_some((bytes, mark))
}

async fn own_manifest(node: &Node, own: &Own, id: &ChunkId, content: &ContentId) -> Option<Manifest> {
    let object = match own {
        Own::Place(place) => fs::read(place.provider().ok()?.local_path(&object_key(id))?).ok()?.into(),
        Own::Cloud(cloud) => {
            let object = cloud.storage().ok()?.get_range(&object_key(id), None).await;
            object.inspect_err(|error| cloud.failed(error)).ok()?
        }
    };
    let ring = node.members.ring()?;
    let (manifest, _) = Manifest::open(&object, |epoch| ring.get(epoch).cloned()).ok()?;
    (larder_protocol::seal::chunk_id(&object) == *id && manifest.content == *content).then_some(manifest)
}

/// Ranges of stored chunks: from disk, from a cloud, or verified from another device.
struct Chunks {
    node: Arc<Node>,
    own: Option<Own>,
    holders: Vec<DeviceId>,
    runtime: tokio::runtime::Handle,
    sizes: std::collections::BTreeMap<ChunkId, u64>,
}

impl ChunkSource for Chunks {
    fn read(&self, id: &ChunkId, range: Range<u64>) -> Result<Vec<u8>, OpenError> {
        match &self.own {
            Some(Own::Place(place)) => {
                let path = crate::engine::object_path(&place.provider()?, id);
                let path = path.ok_or(io::Error::from(io::ErrorKind::NotFound))?;
                return read_at(&path, range);
            }
            Some(Own::Cloud(cloud)) => {
                let storage = cloud.storage()?;
                let bytes = self.runtime.block_on(storage.get_range(&object_key(id), Some(range)));
                return Ok(bytes.inspect_err(|error| cloud.failed(error))?.to_vec());
            }
            None => {}
        }
        self.fetch(id, range)
    }

    fn proven(&self, id: &ChunkId, range: Range<u64>) -> Option<Result<Vec<u8>, OpenError>> {
        match &self.own {
            None => Some(self.fetch(id, range)),
            // A long one is proven range by range.
            Some(own) if self.sizes.get(id).is_some_and(|size| *size > LONG_BYTES) => {
                let Some(blob) = self.own_blob(own, id) else {
                    return Some(Err(OpenError::Io(io::ErrorKind::NotFound.into())));
                };
                let read = self.node.data.read_range(*id.as_bytes(), &blob, range, &|| !self.node.stop.is_cancelled());
                Some(read.map_err(|reason| match reason {
                    Reason::Damaged => OpenError::Damaged(*id),
                    _ => OpenError::Io(io::ErrorKind::NotConnected.into()),
                }))
            }
            Some(_) => None,
        }
    }
}

fn read_at(path: &std::path::Path, range: Range<u64>) -> Result<Vec<u8>, OpenError> {
    let mut bytes = vec![0; usize::try_from(range.end - range.start).map_err(io::Error::other)?];
    fs::File::open(path)?.read_exact_at(&mut bytes, range.start)?;
    Ok(bytes)
}

impl Chunks {
    fn own_blob(&self, own: &Own, id: &ChunkId) -> Option<Blob> {
        match own {
            Own::Place(place) => {
                let path = crate::engine::object_path(&place.provider().ok()?, id)?;
                Some(Blob::file(path, *self.sizes.get(id)?, None))
            }
            Own::Cloud(cloud) => self.runtime.block_on(cloud.bring(*id)),
        }
    }

    /// A range from another device, which is verified on the way.
    fn fetch(&self, id: &ChunkId, range: Range<u64>) -> Result<Vec<u8>, OpenError> {
        let size = self.sizes.get(id).copied().unwrap_or_default();
        let item = Item { hash: *id.as_bytes(), size, partial: PathBuf::new(), sources: self.holders.clone() };
        let addresses = addresses(&self.node).map_err(io::Error::other)?;
        let request =
            Request { items: vec![item], addresses, progress: Arc::new(|_| {}), cancel: CancellationToken::new() };
        let fetched = self.runtime.block_on(self.node.data.fetch_range(&request, range));
        fetched.map(|(_, bytes)| bytes).map_err(|_| OpenError::Damaged(*id))
    }
}
