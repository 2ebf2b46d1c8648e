//! `sftp`: folders of a machine that one may log in to by SSH with a key.
//!
//! Over the system's `ssh`, as OpenDAL does it too, but without its many crates. An object goes to `.larder/tmp/` first, is
//! synced where the server can (`fsync@openssh.com`), and is renamed when it is whole: OpenSSH renames without replacing by
//! linking, so of several writers one wins.

mod session;

use super::{
    Credential, IfAbsent, ObjectKey, Page, Pending, ProviderConfig, ProviderFactory, Put, PutMode, Quota, Rename,
    Setting, SettingError, Stat, StorageError, StorageErrorKind, StorageProvider, Usage, Version, check_config, probe,
    tree::{self, Child, Folders},
    value,
};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt};
use larder_protocol::time::Timestamp;
use russh_sftp::{
    client::error::Error,
    protocol::{FileAttributes, OpenFlags, StatusCode},
};
use session::Session;
use std::{
    collections::BTreeSet,
    ffi::OsString,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

const NAME: &str = "sftp";
const SETTINGS: &[Setting] = &[
    Setting::required("host", "name or address of the machine, or a host of ~/.ssh/config"),
    Setting::optional("port", "port of its SSH server"),
    Setting::optional("user", "who logs in"),
    Setting::with_default("path", "larder", "folder there; from the home folder unless it begins with '/'"),
    Setting::optional("key_file", "absolute path of the private key on this device; else what ssh uses by itself"),
    Setting::optional("known_hosts", "absolute path of a file with the machine's host key; else the user's own"),
];
/// Bytes of one read or write; every server takes that many.
const PIECE: usize = 32 << 10;
/// Reads or writes that are under way at a time.
const PIECES_AT_ONCE: usize = 32;
/// Where objects are written before they are renamed.
const TEMP: &str = ".larder/tmp";

/// Makes `sftp` providers.
pub struct SftpFactory;

impl ProviderFactory for SftpFactory {
    fn name(&self) -> &'static str {
        NAME
    }

    fn settings(&self) -> &'static [Setting] {
        SETTINGS
    }

    fn validate(&self, config: &ProviderConfig) -> Result<(), SettingError> {
        check_config(NAME, SETTINGS, config)?;
        let setting = |name| value(SETTINGS, config, name);
        for name in ["host", "user"] {
            // An argument that begins with '-' would be an option of ssh.
            let plain = |text: &str| {
                !text.starts_with('-')
                    && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte))
            };
            if !setting(name).is_none_or(plain) {
                return Err(SettingError::invalid(NAME, name, "must be a plain name"));
            }
        }
        if !setting("port").is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0)) {
            return Err(SettingError::invalid(NAME, "port", "must be a number from 1 to 65535"));
        }
        for name in ["key_file", "known_hosts"] {
            if !setting(name).is_none_or(|path| path.starts_with('/') && !path.contains(char::is_whitespace)) {
                return Err(SettingError::invalid(NAME, name, "must be an absolute path without spaces"));
            }
        }
        Ok(())
    }

    fn create(&self, config: &ProviderConfig, _: &Credential) -> Result<Arc<dyn StorageProvider>, StorageError> {
        let setting = |name| value(SETTINGS, config, name);
        let mut arguments: Vec<String> = [
            "BatchMode=yes",
            "StrictHostKeyChecking=yes",
            "ConnectTimeout=15",
            "ServerAliveInterval=15",
            "LogLevel=ERROR",
        ]
        .iter()
        .map(|option| format!("-o{option}"))
        .collect();
        arguments.extend(setting("port").map(|port| format!("-p{port}")));
        arguments.extend(setting("user").map(|user| format!("-l{user}")));
        if let Some(key) = setting("key_file") {
            arguments.extend(["-oIdentitiesOnly=yes".to_owned(), format!("-i{key}")]);
        }
        arguments.extend(setting("known_hosts").map(|file| format!("-oUserKnownHostsFile={file}")));
        arguments.extend(["-s", "--", setting("host").unwrap_or_default(), "sftp"].map(str::to_owned));
        Ok(Arc::new(SftpProvider {
            arguments: arguments.into_iter().map(OsString::from).collect(),
            root: setting("path").unwrap_or_default().trim_end_matches('/').to_owned(),
            session: tokio::sync::Mutex::default(),
            folders: Mutex::default(),
        }))
    }
}

struct SftpProvider {
    arguments: Vec<OsString>,
    root: String,
    session: tokio::sync::Mutex<Option<Arc<Session>>>,
    /// Folders that were made or seen.
    folders: Mutex<BTreeSet<String>>,
}

