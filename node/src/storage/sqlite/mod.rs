//! `sqlite`: objects, what is said of them and the search in one file.
//!
//! Tables: `objects` (key, length, time, version), `bodies` and `pieces` (their bytes, in pieces, as SQLite holds no value of
//! more than 1 GB), `fields` (key, name, value), `words` (full text of keys and values), `uploads` (what is under way: its
//! parts are the pieces of the object to be), `changes` (for those who watch). WAL with `synchronous=FULL`: what a call
//! answered is on the disk. One connection writes, one reads, each on its own lock; SQLite keeps readers whole while somebody
//! writes.

mod file;
mod objects;
mod parts;
mod search;

use super::{
    Changes, Credential, Listed, Multipart, ObjectKey, PAGE_MAX, Page, Pending, ProviderConfig, ProviderFactory, Put,
    PutMode, Quota, Rename, Search, Setting, SettingError, Stat, StorageError, StorageErrorKind, StorageProvider,
    Usage, Version, Watch, check_config, layout::probe_key,
};
use bytes::Bytes;
use file::OpenFile;
use larder_protocol::time::Timestamp;
use objects::{exists, put, read, remove};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, TransactionBehavior};
use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

const NAME: &str = "sqlite";
const SETTINGS: &[Setting] = &[Setting::required("path", "absolute path of the file; made when it is not there")];
/// Written into the file's header: refused when another program's.
const APPLICATION_ID: i32 = 0x4c52_4453;
/// Version of the tables.
const FORMAT: i32 = 2;
/// Changes that are remembered for those who watch.
const CHANGES_MAX: i64 = 10_000;

const TABLES: &str = "
    CREATE TABLE bodies (id INTEGER PRIMARY KEY AUTOINCREMENT) STRICT;
    CREATE TABLE pieces (
        id INTEGER PRIMARY KEY,
        body INTEGER NOT NULL REFERENCES bodies(id) ON DELETE CASCADE,
        number INTEGER NOT NULL,
        start INTEGER NOT NULL,
        bytes BLOB NOT NULL,
        UNIQUE (body, number)
    ) STRICT;
    CREATE TABLE objects (
        body INTEGER PRIMARY KEY REFERENCES bodies(id) ON DELETE CASCADE,
        key TEXT NOT NULL UNIQUE COLLATE BINARY,
        size INTEGER NOT NULL,
        modified INTEGER NOT NULL,
        version INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE fields (
        key TEXT NOT NULL REFERENCES objects(key) ON DELETE CASCADE ON UPDATE CASCADE,
        name TEXT NOT NULL,
        value TEXT NOT NULL,
        PRIMARY KEY (key, name)
    ) STRICT, WITHOUT ROWID;
    CREATE VIRTUAL TABLE words USING fts5(key UNINDEXED, said, tokenize = 'unicode61 remove_diacritics 0');
    CREATE TABLE uploads (
        id TEXT PRIMARY KEY,
        key TEXT NOT NULL,
        size INTEGER NOT NULL,
        body INTEGER NOT NULL REFERENCES bodies(id) ON DELETE CASCADE
    ) STRICT;
    CREATE TABLE changes (number INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL) STRICT;
";

/// Makes `sqlite` providers.
pub struct SqliteFactory;

impl ProviderFactory for SqliteFactory {
    fn name(&self) -> &'static str {
        NAME
    }

    fn settings(&self) -> &'static [Setting] {
        SETTINGS
    }

    fn validate(&self, config: &ProviderConfig) -> Result<(), SettingError> {
        check_config(NAME, SETTINGS, config)?;
        match config.get("path").map(Path::new) {
            Some(path) if path.is_absolute() && path.file_name().is_some() => Ok(()),
            _ => Err(SettingError::invalid(NAME, "path", "must be an absolute path of a file")),
        }
    }

    fn create(&self, config: &ProviderConfig, _: &Credential) -> Result<Arc<dyn StorageProvider>, StorageError> {
        let path = config.get("path").map(PathBuf::from).unwrap_or_default();
        Ok(Arc::new(SqliteProvider::open(&path)?))
    }
}

/// Objects in a SQLite file.
#[derive(Clone)]
pub struct SqliteProvider {
    file: Arc<OpenFile>,
    writer: Arc<Mutex<Connection>>,
    reader: Arc<Mutex<Connection>>,
}

/// What blocking work fails with; turned into a [`StorageError`] at the border.
#[derive(Debug)]
enum Failure {
    Sqlite(rusqlite::Error),
    Kind(StorageErrorKind, String),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<Failure> for StorageError {
    fn from(failure: Failure) -> Self {
        use StorageErrorKind::{Damaged, Full, Invalid, NotAllowed, Other, Unavailable};
        let error = match failure {
            Failure::Kind(kind, detail) => return Self::new(NAME, kind, detail),
            Failure::Sqlite(error) => error,
        };
        let kind = match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Full,
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied) => {
                NotAllowed
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::CannotOpen) => Unavailable,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Damaged,
            Some(ErrorCode::TooBig) => Invalid,
            _ => Other,
        };
        let mut wrapped = Self::new(NAME, kind, error.to_string());
        if kind == Damaged {
            wrapped.retry = super::Retry::No;
        }
        wrapped.because(error)
    }
}

