//! Synced folders: what their paths hold. [`larder_protocol::namespace::listing`] gives the names under which it shows.

use super::{
    super::{
        CatalogError,
        apply::{FolderRow, folder_entry_key},
        rows,
        tables::FOLDER_ENTRIES,
    },
    Snapshot,
};
use larder_protocol::{
    id::FolderId,
    namespace::Register,
    path::{NfcPath, RelPath},
};
use std::collections::BTreeMap;

impl Snapshot {
    fn folder_register(&self, key: &[u8], row: &[u8]) -> Result<Register, CatalogError> {
        FolderRow::decode(rows::open(FOLDER_ENTRIES, &key, row)?)?.register(|stamp| self.stamp(stamp))
    }

    /// What is said of one path of a synced folder. Its [`context`](Register::context) is that of the next statement.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn synced_path(&self, folder: &FolderId, path: &NfcPath) -> Result<Register, CatalogError> {
        let key = folder_entry_key(folder, path.as_str());
        match self.bytes(FOLDER_ENTRIES)?.get(&key[..])? {
            Some(row) => self.folder_register(&key, row.value()),
            None => Ok(Register::default()),
        }
    }

    /// All paths of a synced folder that anything was said of, with what was said.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn synced_folder(&self, folder: &FolderId) -> Result<BTreeMap<NfcPath, Register>, CatalogError> {
        let from = folder_entry_key(folder, "");
        let mut registers = BTreeMap::new();
        for row in self.bytes(FOLDER_ENTRIES)?.range::<&[u8]>(&from[..]..)? {
            let (key, row) = row?;
            let Some(path) = key.value().strip_prefix(&from[..]) else { break };
            let path = std::str::from_utf8(path).ok().and_then(|path| NfcPath::new(RelPath::new(path).ok()?).ok());
            let path = path.ok_or_else(|| CatalogError::damaged("folder-entries-1"))?;
            registers.insert(path, self.folder_register(key.value(), row.value())?);
        }
        Ok(registers)
    }
}
