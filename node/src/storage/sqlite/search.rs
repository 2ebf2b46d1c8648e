//! What is said of objects, and finding them by it: FTS5 over keys and values.

use super::{Failure, SqliteProvider, listed, not_found, objects::exists};
use crate::storage::{Listed, ObjectKey, Pending, Search, words};
use rusqlite::{Connection, params};
use std::collections::BTreeMap;

/// Writes the words of an object, within a transaction.
pub(super) fn note(connection: &Connection, key: &ObjectKey) -> rusqlite::Result<()> {
    let mut said = words::split(key.as_str());
    let mut query = connection.prepare_cached("SELECT value FROM fields WHERE key = ?1")?;
    for value in query.query_map([key.as_str()], |row| row.get::<_, String>(0))? {
        said.extend(words::split(&value?));
    }
    let mut insert = connection
        .prepare_cached("INSERT INTO words (rowid, key, said) SELECT rowid, key, ?2 FROM objects WHERE key = ?1")?;
    insert.execute(params![key.as_str(), said.join(" ")])?;
    Ok(())
}

/// Removes the words of an object, within a transaction.
pub(super) fn forget(connection: &Connection, key: &ObjectKey) -> rusqlite::Result<()> {
    let mut delete =
        connection.prepare_cached("DELETE FROM words WHERE rowid = (SELECT rowid FROM objects WHERE key = ?1)")?;
    delete.execute([key.as_str()])?;
    Ok(())
}

impl Search for SqliteProvider {
    fn describe<'a>(&'a self, key: &'a ObjectKey, fields: &'a BTreeMap<String, String>) -> Pending<'a, ()> {
        let (key, fields) = (key.clone(), fields.clone());
        self.write(move |tx| {
            if !exists(tx, &key)? {
                return Err(not_found(&key));
            }
            tx.execute("DELETE FROM fields WHERE key = ?1", [key.as_str()])?;
            let mut insert = tx.prepare_cached("INSERT INTO fields (key, name, value) VALUES (?1, ?2, ?3)")?;
            for (name, value) in &fields {
                insert.execute([key.as_str(), name, value])?;
            }
            forget(tx, &key)?;
            Ok(note(tx, &key)?)
        })
    }

    fn description<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, BTreeMap<String, String>> {
        let key = key.clone();
        self.read(move |connection| {
            if !exists(connection, &key)? {
                return Err(not_found(&key));
            }
            let mut query = connection.prepare_cached("SELECT name, value FROM fields WHERE key = ?1")?;
            let fields = query.query_map([key.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(fields.collect::<rusqlite::Result<_>>()?)
        })
    }

    fn find<'a>(&'a self, words: &'a str, limit: usize) -> Pending<'a, Vec<Listed>> {
        // Words are letters and digits alone, so quoting them leaves nothing of FTS5's own language.
        let wanted: Vec<String> = words::split(words).iter().map(|word| format!("\"{word}\"*")).collect();
        self.read(move |connection| {
            if wanted.is_empty() {
                return Ok(Vec::new());
            }
            let mut query = connection.prepare_cached(
                "SELECT objects.key, size, modified FROM words JOIN objects ON objects.rowid = words.rowid
                 WHERE said MATCH ?1 ORDER BY objects.key LIMIT ?2",
            )?;
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let found = query.query_map(params![wanted.join(" "), limit], listed)?;
            found.filter_map(Result::transpose).collect::<Result<_, _>>().map_err(Failure::from)
        })
    }
}