fn not_found(key: &ObjectKey) -> Failure {
    Failure::Kind(StorageErrorKind::NotFound, key.to_string())
}

fn connect(path: &Path) -> Result<Connection, Failure> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(20))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    Ok(connection)
}

fn prepare(connection: &mut Connection) -> Result<(), Failure> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let number = |name: &str| tx.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i32>(0));
    let tables: i64 = tx.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    match (number("application_id")?, number("user_version")?, tables) {
        (APPLICATION_ID, FORMAT, _) => {}
        (0, 0, 0) => {
            tx.execute_batch(TABLES)?;
            tx.pragma_update(None, "application_id", APPLICATION_ID)?;
            tx.pragma_update(None, "user_version", FORMAT)?;
        }
        (APPLICATION_ID, version, _) => {
            let detail = format!("the file has format {version}, known is {FORMAT}");
            return Err(Failure::Kind(StorageErrorKind::Invalid, detail));
        }
        _ => return Err(Failure::Kind(StorageErrorKind::Invalid, "the file is another program's".to_owned())),
    }
    Ok(tx.commit()?)
}

fn len(bytes: i64) -> u64 {
    u64::try_from(bytes).unwrap_or_default()
}

/// key, length, time
fn listed(row: &Row<'_>) -> rusqlite::Result<Option<Listed>> {
    let (key, size, modified) = (row.get::<_, String>(0)?, len(row.get(1)?), Some(Timestamp(row.get(2)?)));
    Ok(ObjectKey::new(key).map(|key| Listed { key, size, modified }))
}

fn changed(connection: &Connection, key: &ObjectKey) -> rusqlite::Result<()> {
    connection.prepare_cached("INSERT INTO changes (key) VALUES (?1)")?.execute([key.as_str()])?;
    let oldest = connection.last_insert_rowid() - CHANGES_MAX;
    connection.prepare_cached("DELETE FROM changes WHERE number <= ?1")?.execute([oldest])?;
    Ok(())
}

impl SqliteProvider {
    /// Opens a file, or makes it. Blocks.
    ///
    /// # Errors
    /// [`StorageError`] when it cannot be opened, or is another program's or a newer version's.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        let folder = path.parent().is_some_and(Path::is_dir);
        if !folder {
            return Err(StorageError::new(NAME, StorageErrorKind::Unavailable, "the folder is not there"));
        }
        OpenFile::may_open(path)?;
        let mut writer = connect(path)?;
        prepare(&mut writer)?;
        let reader = connect(path)?;
        let file = OpenFile::of(path)?;
        Ok(Self { file, writer: Arc::new(Mutex::new(writer)), reader: Arc::new(Mutex::new(reader)) })
    }

    fn run<'a, T: Send + 'static>(
        &self,
        on: &Arc<Mutex<Connection>>,
        work: impl FnOnce(&mut Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Pending<'a, T> {
        let (on, file) = (on.clone(), self.file.clone());
        Box::pin(async move {
            let done = tokio::task::spawn_blocking(move || {
                let mut connection = on.lock().unwrap_or_else(PoisonError::into_inner);
                file.check()?;
                let done = work(&mut connection).map_err(StorageError::from)?;
                // What was moved away meanwhile is not acknowledged.
                file.check().map(|()| done)
            });
            done.await.map_err(|error| StorageError::new(NAME, StorageErrorKind::Other, error.to_string()))?
        })
    }

    fn read<'a, T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Pending<'a, T> {
        self.run(&self.reader, |connection| work(connection))
    }

    /// One transaction: all of it or nothing, on the disk when it answers.
    fn write<'a, T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Pending<'a, T> {
        self.run(&self.writer, |connection| {
            let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let done = work(&tx)?;
            tx.commit()?;
            Ok(done)
        })
    }
}

