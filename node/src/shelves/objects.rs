//! Taking an object, and giving one.

use super::{
    Ledger, PIECE_BYTES, Room, Shelf, blocking,
    keeping::{AtOnce, Found, is_noted},
    serve::{Answering, ServeError, Stop, object_key},
    sums::{Summing, Sums},
};
use crate::storage::{Multipart, ObjectKey, Part, Pending, Put, PutMode, StorageProvider, Upload};
use bytes::Bytes;
use larder_protocol::{
    id::ShelfId,
    vault::{Key, OBJECT_BYTES_MAX, PART_BYTES, VaultAnswer, VaultRefusal},
};
use std::{io, os::unix::fs::FileExt, sync::Arc};

/// An object that comes.
pub(super) struct Coming<'a> {
    pub(super) shelf: &'a Shelf,
    pub(super) ledger: &'a Ledger,
    pub(super) key: &'a ObjectKey,
    pub(super) size: u64,
    pub(super) replace: bool,
}

impl Coming<'_> {
    pub(super) fn mode(&self) -> PutMode {
        if self.replace { PutMode::Replace } else { PutMode::IfAbsent }
    }

    /// Whether bytes of these checksums are what the key names, where it names any.
    pub(super) fn check(&self, sums: &Sums) -> Result<(), Stop> {
        match self.key.content_named() {
            Some(id) if sums.hash() != *id.as_bytes() => Err(Stop::Refused(VaultRefusal::Damaged)),
            _ => Ok(()),
        }
    }

    /// Notes the checksums and does what gives the object its place. Gives also how many bytes went for it.
    pub(super) async fn placed(&self, sums: Sums, placing: Pending<'_, Put>) -> Result<(Put, u64), Stop> {
        if !self.replace && self.key.content_named().is_some() {
            // Whoever puts it puts the same.
            let _shared = self.shelf.changing.read().await;
            if is_noted(self.key, self.size) {
                self.shelf.note(self.key, &[sums]).await?;
            }
            return Ok((placing.await?, 0));
        }
        let _alone = self.shelf.changing.write().await;
        let before = self.shelf.storage.stat(self.key).await?;
        if before.is_some() && !self.replace {
            return Ok((Put::AlreadyThere, 0));
        }
        if is_noted(self.key, self.size) {
            let mut all = vec![sums];
            if before.is_some() {
                all.extend(self.shelf.present(self.key).await?.filter(|sums| !all.contains(sums)));
            }
            self.shelf.note(self.key, &all).await?;
        }
        Ok((placing.await?, before.map_or(0, |before| before.size)))
    }

    /// The same, and counts it.
    async fn placed_anew(&self, sums: Sums, placing: Pending<'_, Put>) -> Result<Put, Stop> {
        let (put, went) = self.placed(sums, placing).await?;
        if put == Put::New {
            self.ledger.changed(self.size, went);
        }
        Ok(put)
    }
}

impl Answering<'_, '_> {
    pub(super) async fn put(&mut self, id: ShelfId, key: &Key, size: u64, replace: bool) -> Result<VaultAnswer, Stop> {
        let key = object_key(key)?;
        if size > OBJECT_BYTES_MAX {
            return Err(Stop::Refused(VaultRefusal::Invalid));
        }
        let shelf = self.shelves.begin(id, self.asker.device).await?;
        if !replace && shelf.storage.stat(&key).await?.is_some() {
            return Ok(VaultAnswer::Stored { new: false });
        }
        let ledger = self.shelves.ledger().await?;
        let _room = room(&ledger, size).await?;
        self.say(&VaultAnswer::Ready).await?;
        let object = Coming { shelf: &shelf, ledger: &ledger, key: &key, size, replace };
        let put = if size <= PIECE_BYTES as u64 { self.whole(&object).await? } else { self.in_pieces(&object).await? };
        Ok(VaultAnswer::Stored { new: put == Put::New })
    }

    async fn whole(&mut self, object: &Coming<'_>) -> Result<Put, Stop> {
        let len = usize::try_from(object.size).unwrap_or(PIECE_BYTES);
        let mut summing = Summing::new(0, object.size);
        let bytes = self.gather(len, &mut summing).await?;
        let sums = sums(object.size, summing)?;
        object.check(&sums)?;
        object.placed_anew(sums, object.shelf.storage.put(object.key, bytes, object.mode())).await
    }

