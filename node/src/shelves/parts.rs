//! Taking an object in parts; what is asked is in [`peer::parts`](crate::storage::peer).

use super::{
    GROUP_BYTES, PIECE_BYTES, Shelf, blocking,
    objects::{Coming, room},
    serve::{Answering, Rights, Stop},
    sums::Summing,
    uploads::{Note, Part},
};
use crate::storage::{
    Put,
    peer::parts::{self, PARTS_MAX, What, key as upload_key},
};
use larder_protocol::{
    bounded::{List, Text},
    id::ShelfId,
    time::Timestamp,
    vault::{Key, LISTED_MAX, ListedObject, OBJECT_BYTES_MAX, PART_BYTES, VaultAnswer, VaultRefusal},
};
use std::{os::unix::fs::FileExt, sync::Arc};

const _: () = assert!(parts::PART_STEP == GROUP_BYTES, "the checksums of parts are those of the object");

fn invalid() -> Stop {
    Stop::Refused(VaultRefusal::Invalid)
}

impl Answering<'_, '_> {
    pub(super) async fn put_of_upload(
        &mut self,
        shelf: ShelfId,
        key: &Key,
        size: u64,
        replace: bool,
    ) -> Result<VaultAnswer, Stop> {
        let (id, what) = parts::parse(key).ok_or_else(invalid)?;
        match what {
            What::Object => self.begin_upload(shelf, id, size).await,
            What::Part { number, offset } => self.put_part(shelf, id, Part { number, offset, size }).await,
            What::Done if size == 0 => self.complete(shelf, id, replace).await,
            What::Done => Err(invalid()),
        }
    }

    async fn begin_upload(&mut self, shelf: ShelfId, id: &str, size: u64) -> Result<VaultAnswer, Stop> {
        let len = usize::try_from(size).ok().filter(|len| *len <= PART_BYTES).ok_or_else(invalid)?;
        let shelf = self.shelves.begin(shelf, self.asker.device).await?;
        self.say(&VaultAnswer::Ready).await?;
        let bytes = if len == 0 { Vec::new() } else { self.piece(len).await? };
        let (key, size) = parts::described(&bytes).ok_or_else(invalid)?;
        let text = Text::new(key.as_str())?;
        super::serve::object_key(&text)?;
        let most = u64::from(PARTS_MAX) * OBJECT_BYTES_MAX;
        if size > most {
            return Err(invalid());
        }
        // Only its parts take room; one for which there is none need not begin.
        drop(room(&self.shelves.ledger().await?, size).await?);
        let (id, note) = (id.to_owned(), Note { owner: self.asker.device, key, size });
        if !blocking(move || shelf.uploads.begin(&id, &note)).await? {
            return Err(Stop::Refused(VaultRefusal::Busy));
        }
        Ok(VaultAnswer::Stored { new: true })
    }

    /// An upload that this device began.
    async fn own_upload(&mut self, shelf: &Arc<Shelf>, id: &str) -> Result<Note, Stop> {
        let (shelf, id) = (shelf.clone(), id.to_owned());
        let note = blocking(move || shelf.uploads.find(&id)).await?;
        let note = note.ok_or(Stop::Refused(VaultRefusal::NotFound))?;
        if note.owner == self.asker.device { Ok(note) } else { Err(Stop::Refused(VaultRefusal::NotAllowed)) }
    }

    async fn put_part(&mut self, shelf: ShelfId, id: &str, part: Part) -> Result<VaultAnswer, Stop> {
        let shelf = self.shelf(shelf).await?;
        let note = self.own_upload(&shelf, id).await?;
        if !(1..=PARTS_MAX).contains(&part.number) || part.size > OBJECT_BYTES_MAX || !part.fits(note.size) {
            return Err(invalid());
        }
        let ledger = self.shelves.ledger().await?;
        let _room = room(&ledger, part.size).await?;
        let (opening, name, counting) = (shelf.clone(), id.to_owned(), ledger.clone());
        let data = Arc::new(blocking(move || opening.uploads.open_part(&name, part.number, &counting)).await?);
        self.say(&VaultAnswer::Ready).await?;
        let (mut summing, mut at) = (Summing::new(part.offset, note.size), 0);
        while at < part.size {
            let len = usize::try_from(part.size - at).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
            let bytes = self.gather(len, &mut summing).await?;
            let (writing, offset) = (data.clone(), part.offset + at);
            blocking(move || writing.write_all_at(&bytes, offset)).await?;
            at += len as u64;
        }
        let (groups, id) = (summing.finish(), id.to_owned());
        blocking(move || shelf.uploads.keep_part(&id, part, &data, &groups, &ledger)).await?;
        Ok(VaultAnswer::Stored { new: true })
    }

