//! A vault's side: objects that it keeps for the group on shelves, without a key to any of them.
//!
//! Each shelf is a folder of its own and an [`fs`](crate::storage::fs) storage, so that an object is there whole and durable
//! or not at all. What is named by its bytes is checked against its name before it is taken; of all objects there are checksums,
//! against which they are checked whenever they are read, and from time to time. What does not match any more is set aside, so
//! that it can be put again. The rest of a shelf is Larder's own small files: a signature, the sealed pages of a snapshot,
//! keys wrapped to the recovery key. Large objects come in parts.
//!
//! Non-goals: knowing what is stored, and deciding who belongs to the group.

mod keeping;
mod objects;
mod parts;
mod scrub;
mod serve;
mod space;
mod sums;
mod survey;
mod uploads;

#[cfg(test)]
mod tests;

pub use scrub::{Scrubbed, Scrubbing};
pub use serve::{Asker, Met, Rights, ServeError, serve};
pub use space::Space;
pub use survey::{Trouble, survey};

use crate::storage::{StorageError, fs::FsProvider, upload};
use larder_protocol::id::{DeviceId, ShelfId};
use scrub::Busy;
use space::{Ledger, Room};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};
use sums::GROUP_BYTES;
use tokio::sync::{Mutex, OnceCell, RwLock};
use uploads::Uploads;

/// Most shelves of one vault; each costs a few files.
const SHELVES_MAX: usize = 1024;
/// Where objects go that are not what they were.
const ASIDE: &str = ".larder/damaged/";
/// Where checksums are.
const SUMS: &str = ".larder/sums";
/// Where objects are of which not all parts came yet.
const UPLOADS: &str = ".larder/uploads";
/// Longest piece of an object that is held in memory.
const PIECE_BYTES: usize = 4 << 20;
/// After so long without a part an upload is given up.
const UPLOAD_AGE_MAX: Duration = Duration::from_secs(48 * 60 * 60);

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
    uploads: Uploads,
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
    busy: Busy,
}

impl Shelves {
    /// In a folder, which is made when the first shelf is.
    pub fn new(root: PathBuf, space: Space) -> Self {
        Self { root, space, ledger: OnceCell::new(), open: Mutex::default(), busy: Busy::default() }
    }

    /// What is counted of the disk. The first call looks at all that is there.
    async fn ledger(&self) -> io::Result<Arc<Ledger>> {
        let count = || async {
            let (root, space) = (self.root.clone(), self.space);
            tokio::task::spawn_blocking(move || Ledger::count(root, space)).await.map_err(io::Error::other)?
        };
        self.ledger.get_or_try_init(count).await.cloned()
    }

    /// Ids of the shelves that there are.
    async fn ids(&self) -> io::Result<Vec<ShelfId>> {
        let root = self.root.clone();
        blocking(move || {
            let folders = space::folders(&root)?;
            let mut ids: Vec<ShelfId> =
                folders.iter().filter_map(|folder| folder.file_name()?.to_str()?.parse().ok()).collect();
            ids.sort();
            Ok(ids)
        })
        .await
    }

    /// Gives up uploads with which nobody went on for long; gives how many.
    ///
    /// # Errors
    /// [`ShelfError`] of the first shelf that cannot be used.
    pub async fn tidy(&self, now: SystemTime) -> Result<usize, ShelfError> {
        let mut gone = 0;
        for id in self.ids().await? {
            if let Some(shelf) = self.find(id).await? {
                gone += give_up_old(&shelf, self.ledger().await?, now).await?;
            }
        }
        Ok(gone)
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
        give_up_old(&shelf, self.ledger().await?, SystemTime::now()).await?;
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
    let uploads = Uploads::open(folder.join(UPLOADS))?;
    Ok(Some(Shelf { storage: FsProvider::open(folder)?, uploads, owner, changing: RwLock::default() }))
}

/// Gives up the uploads of a shelf with which nobody goes on; gives how many.
async fn give_up_old(shelf: &Arc<Shelf>, ledger: Arc<Ledger>, now: SystemTime) -> io::Result<usize> {
    let shelf = shelf.clone();
    blocking(move || {
        let Some(moment) = now.checked_sub(UPLOAD_AGE_MAX) else { return Ok(0) };
        let old = shelf.uploads.untouched_since(moment)?;
        old.iter().try_for_each(|id| shelf.uploads.give_up(id, &ledger))?;
        Ok(old.len())
    })
    .await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