/// A file or folder that is open; closed when it is dropped.
struct Open {
    session: Arc<Session>,
    handle: Option<String>,
}

impl Open {
    fn handle(&self) -> String {
        self.handle.clone().unwrap_or_default()
    }

    async fn close(mut self) -> Result<(), StorageError> {
        let handle = self.handle.take().unwrap_or_default();
        self.session.raw.close(handle).await.map(drop).map_err(|error| self.session.error(error))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let (Some(handle), Ok(runtime)) = (self.handle.take(), tokio::runtime::Handle::try_current()) {
            let session = self.session.clone();
            runtime.spawn(async move { session.raw.close(handle).await });
        }
    }
}

fn is_status(error: &Error, code: StatusCode) -> bool {
    matches!(error, Error::Status(status) if status.status_code == code)
}

fn modified(attributes: &FileAttributes) -> Option<Timestamp> {
    attributes.mtime.map(|seconds| Timestamp::from_millis(i64::from(seconds) * 1000))
}

impl SftpProvider {
    fn path(&self, key: &str) -> String {
        format!("{}/{key}", self.root)
    }

    async fn session(&self) -> Result<Arc<Session>, StorageError> {
        let mut kept = self.session.lock().await;
        if let Some(session) = kept.as_ref().filter(|session| session.is_sound()) {
            return Ok(session.clone());
        }
        let session = Arc::new(Session::start(&self.arguments).await?);
        *kept = Some(session.clone());
        Ok(session)
    }

