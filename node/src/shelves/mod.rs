//! A vault's side: objects that it keeps for the group on shelves, without a key to any of them.
//!
//! Each shelf is a folder of its own and an [`fs`](crate::storage::fs) storage, so that an object is there whole and durable
//! or not at all. What is named by its bytes is checked against its name before it is taken and whenever it is read; what does
//! not match any more is set aside, so that it can be put again. The rest of a shelf is Larder's own small files: a signature,
//! the sealed pages of a snapshot, keys wrapped to the recovery key.
//!
//! Non-goals: knowing what is stored, and deciding who belongs to the group.

mod serve;
mod space;

#[cfg(test)]
mod tests;

pub use serve::{Asker, Met, Rights, ServeError, serve};
pub use space::Space;

use crate::storage::{StorageError, fs::FsProvider, upload};
use larder_protocol::id::{DeviceId, ShelfId};
use space::{Ledger, Room};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
};
use tokio::sync::{Mutex, OnceCell, RwLock};

/// Most shelves of one vault; each costs a few files.
const SHELVES_MAX: usize = 1024;
/// Where objects go that are not what their name says.
const ASIDE: &str = ".larder/damaged/";

/// Why a shelf cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ShelfError {
    /// The folder cannot be used.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The storage cannot be opened.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// There are too many of them.
    #[error("the vault has {SHELVES_MAX} shelves already")]
    TooMany,
}

/// One shelf.
struct Shelf {
    storage: FsProvider,
    /// Who has begun it.
    owner: DeviceId,
    /// Held alone by what may take an object away, so that what is counted stays true.
    changing: RwLock<()>,
}

/// The shelves of this device.
pub struct Shelves {
    root: PathBuf,
    space: Space,
    ledger: OnceCell<Arc<Ledger>>,
    open: Mutex<BTreeMap<ShelfId, Arc<Shelf>>>,
}

impl Shelves {
    /// In a folder, which is made when the first shelf is.
    pub fn new(root: PathBuf, space: Space) -> Self {
        Self { root, space, ledger: OnceCell::new(), open: Mutex::default() }
    }

    /// What is counted of the disk. The first call looks at all that is there.
    async fn ledger(&self) -> io::Result<Arc<Ledger>> {
        let count = || async {
            let (root, space) = (self.root.clone(), self.space);
            tokio::task::spawn_blocking(move || Ledger::count(root, space)).await.map_err(io::Error::other)?
        };
        self.ledger.get_or_try_init(count).await.cloned()
    }

    /// The shelf of an id, if it is there.
    async fn find(&self, id: ShelfId) -> Result<Option<Arc<Shelf>>, ShelfError> {
        self.take(id, None).await
    }

    /// The shelf of an id; one that is not there is begun for a device.
    async fn begin(&self, id: ShelfId, owner: DeviceId) -> Result<Arc<Shelf>, ShelfError> {
        self.take(id, Some(owner)).await?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound).into())
    }

    async fn take(&self, id: ShelfId, owner: Option<DeviceId>) -> Result<Option<Arc<Shelf>>, ShelfError> {
        let mut open = self.open.lock().await;
        if let Some(shelf) = open.get(&id) {
            return Ok(Some(shelf.clone()));
        }
        let root = self.root.clone();
        let opened = tokio::task::spawn_blocking(move || open_shelf(&root, id, owner));
        let Some(shelf) = opened.await.map_err(io::Error::other)?? else { return Ok(None) };
        // What a crash left of objects that were on their way; nobody can be putting any yet.
        upload::sweep(&shelf.storage, "", None).await?;
        let shelf = Arc::new(shelf);
        open.insert(id, shelf.clone());
        Ok(Some(shelf))
    }
}

fn open_shelf(root: &std::path::Path, id: ShelfId, owner: Option<DeviceId>) -> Result<Option<Shelf>, ShelfError> {
    let (folder, note) = (root.join(id.to_string()), root.join(format!("{id}.owner")));
    let known = match fs::read_to_string(&note) {
        Ok(text) => Some(text.parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error.into()),
    };
    let owner = match (known, owner) {
        (Some(owner), _) => owner,
        (None, None) => return Ok(None),
        (None, Some(owner)) => {
            fs::create_dir_all(root)?;
            if fs::read_dir(root)?.count() >= 2 * SHELVES_MAX {
                return Err(ShelfError::TooMany);
            }
            let temp = root.join(format!("{id}.new"));
            let mut file = File::create(&temp)?;
            file.write_all(owner.to_string().as_bytes())?;
            file.sync_all()?;
            fs::rename(temp, note)?;
            owner
        }
    };
    fs::create_dir_all(&folder)?;
    File::open(root)?.sync_all()?;
    Ok(Some(Shelf { storage: FsProvider::open(folder)?, owner, changing: RwLock::default() }))
}