    async fn in_pieces(&mut self, object: &Coming<'_>) -> Result<Put, Stop> {
        let storage = &object.shelf.storage;
        let upload = storage.begin(object.key, object.size, object.mode()).await?;
        let done = match self.pieces(object, &upload).await {
            Ok((parts, sums)) => object.placed_anew(sums, storage.complete(&upload, &parts, object.mode())).await,
            Err(stop) => Err(stop),
        };
        if !matches!(done, Ok(Put::New)) {
            storage.abort(&upload).await?;
        }
        done
    }

    async fn pieces(&mut self, object: &Coming<'_>, upload: &Upload) -> Result<(Vec<Part>, Sums), Stop> {
        let (mut parts, mut offset, mut summing) = (Vec::new(), 0_u64, Summing::new(0, object.size));
        while offset < object.size {
            let len = usize::try_from(object.size - offset).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
            let bytes = self.gather(len, &mut summing).await?;
            let number = u32::try_from(parts.len() + 1).unwrap_or(u32::MAX);
            parts.push(object.shelf.storage.put_part(upload, number, offset, bytes).await?);
            offset += len as u64;
        }
        let sums = sums(object.size, summing)?;
        object.check(&sums)?;
        Ok((parts, sums))
    }

    /// So many bytes of an object that comes, summed on the way.
    pub(super) async fn gather(&mut self, len: usize, summing: &mut Summing) -> Result<Bytes, Stop> {
        let mut bytes = Vec::new();
        while bytes.len() < len {
            let piece = self.piece(PART_BYTES.min(len - bytes.len())).await?;
            summing.update(&piece);
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes.into())
    }

    pub(super) async fn get(&mut self, id: ShelfId, key: &Key, range: Option<(u64, u64)>) -> Result<(), Stop> {
        let key = object_key(key)?;
        let shelf = self.shelf(id).await?;
        let opened = match shelf.open_range(&key, range).await {
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
                let ledger = self.shelves.ledger().await?;
                match shelf.examine(&key, &ledger, &AtOnce).await? {
                    Found::SetAside(_) => return Err(Stop::Refused(VaultRefusal::Damaged)),
                    Found::Nothing => None,
                    Found::Sound(_) => shelf.open_range(&key, range).await?,
                }
            }
            opened => opened?,
        };
        let (file, range) = opened.ok_or(Stop::Refused(VaultRefusal::NotFound))?;
        let size = range.end - range.start;
        if size > OBJECT_BYTES_MAX {
            return Err(Stop::Refused(VaultRefusal::Invalid));
        }
        self.say(&VaultAnswer::Object { size }).await?;
        // From here on a failure can only end the stream.
        let (file, mut at) = (Arc::new(file), range.start);
        while at < range.end {
            let piece = usize::try_from(range.end - at).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
            let reading = file.clone();
            let bytes = blocking(move || {
                let mut bytes = vec![0; piece];
                reading.read_exact_at(&mut bytes, at)?;
                Ok(bytes)
            });
            self.send_all(&bytes.await.map_err(ServeError::from)?).await?;
            at += piece as u64;
        }
        Ok(())
    }

    /// Sends bytes of an object, as long as who asks may have them.
    pub(super) async fn send_all(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        for part in bytes.chunks(PART_BYTES) {
            self.still_may().map_err(|_| ServeError::from(io::Error::from(io::ErrorKind::PermissionDenied)))?;
            self.frames.send(part).await.map_err(ServeError::from)?;
        }
        Ok(())
    }
}

/// The checksums of an object of which all came.
fn sums(size: u64, summing: Summing) -> Result<Sums, Stop> {
    Sums::new(size, summing.finish()).ok_or(Stop::Refused(VaultRefusal::Invalid))
}

/// Room for what comes.
pub(super) async fn room(ledger: &Arc<Ledger>, size: u64) -> Result<Room, Stop> {
    let counting = ledger.clone();
    blocking(move || counting.room(size)).await?.ok_or(Stop::Refused(VaultRefusal::Full))
}
