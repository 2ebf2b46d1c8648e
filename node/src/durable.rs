//! Making many small files durable at once.
//!
//! A journal is written once for each `fsync` that has to wait for it. `syncfs` writes all that is dirty on the file system and
//! the journal once, which for many small files is far less work; since Linux 5.8 it tells write errors as `fsync` does. A
//! large file is better synced alone, so that nobody waits for others' data.

use std::{fs::File, io};

/// From so many files on, the whole file system is synced.
const TOGETHER_MIN: usize = 8;

/// Makes the bytes and names of open files or folders durable.
///
/// # Errors
/// The first failure; what was durable is not told then.
pub(crate) fn sync_all<'a>(mut files: impl ExactSizeIterator<Item = &'a File> + Clone) -> io::Result<()> {
    if files.len() >= TOGETHER_MIN && sync_file_system(files.clone())? {
        return Ok(());
    }
    files.try_for_each(File::sync_all)
}

/// Syncs the file system if all lie on one; gives whether.
#[cfg(target_os = "linux")]
fn sync_file_system<'a>(mut files: impl Iterator<Item = &'a File>) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let Some(first) = files.next() else { return Ok(true) };
    let device = first.metadata()?.dev();
    for file in files {
        if file.metadata()?.dev() != device {
            return Ok(false);
        }
    }
    rustix::fs::syncfs(first)?;
    Ok(true)
}

#[cfg(not(target_os = "linux"))]
fn sync_file_system<'a>(_: impl Iterator<Item = &'a File>) -> io::Result<bool> {
    Ok(false)
}
