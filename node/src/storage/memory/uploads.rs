//! Uploads in parts, in memory.

use super::{MemoryProvider, NAME, State};
use crate::storage::{
    Multipart, ObjectKey, Part, PartRules, Pending, Put, PutMode, StorageError, StorageErrorKind, Upload,
};
use bytes::Bytes;
use std::collections::BTreeMap;

/// An upload under way.
#[derive(Debug)]
pub(super) struct Open {
    upload: Upload,
    parts: BTreeMap<u32, (u64, Bytes)>,
}

fn tag(bytes: &Bytes) -> String {
    blake3::hash(bytes).to_string()
}

fn part((number, (_, bytes)): (&u32, &(u64, Bytes))) -> Part {
    Part { number: *number, size: bytes.len() as u64, tag: tag(bytes) }
}

fn find<'s>(state: &'s mut State, upload: &Upload) -> Result<&'s mut Open, StorageError> {
    let open = state.uploads.get_mut(&upload.id);
    open.ok_or_else(|| StorageError::new(NAME, StorageErrorKind::NotFound, format!("the upload of {}", upload.key)))
}

impl Multipart for MemoryProvider {
    fn rules(&self) -> PartRules {
        PartRules {
            bytes_min: 1,
            bytes_max: 1 << 30,
            bytes_step: 1,
            parts_max: 10_000,
            in_order: false,
            lists_unfinished: true,
        }
    }

    fn begin<'a>(&'a self, key: &'a ObjectKey, size: u64, _: PutMode) -> Pending<'a, Upload> {
        Box::pin(async move {
            Ok(self.with(|state| {
                state.version += 1;
                let upload = Upload { key: key.clone(), size, id: state.version.to_string() };
                let open = Open { upload: upload.clone(), parts: BTreeMap::new() };
                state.uploads.insert(upload.id.clone(), open);
                upload
            }))
        })
    }

    fn put_part<'a>(&'a self, upload: &'a Upload, number: u32, offset: u64, bytes: Bytes) -> Pending<'a, Part> {
        Box::pin(async move {
            self.with(|state| {
                let open = find(state, upload)?;
                let entry = (offset, bytes);
                let done = part((&number, &entry));
                open.parts.insert(number, entry);
                Ok(done)
            })
        })
    }

    fn parts<'a>(&'a self, upload: &'a Upload) -> Pending<'a, Vec<Part>> {
        Box::pin(async move { self.with(|state| Ok(find(state, upload)?.parts.iter().map(part).collect())) })
    }

    fn complete<'a>(&'a self, upload: &'a Upload, parts: &'a [Part], mode: PutMode) -> Pending<'a, Put> {
        Box::pin(async move {
            self.with(|state| {
                let open = find(state, upload)?;
                let have: Vec<Part> = open.parts.iter().map(part).collect();
                let mut whole = Vec::new();
                for (offset, bytes) in open.parts.values() {
                    if *offset != whole.len() as u64 {
                        break;
                    }
                    whole.extend_from_slice(bytes);
                }
                if have != parts || whole.len() as u64 != upload.size {
                    let detail = format!("the parts of {} do not make it up", upload.key);
                    return Err(StorageError::new(NAME, StorageErrorKind::Invalid, detail));
                }
                state.uploads.remove(&upload.id);
                Ok(state.put(&upload.key, whole.into(), mode))
            })
        })
    }

    fn abort<'a>(&'a self, upload: &'a Upload) -> Pending<'a, ()> {
        Box::pin(async move {
            self.with(|state| state.uploads.remove(&upload.id));
            Ok(())
        })
    }

    fn unfinished<'a>(&'a self, prefix: &'a str) -> Pending<'a, Vec<Upload>> {
        Box::pin(async move {
            let fits = |open: &&Open| open.upload.key.as_str().starts_with(prefix);
            Ok(self.with(|state| state.uploads.values().filter(fits).map(|open| open.upload.clone()).collect()))
        })
    }
}