    /// Does something as long as the session lasts that it uses.
    async fn guarded<T>(&self, work: impl Future<Output = Result<T, StorageError>>) -> Result<T, StorageError> {
        self.session().await?.while_it_lasts(work).await
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.folders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn attributes(&self, session: &Session, path: &str) -> Result<Option<FileAttributes>, StorageError> {
        match session.raw.stat(path).await {
            Ok(found) => Ok(Some(found.attrs)),
            Err(error) if is_status(&error, StatusCode::NoSuchFile) => Ok(None),
            Err(error) => Err(session.error(error)),
        }
    }

    /// Makes the folders above a path that are not known to be there.
    async fn make_folders(&self, session: &Session, path: &str) -> Result<(), StorageError> {
        for (at, _) in path.match_indices('/').filter(|(at, _)| *at > 0) {
            let folder = &path[..at];
            if self.known().contains(folder) {
                continue;
            }
            if let Err(error) = session.raw.mkdir(folder, FileAttributes::empty()).await {
                let there = self.attributes(session, folder).await?.is_some_and(|found| found.is_dir());
                if !there {
                    return Err(session.error(error));
                }
            }
            self.known().insert(folder.to_owned());
        }
        Ok(())
    }

    async fn open(&self, session: &Arc<Session>, path: &str, flags: OpenFlags) -> Result<Open, Error> {
        let opened = session.raw.open(path, flags, FileAttributes::empty()).await?;
        Ok(Open { session: session.clone(), handle: Some(opened.handle) })
    }

    /// Writes a file that is not there yet, as durably as the server can.
    async fn write(&self, session: &Arc<Session>, path: &str, bytes: &Bytes) -> Result<(), StorageError> {
        let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUDE;
        self.make_folders(session, path).await?;
        let open = match self.open(session, path, flags).await {
            Err(error) if is_status(&error, StatusCode::NoSuchFile) => {
                // Somebody removed folders that were known.
                self.known().clear();
                self.make_folders(session, path).await?;
                self.open(session, path, flags).await
            }
            open => open,
        };
        let open = open.map_err(|error| session.error(error))?;
        let (handle, raw) = (open.handle(), &session.raw);
        let pieces = (0..bytes.len()).step_by(PIECE).map(|at| {
            let (handle, piece) = (handle.clone(), bytes.slice(at..bytes.len().min(at + PIECE)));
            async move { raw.write(handle, at as u64, piece.to_vec()).await.map(drop) }
        });
        let written = futures::stream::iter(pieces).buffer_unordered(PIECES_AT_ONCE).try_collect::<Vec<()>>().await;
        written.map_err(|error| session.error(error))?;
        match raw.fsync(handle).await {
            Err(error) if !is_status(&error, StatusCode::OpUnsupported) => return Err(session.error(error)),
            _ => {}
        }
        open.close().await
    }

    /// Renames; false when something is there and stays.
    async fn relocate(&self, session: &Session, from: &str, to: &str, mode: PutMode) -> Result<bool, StorageError> {
        self.make_folders(session, to).await?;
        if mode == PutMode::Replace {
            if session.rename_over(from, to).await? {
                return Ok(true);
            }
            // A server that only renames to what is not there: the old one goes first.
            match session.raw.remove(to).await {
                Err(error) if !is_status(&error, StatusCode::NoSuchFile) => return Err(session.error(error)),
                _ => {}
            }
        }
        match session.raw.rename(from, to).await {
            Ok(_) => Ok(true),
            Err(error) if is_status(&error, StatusCode::Failure) && self.attributes(session, to).await?.is_some() => {
                Ok(false)
            }
            Err(error) => Err(session.error(error)),
        }
    }

    async fn put_object(&self, key: &ObjectKey, bytes: Bytes, mode: PutMode) -> Result<Put, StorageError> {
        let session = self.session().await?;
        let to = self.path(key.as_str());
        if mode == PutMode::IfAbsent && self.attributes(&session, &to).await?.is_some() {
            return Ok(Put::AlreadyThere);
        }
        let random: String = crate::keys::random::<12>().iter().map(|byte| format!("{byte:02x}")).collect();
        let temp = self.path(&format!("{TEMP}/{random}"));
        let done = match self.write(&session, &temp, &bytes).await {
            Ok(()) => self.relocate(&session, &temp, &to, mode).await,
            Err(error) => Err(error),
        };
        if !matches!(done, Ok(true)) {
            // What cannot be removed now is removed by the next test of the storage.
            let _ = session.raw.remove(&temp).await;
        }
        done.map(|new| if new { Put::New } else { Put::AlreadyThere })
    }

    async fn read(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Bytes, StorageError> {
        let session = self.session().await?;
        let open = self.open(&session, &self.path(key.as_str()), OpenFlags::READ).await;
        let open = open.map_err(|error| session.error(error))?;
        let (handle, raw) = (open.handle(), &session.raw);
        let found = raw.fstat(handle.clone()).await.map_err(|error| session.error(error))?.attrs;
        if found.is_dir() {
            return Err(StorageError::new(NAME, StorageErrorKind::NotFound, key.to_string()));
        }
        let size = found.size.unwrap_or(0);
        let range = range.unwrap_or(0..size);
        let (start, end) = (range.start.min(size), range.end.min(size));
        let pieces = (start..end.max(start)).step_by(PIECE).map(|at| {
            let handle = handle.clone();
            async move {
                let wanted = usize::try_from((end - at).min(PIECE as u64)).unwrap_or(PIECE);
                let mut piece = BytesMut::with_capacity(wanted);
                // A server may give less than was asked for.
                while piece.len() < wanted {
                    let left = u32::try_from(wanted - piece.len()).unwrap_or(u32::MAX);
                    let data = raw.read(handle.clone(), at + piece.len() as u64, left).await?.data;
                    if data.is_empty() || data.len() > wanted - piece.len() {
                        return Err(Error::UnexpectedBehavior("a read that does not get ahead".to_owned()));
                    }
                    piece.extend_from_slice(&data);
                }
                Ok(piece)
            }
        });
        let mut pieces = futures::stream::iter(pieces).buffered(PIECES_AT_ONCE);
        let mut bytes = BytesMut::with_capacity(usize::try_from(end.saturating_sub(start)).unwrap_or_default());
        while let Some(piece) = pieces.next().await {
            bytes.extend_from_slice(&piece.map_err(|error| session.error(error))?);
        }
        drop(pieces);
        open.close().await?;
        Ok(bytes.freeze())
    }

    async fn children_of(&self, folder: &str) -> Result<Vec<Child>, StorageError> {
        let session = self.session().await?;
        let path = if folder.is_empty() { self.root.clone() } else { self.path(folder) };
        let handle = match session.raw.opendir(path).await {
            Ok(opened) => opened.handle,
            Err(error) if is_status(&error, StatusCode::NoSuchFile) => return Ok(Vec::new()),
            Err(error) => return Err(session.error(error)),
        };
        let open = Open { session: session.clone(), handle: Some(handle) };
        let mut children = Vec::new();
        loop {
            match session.raw.readdir(open.handle()).await {
                Ok(page) => children.extend(page.files.into_iter().filter_map(|file| {
                    let (folder, plain) = (file.attrs.is_dir(), file.attrs.is_regular());
                    let named = file.filename != "." && file.filename != "..";
                    let (size, modified) = (file.attrs.size.unwrap_or(0), modified(&file.attrs));
                    (named && (folder || plain)).then_some(Child { name: file.filename, folder, size, modified })
                })),
                Err(error) if is_status(&error, StatusCode::Eof) => break,
                Err(error) => return Err(session.error(error)),
            }
        }
        open.close().await?;
        Ok(children)
    }

    /// Removes what was begun more than a day ago and never renamed.
    async fn sweep_temp(&self) -> Result<(), StorageError> {
        let before = super::clock::now().plus_millis(-24 * 3600 * 1000);
        let session = self.session().await?;
        for child in self.children_of(TEMP).await? {
            if !child.folder && child.modified.is_some_and(|modified| modified < before) {
                let _ = session.raw.remove(self.path(&format!("{TEMP}/{}", child.name))).await;
            }
        }
        Ok(())
    }
}

impl Folders for SftpProvider {
    fn children<'a>(&'a self, folder: &'a str) -> Pending<'a, Vec<Child>> {
        Box::pin(async move {
            let mut children = self.children_of(folder).await?;
            if folder == ".larder" {
                children.retain(|child| child.name != "tmp");
            }
            Ok(children)
        })
    }
}

impl StorageProvider for SftpProvider {
    fn name(&self) -> &'static str {
        NAME
    }

    fn put<'a>(&'a self, key: &'a ObjectKey, bytes: Bytes, mode: PutMode) -> Pending<'a, Put> {
        Box::pin(self.guarded(self.put_object(key, bytes, mode)))
    }

    fn get_range<'a>(&'a self, key: &'a ObjectKey, range: Option<Range<u64>>) -> Pending<'a, Bytes> {
        Box::pin(self.guarded(self.read(key, range)))
    }

    fn stat<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, Option<Stat>> {
        Box::pin(self.guarded(async move {
            let session = self.session().await?;
            let found = self.attributes(&session, &self.path(key.as_str())).await?;
            // Its time has whole seconds: too coarse to tell versions apart.
            Ok(found.filter(|found| !found.is_dir()).map(|found| Stat {
                size: found.size.unwrap_or(0),
                modified: modified(&found),
                version: None::<Version>,
            }))
        }))
    }

    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a ObjectKey>, limit: usize) -> Pending<'a, Page> {
        Box::pin(self.guarded(tree::list(self, prefix, after, limit)))
    }

    fn delete<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, ()> {
        Box::pin(self.guarded(async move {
            let session = self.session().await?;
            match session.raw.remove(self.path(key.as_str())).await {
                Err(error) if !is_status(&error, StatusCode::NoSuchFile) => Err(session.error(error)),
                _ => Ok(()),
            }
        }))
    }

    fn test(&self) -> Pending<'_, ()> {
        Box::pin(async move {
            probe::write_and_read(self).await?;
            self.sweep_temp().await
        })
    }

    fn if_absent(&self) -> IfAbsent {
        IfAbsent::Atomic
    }

    fn requests_max(&self) -> usize {
        8
    }

    fn rename(&self) -> Option<&dyn Rename> {
        Some(self)
    }

    fn quota(&self) -> Option<&dyn Quota> {
        Some(self)
    }
}