    async fn complete(&mut self, shelf: ShelfId, id: &str, replace: bool) -> Result<VaultAnswer, Stop> {
        let shelf = self.shelf(shelf).await?;
        let note = self.own_upload(&shelf, id).await?;
        let ledger = self.shelves.ledger().await?;
        self.say(&VaultAnswer::Ready).await?;
        let (ending, name) = (shelf.clone(), id.to_owned());
        let (data, sums) = blocking(move || ending.uploads.end(&name, note.size)).await?;
        let object = Coming { shelf: &shelf, ledger: &ledger, key: &note.key, size: note.size, replace };
        let placed = match object.check(&sums) {
            Ok(()) => {
                let adopting = shelf.storage.adopt(data, &note.key, object.mode());
                object.placed(sums, adopting).await
            }
            Err(stop) => Err(stop),
        };
        // What can never be that object is given up, and so is what is there already.
        let (goes, again) = match &placed {
            Ok((Put::New, before)) => (*before, false),
            Ok((Put::AlreadyThere, _)) | Err(Stop::Refused(VaultRefusal::Damaged)) => (note.size, false),
            Err(_) => (0, true),
        };
        let (uploads, name) = (shelf.clone(), id.to_owned());
        let ended = blocking(move || if again { uploads.uploads.go_on(&name) } else { uploads.uploads.ended(&name) });
        ended.await?;
        ledger.changed(0, goes);
        let (put, _) = placed?;
        Ok(VaultAnswer::Stored { new: put == Put::New })
    }

    pub(super) async fn list_uploads(
        &mut self,
        id: ShelfId,
        prefix: &Key,
        after: Option<&Key>,
        limit: u16,
    ) -> Result<VaultAnswer, Stop> {
        let none = VaultAnswer::Page { objects: List::default(), next: None };
        let Some(shelf) = self.shelves.find(id).await? else { return Ok(none) };
        let asked = prefix.strip_prefix(parts::UPLOADS).ok_or_else(invalid)?;
        let mut found: Vec<(String, u64)> = match asked.strip_suffix('/') {
            Some(id) if parts::is_id(id) => match self.own_upload(&shelf, id).await {
                Err(Stop::Refused(VaultRefusal::NotFound)) => return Ok(none),
                note => {
                    let (note, listing, name) = (note?, shelf.clone(), id.to_owned());
                    let own = (upload_key(id, What::Object), parts::describe(&note.key, note.size).len() as u64);
                    let found = blocking(move || listing.uploads.parts(&name)).await?;
                    let key = |part: &Part| upload_key(id, What::Part { number: part.number, offset: part.offset });
                    found.iter().map(|part| (key(part), part.size)).chain([own]).collect()
                }
            },
            None if asked.is_empty() => {
                let listing = shelf.clone();
                let all = blocking(move || listing.uploads.all()).await?;
                let own = all.into_iter().filter(|(_, note)| note.owner == self.asker.device);
                own.map(|(id, note)| {
                    (upload_key(&id, What::Object), parts::describe(&note.key, note.size).len() as u64)
                })
                .collect()
            }
            _ => return Err(invalid()),
        };
        found.retain(|(key, _)| after.is_none_or(|after| key.as_str() > after.as_str()));
        found.sort();
        let most = usize::from(limit).clamp(1, LISTED_MAX);
        let more = found.len() > most;
        found.truncate(most);
        let next = found.last().filter(|_| more).map(|(key, _)| Text::new(key.as_str())).transpose()?;
        let listed = found
            .iter()
            .map(|(key, size)| Ok(ListedObject { key: Text::new(key.as_str())?, size: *size, modified: Timestamp(0) }));
        Ok(VaultAnswer::Page { objects: List::new(listed.collect::<Result<_, Stop>>()?)?, next })
    }

    pub(super) async fn get_upload(&mut self, shelf: ShelfId, key: &Key) -> Result<(), Stop> {
        let Some((id, What::Object)) = parts::parse(key) else { return Err(invalid()) };
        let shelf = self.shelf(shelf).await?;
        let note = self.own_upload(&shelf, id).await?;
        let bytes = parts::describe(&note.key, note.size);
        self.say(&VaultAnswer::Object { size: bytes.len() as u64 }).await?;
        self.send_all(&bytes).await
    }

    pub(super) async fn give_up_upload(&mut self, shelf: ShelfId, key: &Key) -> Result<VaultAnswer, Stop> {
        let Some((id, What::Object)) = parts::parse(key) else { return Err(invalid()) };
        let Some(shelf) = self.shelves.find(shelf).await? else { return Ok(VaultAnswer::Done) };
        match self.own_upload(&shelf, id).await {
            Err(Stop::Refused(VaultRefusal::NotFound)) => return Ok(VaultAnswer::Done),
            Err(Stop::Refused(VaultRefusal::NotAllowed))
                if (self.asker.rights)() == Rights::Decide || shelf.owner == self.asker.device => {}
            note => drop(note?),
        }
        let (ledger, id) = (self.shelves.ledger().await?, id.to_owned());
        blocking(move || shelf.uploads.give_up(&id, &ledger)).await?;
        Ok(VaultAnswer::Done)
    }
}
