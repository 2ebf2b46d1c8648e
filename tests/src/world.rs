//! A temporary folder with the machines of one story. Its end is the end of everything that it started.

use crate::{
    node::{Node, Settings},
    process::{Invocation, ProcessHandle},
};
use std::{
    fs,
    path::{Path, PathBuf},
    thread,
};
use tempfile::TempDir;

/// Lines of each node's log that a failed story shows.
const LOG_LINES: usize = 40;

/// The machines of a story and their folders.
///
/// With `LARDER_KEEP` set, the folder of a story that failed stays for inspection.
pub struct World {
    root: Option<TempDir>,
}

impl World {
    /// An empty one.
    ///
    /// # Panics
    /// When no temporary folder can be made.
    #[expect(clippy::new_without_default, reason = "it makes a folder")]
    pub fn new() -> Self {
        let root = tempfile::Builder::new().prefix("larder-story-").tempdir().unwrap();
        Self { root: Some(root) }
    }

    /// Its folder.
    ///
    /// # Panics
    /// Never while it lives.
    pub fn root(&self) -> PathBuf {
        // Where the temporary folder is a link, the paths that Larder prints would differ from it.
        fs::canonicalize(self.root.as_ref().expect("taken only when dropped").path()).unwrap()
    }

    /// A folder of its own, made when it is not there.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.root().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// A machine with the usual settings; its home is not initialised.
    pub fn machine(&self, name: &str) -> Node {
        self.machine_with(name, Settings::default())
    }

    /// A machine with settings of its own.
    pub fn machine_with(&self, name: &str, settings: Settings) -> Node {
        Node::new(name, &self.folder(name), settings)
    }

    /// A `larder` command that belongs to no machine.
    pub fn larder<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Invocation {
        let user = self.folder("nobody");
        Invocation::new(&crate::bins::larder(), &user).env("HOME", &user).env("TMPDIR", self.folder("tmp")).args(args)
    }
}

/// Ends every process that has the folder in its arguments.
fn end_all_under(root: &Path) {
    let root = root.as_os_str().as_encoded_bytes();
    let ours = |args: &[&[u8]]| args.iter().any(|arg| arg.windows(root.len()).any(|window| window == root));
    for process in ProcessHandle::find(ours) {
        process.kill();
    }
}

fn show_logs(root: &Path) {
    for path in crate::data::files(root) {
        let is_log = path.parent().and_then(Path::file_name).is_some_and(|name| name == "logs");
        if let (true, Ok(text)) = (is_log, fs::read_to_string(&path)) {
            let lines: Vec<_> = text.lines().collect();
            let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
            eprintln!("--- end of {}\n{}", path.strip_prefix(root).unwrap_or(&path).display(), last.join("\n"));
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let root = self.root();
        end_all_under(&root);
        if thread::panicking() {
            show_logs(&root);
            if std::env::var_os("LARDER_KEEP").is_some() {
                let kept = self.root.take().map(TempDir::keep);
                eprintln!("--- the story's folder is left in {}", kept.unwrap_or_default().display());
            }
        }
    }
}
