//! A small disk of its own: one in memory that a story fills, makes read-only or takes away, or an ext4 in a file whose power
//! is cut. Needs to be root.

use rustix::process::geteuid;
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

/// A mounted disk. It is gone at the end, whatever still uses it.
#[derive(Debug)]
pub struct SmallDisk {
    at: PathBuf,
}

fn run(program: &str, args: &[&str], at: &Path) -> bool {
    let done =
        Command::new(program).args(args).arg(at).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").output();
    done.is_ok_and(|done| done.status.success())
}

/// Says that the story is left out, also to `tests/run`, which counts it.
fn skipped() -> Option<SmallDisk> {
    eprintln!("skipped: only root can mount a disk");
    if let Some(path) = std::env::var_os("LARDER_SKIPPED") {
        let mut file = fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
        writeln!(file, "{}", std::thread::current().name().unwrap_or("a story")).unwrap();
    }
    None
}

impl SmallDisk {
    /// Mounts a disk of some mebibytes. Gives `None`, and says so, where this user may not mount.
    ///
    /// # Panics
    /// When the folder cannot be made.
    pub fn new(at: &Path, mebibytes: u32) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let options = format!("size={mebibytes}m,mode=700");
        if !geteuid().is_root() || !run("mount", &["-t", "tmpfs", "-o", &options, "tmpfs"], at) {
            return skipped();
        }
        Some(Self { at: at.to_owned() })
    }

    /// Mounts the ext4 of an image file; it is made if there is none. As [`new`](Self::new) otherwise.
    ///
    /// # Panics
    /// When the folder or the file cannot be made.
    pub fn of_image(at: &Path, image: &Path, mebibytes: u32) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let is_new = !image.exists();
        if is_new {
            fs::File::create(image).unwrap().set_len(u64::from(mebibytes) << 20).unwrap();
        }
        let made = !is_new || run("mkfs.ext4", &["-q", "-F", "-E", "lazy_itable_init=0"], image);
        let name = image.to_str().unwrap();
        if !geteuid().is_root() || !made || !run("mount", &["-o", "loop", name], at) {
            return skipped();
        }
        Some(Self { at: at.to_owned() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.at
    }

    fn filler(&self) -> PathBuf {
        self.at.join("filler")
    }

    /// Uses up all room but some bytes.
    ///
    /// # Panics
    /// When it cannot be written for another reason.
    pub fn fill_but(&self, spare: u64) {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(self.filler()).unwrap();
        let piece = vec![0x5a; 64 * 1024];
        let mut length = piece.len();
        // Ever smaller pieces, until not one byte more fits.
        while length > 0 {
            if file.write(&piece[..length]).is_err() {
                length /= 2;
            }
        }
        let full = file.metadata().unwrap().len();
        file.set_len(full.saturating_sub(spare)).unwrap();
    }

    /// Gives the room back.
    ///
    /// # Panics
    /// When it was not filled.
    pub fn make_room(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    /// Makes it read-only, or writable again.
    ///
    /// # Panics
    /// When a file on it is open for writing.
    pub fn set_read_only(&self, read_only: bool) {
        let options = if read_only { "remount,ro" } else { "remount,rw" };
        assert!(run("mount", &["-o", options], &self.at), "{options}");
    }

    /// Takes it away while it may be in use, as somebody who pulls a plug does. Its files are gone for good.
    ///
    /// # Panics
    /// When it is not there.
    pub fn pull(self) {
        assert!(run("umount", &["-l"], &self.at));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        run("umount", &["-l"], &self.at);
    }
}