impl StorageProvider for SqliteProvider {
    fn name(&self) -> &'static str {
        NAME
    }

    fn put<'a>(&'a self, key: &'a ObjectKey, bytes: Bytes, mode: PutMode) -> Pending<'a, Put> {
        let key = key.clone();
        self.write(move |tx| Ok(put(tx, &key, &bytes, mode)?))
    }

    fn get_range<'a>(&'a self, key: &'a ObjectKey, range: Option<Range<u64>>) -> Pending<'a, Bytes> {
        let key = key.clone();
        let range = range.unwrap_or(0..u64::MAX);
        self.read(move |connection| Ok(read(connection, &key, range)?.into()))
    }

    fn stat<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, Option<Stat>> {
        let key = key.clone();
        self.read(move |connection| {
            let mut query = connection.prepare_cached("SELECT size, modified, version FROM objects WHERE key = ?1")?;
            let stat = query.query_row([key.as_str()], |row| {
                let version = Some(Version(row.get::<_, i64>(2)?.to_string()));
                Ok(Stat { size: len(row.get(0)?), modified: Some(Timestamp(row.get(1)?)), version })
            });
            Ok(stat.optional()?)
        })
    }

    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a ObjectKey>, limit: usize) -> Pending<'a, Page> {
        let (prefix, after) = (prefix.to_owned(), after.map_or(String::new(), |after| after.as_str().to_owned()));
        let limit = limit.clamp(1, PAGE_MAX);
        self.read(move |connection| {
            let mut query = connection
                .prepare_cached("SELECT key, size, modified FROM objects WHERE key > ?1 AND key >= ?2 ORDER BY key")?;
            let mut rows = query.query([&after, &prefix])?;
            let mut objects: Vec<Listed> = Vec::new();
            while let Some(row) = rows.next()? {
                let Some(found) = listed(row)? else { continue };
                if !found.key.as_str().starts_with(&prefix) {
                    break;
                }
                if objects.len() == limit {
                    let next = objects.last().map(|listed| listed.key.clone());
                    return Ok(Page { objects, next });
                }
                objects.push(found);
            }
            Ok(Page { objects, next: None })
        })
    }

    fn delete<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, ()> {
        let key = key.clone();
        self.write(move |tx| {
            if remove(tx, &key)? {
                changed(tx, &key)?;
            }
            Ok(())
        })
    }

    fn test(&self) -> Pending<'_, ()> {
        self.write(|tx| {
            let key = probe_key();
            put(tx, &key, b"probe", PutMode::Replace)?;
            remove(tx, &key)?;
            Ok(())
        })
    }

    fn multipart(&self) -> Option<&dyn Multipart> {
        Some(self)
    }

    fn rename(&self) -> Option<&dyn Rename> {
        Some(self)
    }

    fn watch(&self) -> Option<&dyn Watch> {
        Some(self)
    }

    fn quota(&self) -> Option<&dyn Quota> {
        Some(self)
    }

    fn search(&self) -> Option<&dyn Search> {
        Some(self)
    }
}

impl Rename for SqliteProvider {
    fn rename<'a>(&'a self, from: &'a ObjectKey, to: &'a ObjectKey, mode: PutMode) -> Pending<'a, ()> {
        let (from, to) = (from.clone(), to.clone());
        self.write(move |tx| {
            if !exists(tx, &from)? {
                return Err(not_found(&from));
            }
            if from == to {
                return Ok(());
            }
            if mode == PutMode::IfAbsent && exists(tx, &to)? {
                return Err(Failure::Kind(StorageErrorKind::Conflict, to.to_string()));
            }
            remove(tx, &to)?;
            search::forget(tx, &from)?;
            tx.execute("UPDATE objects SET key = ?2 WHERE key = ?1", [from.as_str(), to.as_str()])?;
            search::note(tx, &to)?;
            changed(tx, &from)?;
            Ok(changed(tx, &to)?)
        })
    }
}

impl Watch for SqliteProvider {
    fn changes<'a>(&'a self, since: Option<&'a str>) -> Pending<'a, Changes> {
        let since = since.map(str::to_owned);
        self.read(move |connection| {
            let (first, last): (i64, i64) = connection.query_row(
                "SELECT coalesce(min(number), 0), (SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'changes')
                 FROM changes",
                [],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?;
            let cursor = last.to_string();
            let Some(since) = since else { return Ok(Changes { keys: Some(Vec::new()), cursor }) };
            let since = since.parse::<i64>().ok().filter(|since| (0..=last).contains(since));
            let since = since.ok_or_else(|| Failure::Kind(StorageErrorKind::Invalid, "not a cursor".to_owned()))?;
            if since + 1 < first {
                return Ok(Changes { keys: None, cursor });
            }
            let mut query = connection
                .prepare_cached("SELECT DISTINCT key FROM changes WHERE number > ?1 AND number <= ?2 ORDER BY key")?;
            let keys = query.query_map([since, last], |row| row.get::<_, String>(0))?;
            let keys = keys.collect::<rusqlite::Result<Vec<_>>>()?;
            Ok(Changes { keys: Some(keys.into_iter().filter_map(ObjectKey::new).collect()), cursor })
        })
    }
}

impl Quota for SqliteProvider {
    fn usage(&self) -> Pending<'_, Usage> {
        self.read(|connection| {
            let number = |name: &str| connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0));
            let (pages, free, size) = (number("page_count")?, number("freelist_count")?, number("page_size")?);
            Ok(Usage { used: len((pages - free).saturating_mul(size)), free: None })
        })
    }
}
