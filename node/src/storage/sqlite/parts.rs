//! Uploads in parts, as rows; they outlive the process.

use super::{
    Failure, SqliteProvider, len,
    objects::{new_body, place, put_piece, remove_body},
};
use crate::storage::{Multipart, ObjectKey, Part, PartRules, Pending, Put, PutMode, StorageErrorKind, Upload};
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};

fn invalid(detail: &str) -> Failure {
    Failure::Kind(StorageErrorKind::Invalid, detail.to_owned())
}

/// Where the parts of an upload are.
fn body(connection: &Connection, upload: &Upload) -> Result<i64, Failure> {
    let mut query = connection.prepare_cached("SELECT body FROM uploads WHERE id = ?1")?;
    let found = query.query_row([&upload.id], |row| row.get(0)).optional()?;
    found.ok_or_else(|| Failure::Kind(StorageErrorKind::NotFound, format!("the upload of {}", upload.key)))
}

/// Parts with where each begins.
fn parts(connection: &Connection, upload: &Upload) -> Result<Vec<(u64, Part)>, Failure> {
    let body = body(connection, upload)?;
    let mut query =
        connection.prepare_cached("SELECT number, start, length(bytes) FROM pieces WHERE body = ?1 ORDER BY number")?;
    let found = query.query_map([body], |row| {
        let start = len(row.get(1)?);
        Ok((start, Part { number: row.get(0)?, size: len(row.get(2)?), tag: start.to_string() }))
    })?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

impl Multipart for SqliteProvider {
    fn rules(&self) -> PartRules {
        PartRules {
            bytes_min: 1,
            bytes_max: 64 << 20,
            bytes_step: 1,
            parts_max: 10_000,
            in_order: false,
            lists_unfinished: true,
        }
    }

    fn begin<'a>(&'a self, key: &'a ObjectKey, size: u64, _: PutMode) -> Pending<'a, Upload> {
        let id = crate::keys::random::<16>().iter().map(|byte| format!("{byte:02x}")).collect();
        let upload = Upload { key: key.clone(), size, id };
        self.write(move |tx| {
            let size = i64::try_from(upload.size).map_err(|_| invalid("the object is too large"))?;
            tx.execute(
                "INSERT INTO uploads (id, key, size, body) VALUES (?1, ?2, ?3, ?4)",
                params![upload.id, upload.key.as_str(), size, new_body(tx)?],
            )?;
            Ok(upload)
        })
    }

    fn put_part<'a>(&'a self, upload: &'a Upload, number: u32, offset: u64, bytes: Bytes) -> Pending<'a, Part> {
        let upload = upload.clone();
        self.write(move |tx| {
            let start = i64::try_from(offset).map_err(|_| invalid("the object is too large"))?;
            put_piece(tx, body(tx, &upload)?, number, start, &bytes)?;
            Ok(Part { number, size: bytes.len() as u64, tag: offset.to_string() })
        })
    }

    fn parts<'a>(&'a self, upload: &'a Upload) -> Pending<'a, Vec<Part>> {
        let upload = upload.clone();
        self.read(move |connection| Ok(parts(connection, &upload)?.into_iter().map(|(_, part)| part).collect()))
    }

    fn complete<'a>(&'a self, upload: &'a Upload, wanted: &'a [Part], mode: PutMode) -> Pending<'a, Put> {
        let (upload, wanted) = (upload.clone(), wanted.to_vec());
        self.write(move |tx| {
            let have = parts(tx, &upload)?;
            let end = have.iter().try_fold(0, |at, (start, part)| (*start == at).then_some(at + part.size));
            if end != Some(upload.size) || !have.iter().map(|(_, part)| part).eq(&wanted) {
                return Err(invalid("the parts do not make the object up"));
            }
            let body = body(tx, &upload)?;
            tx.execute("DELETE FROM uploads WHERE id = ?1", [&upload.id])?;
            Ok(place(tx, &upload.key, body, upload.size, mode)?)
        })
    }

    fn abort<'a>(&'a self, upload: &'a Upload) -> Pending<'a, ()> {
        let upload = upload.clone();
        self.write(move |tx| {
            match body(tx, &upload) {
                Ok(body) => Ok(remove_body(tx, body)?),
                // Already gone.
                Err(Failure::Kind(StorageErrorKind::NotFound, _)) => Ok(()),
                Err(error) => Err(error),
            }
        })
    }

    fn unfinished<'a>(&'a self, prefix: &'a str) -> Pending<'a, Vec<Upload>> {
        let prefix = prefix.to_owned();
        self.read(move |connection| {
            let mut query = connection.prepare_cached("SELECT id, key, size FROM uploads ORDER BY key, id")?;
            let found = query.query_map([], |row| Ok((row.get(0)?, row.get::<_, String>(1)?, len(row.get(2)?))))?;
            let found = found.collect::<rusqlite::Result<Vec<(String, String, u64)>>>()?;
            let uploads = found.into_iter().filter(|(_, key, _)| key.starts_with(&prefix));
            Ok(uploads.filter_map(|(id, key, size)| Some(Upload { key: ObjectKey::new(key)?, size, id })).collect())
        })
    }
}
