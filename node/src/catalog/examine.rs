//! Looking at a catalog without changing a byte of it.

use super::{
    Catalog, CatalogError, Digest, Identity, LogFiles, LogFolder, OpenReport, Options, handle, segments::Segments,
};
use crate::reopen::{integrity, unchanged};
use redb::backends::InMemoryBackend;
use std::{fs::File, io, path::Path, sync::Arc};

/// Segment files that only look changed.
#[derive(Debug)]
struct Untouched(LogFolder);

impl LogFiles for Untouched {
    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }
    fn len(&self, name: &str) -> io::Result<u64> {
        self.0.len(name)
    }
    fn read(&self, name: &str, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(name, offset, out)
    }
    fn write(&self, _: &str, _: u64, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
    fn truncate(&self, _: &str, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn sync(&self, _: &str) -> io::Result<()> {
        Ok(())
    }
    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        Ok(())
    }
    fn remove(&self, _: &str) -> io::Result<()> {
        Ok(())
    }
}

/// What was found.
pub struct Examination {
    /// The catalog as its next start would open it; what is written to it is forgotten.
    pub catalog: Catalog,
    /// What its next start would do.
    pub report: OpenReport,
    /// Every page of the database is as it was written. `false` also when there is none.
    pub is_sound: bool,
    /// What the log segments alone give, and what of them could not be read; `None` when that was not asked for.
    pub from_log: Option<(Digest, OpenReport)>,
}

impl Catalog {
    /// Looks at the catalog of a folder, which must be closed. With `from_log` all statements are merged again in memory.
    ///
    /// # Errors
    /// [`CatalogError`] when it cannot be read, or is damaged beyond its log segments.
    pub fn examine(
        dir: &Path,
        identity: Identity,
        options: Options,
        from_log: bool,
    ) -> Result<Examination, CatalogError> {
        let path = dir.join(handle::FILE);
        let failed = |error| Segments::error(handle::FILE, error);
        let log = LogFolder::open(dir.join(handle::LOG_FOLDER)).map_err(failed)?;
        let files: Arc<dyn LogFiles> = Arc::new(Untouched(log));
        let anew = || {
            let memory = Box::new(InMemoryBackend::new());
            Self::open_with_backend(memory, Arc::clone(&files), identity.clone(), options.clone())
        };
        let open = || {
            let file = File::open(&path).map_err(failed)?;
            Self::open_with_backend(Box::new(unchanged(file)), Arc::clone(&files), identity.clone(), options.clone())
        };
        let is_sound = path.exists() && integrity(File::open(&path).map_err(failed)?);
        let opened = if is_sound {
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(open))
                .unwrap_or_else(|_| Err(CatalogError::damaged(handle::FILE)))
        } else {
            Err(CatalogError::damaged(handle::FILE))
        };
        let (is_sound, (catalog, report)) = match opened {
            Err(error) if error.is_damage() => (false, anew()?),
            other => (is_sound, other?),
        };
        let from_log = if from_log {
            let (catalog, report) = anew()?;
            Some((catalog.read()?.digest()?, report))
        } else {
            None
        };
        Ok(Examination { catalog, report, is_sound, from_log })
    }
}