impl Rename for SftpProvider {
    fn rename<'a>(&'a self, from: &'a ObjectKey, to: &'a ObjectKey, mode: PutMode) -> Pending<'a, ()> {
        Box::pin(self.guarded(async move {
            let session = self.session().await?;
            let (from_path, to_path) = (self.path(from.as_str()), self.path(to.as_str()));
            let missing = || StorageError::new(NAME, StorageErrorKind::NotFound, from.to_string());
            self.attributes(&session, &from_path).await?.filter(|found| !found.is_dir()).ok_or_else(missing)?;
            if from == to || self.relocate(&session, &from_path, &to_path, mode).await? {
                return Ok(());
            }
            Err(StorageError::new(NAME, StorageErrorKind::Conflict, to.to_string()))
        }))
    }
}

impl Quota for SftpProvider {
    fn usage(&self) -> Pending<'_, Usage> {
        Box::pin(async move {
            let session = self.session().await?;
            let path = if self.root.is_empty() { "/" } else { self.root.as_str() };
            let found = session.raw.statvfs(path).await.map_err(|error| session.error(error))?;
            let bytes = |blocks: u64| blocks.saturating_mul(found.fragment_size);
            Ok(Usage {
                used: bytes(found.blocks.saturating_sub(found.blocks_free)),
                free: Some(bytes(found.blocks_avail)),
            })
        })
    }
}
