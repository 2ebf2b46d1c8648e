//! Objects and their bytes. All but [`read`] work within a transaction of whoever calls.

use super::{Failure, changed, len, not_found, search};
use crate::storage::{ObjectKey, Put, PutMode, StorageErrorKind, clock::now};
use rusqlite::{Connection, OptionalExtension, params};
use std::ops::Range;

/// Longest piece of an object that is put at once, in bytes.
const PIECE_BYTES: usize = 4 << 20;

pub(super) fn exists(connection: &Connection, key: &ObjectKey) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM objects WHERE key = ?1")?.exists([key.as_str()])
}

/// Puts an object.
pub(super) fn put(connection: &Connection, key: &ObjectKey, bytes: &[u8], mode: PutMode) -> rusqlite::Result<Put> {
    let body = new_body(connection)?;
    let places = (1u32..).zip((0i64..).step_by(PIECE_BYTES));
    for ((number, start), piece) in places.zip(bytes.chunks(PIECE_BYTES)) {
        put_piece(connection, body, number, start, piece)?;
    }
    place(connection, key, body, bytes.len() as u64, mode)
}

pub(super) fn new_body(connection: &Connection) -> rusqlite::Result<i64> {
    connection.prepare_cached("INSERT INTO bodies DEFAULT VALUES")?.execute([])?;
    Ok(connection.last_insert_rowid())
}

pub(super) fn put_piece(
    connection: &Connection,
    body: i64,
    number: u32,
    start: i64,
    bytes: &[u8],
) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO pieces (body, number, start, bytes) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![body, number, start, bytes])?;
    Ok(())
}

/// Removes bytes, and with them the object or the upload whose they are.
pub(super) fn remove_body(connection: &Connection, body: i64) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM bodies WHERE id = ?1")?.execute([body])?;
    Ok(())
}

/// Makes bytes an object, or removes them when there is one already.
pub(super) fn place(
    connection: &Connection,
    key: &ObjectKey,
    body: i64,
    size: u64,
    mode: PutMode,
) -> rusqlite::Result<Put> {
    if mode == PutMode::IfAbsent && exists(connection, key)? {
        remove_body(connection, body)?;
        return Ok(Put::AlreadyThere);
    }
    remove(connection, key)?;
    changed(connection, key)?;
    let version = connection.last_insert_rowid();
    connection
        .prepare_cached("INSERT INTO objects (body, key, size, modified, version) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![body, key.as_str(), i64::try_from(size).unwrap_or(i64::MAX), now().0, version])?;
    search::note(connection, key)?;
    Ok(Put::New)
}

/// Removes an object, with all that is said of it.
pub(super) fn remove(connection: &Connection, key: &ObjectKey) -> rusqlite::Result<bool> {
    search::forget(connection, key)?;
    let mut delete =
        connection.prepare_cached("DELETE FROM bodies WHERE id = (SELECT body FROM objects WHERE key = ?1)")?;
    Ok(delete.execute([key.as_str()])? > 0)
}

/// Bytes of an object, cut to what there is.
pub(super) fn read(connection: &Connection, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>, Failure> {
    // One state of the file for all statements: an object may be replaced meanwhile.
    let tx = connection.unchecked_transaction()?;
    let (body, size) = tx
        .prepare_cached("SELECT body, size FROM objects WHERE key = ?1")?
        .query_row([key.as_str()], |row| Ok((row.get::<_, i64>(0)?, len(row.get(1)?))))
        .optional()?
        .ok_or_else(|| not_found(key))?;
    let (start, end) = (range.start.min(size), range.end.min(size));
    let too_long = |_| Failure::Kind(StorageErrorKind::Invalid, "more than fits into memory".to_owned());
    let mut bytes = Vec::with_capacity(usize::try_from(end.saturating_sub(start)).map_err(too_long)?);
    let mut query = tx.prepare_cached(
        "SELECT id, start FROM pieces WHERE body = ?1 AND start < ?3 AND start + length(bytes) > ?2 ORDER BY start",
    )?;
    let bounds = [body, start.try_into().unwrap_or(i64::MAX), end.try_into().unwrap_or(i64::MAX)];
    let mut rows = query.query(bounds)?;
    while let Some(row) = rows.next()? {
        let (piece, from) = (row.get(0)?, len(row.get(1)?));
        let blob = tx.blob_open("main", "pieces", "bytes", piece, true)?;
        let cut = |at: u64| usize::try_from(at.saturating_sub(from)).unwrap_or(usize::MAX).min(blob.len());
        let (first, last, at) = (cut(start), cut(end), bytes.len());
        bytes.resize(at + last - first, 0);
        blob.read_at_exact(&mut bytes[at..], first)?;
    }
    let missing = || Failure::Kind(StorageErrorKind::Damaged, format!("a piece of {key} is missing"));
    (bytes.len() as u64 == end.saturating_sub(start)).then_some(bytes).ok_or_else(missing)
}
