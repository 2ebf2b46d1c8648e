//! Paths of synced folders: registers whose heads are kept with their statements.

use super::{
    super::{
        CatalogError,
        rows::{self, Reader, RowStamp, Writer},
        tables::FOLDER_ENTRIES,
    },
    Merge, full_stamp,
};
use larder_protocol::{
    codec,
    id::{DeviceId, FolderId},
    log::{Author, VersionVector},
    namespace::{Head, Register},
    record::{FolderEntry, Stamp},
};
use redb::ReadableTable;

const TABLE: &str = "folder-entries-1";

/// Key of a path of a synced folder; paths of one folder are together, in the order of their bytes.
pub(in crate::catalog) fn folder_entry_key(folder: &FolderId, path: &str) -> Vec<u8> {
    [&folder.as_bytes()[..], path.as_bytes()].concat()
}

/// The statements that are heads, and what is replaced besides what their contexts say.
///
/// Authors in contexts may be unknown here, so they are named in full.
#[derive(Debug, Default)]
pub(in crate::catalog) struct FolderRow {
    heads: Vec<(RowStamp, Vec<u8>)>,
    replaced: Vec<(Author, u64)>,
}

impl FolderRow {
    fn encode(&self) -> Vec<u8> {
        let mut to = Writer::default();
        to.number(self.heads.len() as u64);
        for (stamp, body) in &self.heads {
            stamp.write(&mut to);
            to.bytes(body);
        }
        to.number(self.replaced.len() as u64);
        for (author, count) in &self.replaced {
            to.fixed(author.device.as_bytes()).number(author.incarnation.into()).number(*count);
        }
        to.0
    }

    pub(in crate::catalog) fn decode(bytes: &[u8]) -> Result<Self, CatalogError> {
        let mut from = Reader::new(bytes, TABLE);
        let mut row = Self::default();
        for _ in 0..from.number()? {
            row.heads.push((RowStamp::read(&mut from)?, from.bytes()?.to_vec()));
        }
        for _ in 0..from.number()? {
            let author = Author { device: DeviceId::new(from.array()?), incarnation: from.small()? };
            row.replaced.push((author, from.number()?));
        }
        Ok(row)
    }

    /// The register that the row stands for.
    pub(in crate::catalog) fn register(
        &self,
        stamp: impl Fn(&RowStamp) -> Result<Stamp, CatalogError>,
    ) -> Result<Register, CatalogError> {
        let mut replaced: VersionVector = self.replaced.iter().copied().collect();
        let mut heads = Vec::with_capacity(self.heads.len());
        for (row_stamp, body) in &self.heads {
            let entry: FolderEntry = codec::decode(body).map_err(|_| CatalogError::damaged(TABLE))?;
            for (author, count) in entry.context.iter() {
                replaced.advance(*author, *count);
            }
            heads.push(Head { stamp: stamp(row_stamp)?, context: entry.context, value: entry.value });
        }
        Ok(Register::from_parts(heads, replaced))
    }
}

impl Merge<'_> {
    pub(in crate::catalog) fn folder_entry(
        &mut self,
        stamp: RowStamp,
        entry: &FolderEntry,
        body: &[u8],
    ) -> Result<(), CatalogError> {
        const KIND: u16 = 12;
        let full = full_stamp(&self.authors, &stamp)?;
        // Nothing is written in sight of itself.
        if entry.context.get(&full.author) > full.seq {
            self.totals.malformed += 1;
            return Ok(());
        }
        let key = folder_entry_key(&entry.folder, entry.path.as_str());
        let row = match self.folder_entries.get(&key[..])? {
            Some(row) => FolderRow::decode(rows::open(FOLDER_ENTRIES, &&key[..], row.value())?)?,
            None => FolderRow::default(),
        };
        let mut register = row.register(|stamp| full_stamp(&self.authors, stamp))?;
        let merged = register.merge(Head { stamp: full, context: entry.context.clone(), value: entry.value });
        let mut heads = Vec::with_capacity(register.heads().len());
        for (head, body) in row.heads {
            let full = full_stamp(&self.authors, &head)?;
            if merged.replaced.iter().any(|replaced| replaced.stamp == full) {
                self.digest_subtract(KIND, &head, &body)?;
            } else {
                heads.push((head, body));
            }
        }
        if merged.is_new {
            self.digest_add(KIND, &stamp, body)?;
            heads.push((stamp, body.to_vec()));
        }
        let said = |author: &Author| register.heads().iter().map(|head| head.context.get(author)).max().unwrap_or(0);
        let replaced = register.replaced().iter().filter(|(author, count)| said(author) < **count);
        let row = FolderRow { heads, replaced: replaced.map(|(author, count)| (*author, *count)).collect() };
        let row = rows::close(FOLDER_ENTRIES, &&key[..], &row.encode());
        self.folder_entries.insert(&key[..], row.as_slice())?;
        Ok(())
    }
}
