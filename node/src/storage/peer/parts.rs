//! Objects in parts, on a shelf.
//!
//! A vault knows an upload by an id of 16 random bytes that whoever begins it chooses. It is spoken of with the requests that
//! objects have, and keys beneath `.larder/uploads/`, which name no object:
//!
//! | request | key | meaning |
//! |---|---|---|
//! | put | `ID/object` | begins the upload; the bytes are the object's length (8, big-endian) and its key |
//! | put | `ID/NNNNN.OFFSET` | a part: number from 1 with five digits, where it begins in the object |
//! | put | `ID/done` | no bytes: makes the object from its parts, replacing as the request says |
//! | list | `ID/` | `object` and the parts that are there durably |
//! | list | | the uploads of the device that asks, as `ID/object` |
//! | get | `ID/object` | what was put there |
//! | delete | `ID/object` | gives the upload up |

use super::{NAME, PeerProvider, unexpected};
use crate::storage::{
    Multipart, ObjectKey, Part, PartRules, Pending, Put, PutMode, StorageError, StorageErrorKind, StorageProvider,
    Upload,
};
use bytes::Bytes;
use larder_protocol::vault::OBJECT_BYTES_MAX;

/// What the keys of uploads begin with.
pub(crate) const UPLOADS: &str = ".larder/uploads/";
/// A part that is not the last is a multiple of this, and so is where each begins.
pub(crate) const PART_STEP: u64 = 1 << 20;
/// Most parts of an object.
pub(crate) const PARTS_MAX: u32 = 10_000;
/// Hex digits of an upload's id.
const ID_DIGITS: usize = 32;

/// What of an upload is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// Itself: which object it will be.
    Object,
    /// One of its parts.
    Part {
        /// From 1.
        number: u32,
        /// Where it begins in the object.
        offset: u64,
    },
    /// Its end.
    Done,
}

/// Whether that is the id of an upload.
pub(crate) fn is_id(id: &str) -> bool {
    id.len() == ID_DIGITS && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The key by which a vault is asked about an upload.
pub(crate) fn key(id: &str, what: What) -> String {
    match what {
        What::Object => format!("{UPLOADS}{id}/object"),
        What::Part { number, offset } => format!("{UPLOADS}{id}/{number:05}.{offset}"),
        What::Done => format!("{UPLOADS}{id}/done"),
    }
}

/// What a key means; `None` when it is not of the form of [`key`].
///
/// Exactly one text means one thing: what is read is written again and compared.
pub(crate) fn parse(text: &str) -> Option<(&str, What)> {
    let (id, what) = text.strip_prefix(UPLOADS)?.split_once('/')?;
    let meant = match what {
        "object" => What::Object,
        "done" => What::Done,
        part => {
            let (number, offset) = part.split_once('.')?;
            What::Part { number: number.parse().ok()?, offset: offset.parse().ok()? }
        }
    };
    (is_id(id) && key(id, meant) == text).then_some((id, meant))
}

/// What an upload begins with: the length of its object and its key.
pub(crate) fn describe(object: &ObjectKey, size: u64) -> Vec<u8> {
    [&size.to_be_bytes()[..], object.as_str().as_bytes()].concat()
}

/// The length and the key in what an upload begins with.
pub(crate) fn described(bytes: &[u8]) -> Option<(ObjectKey, u64)> {
    let (size, object) = bytes.split_first_chunk()?;
    Some((ObjectKey::new(std::str::from_utf8(object).ok()?)?, u64::from_be_bytes(*size)))
}

impl PeerProvider {
    async fn begin_upload(&self, object: &ObjectKey, size: u64) -> Result<Upload, StorageError> {
        let id: String = crate::keys::random::<16>().iter().map(|byte| format!("{byte:02x}")).collect();
        self.send(&key(&id, What::Object), describe(object, size).into(), false).await?;
        Ok(Upload { key: object.clone(), size, id })
    }

    /// The keys beneath a prefix of uploads, with their lengths.
    async fn of_uploads(&self, prefix: &str) -> Result<Vec<(String, u64)>, StorageError> {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = self.page(prefix, after.as_ref(), super::LISTED_MAX).await?;
            found.extend(page.objects.into_iter().map(|listed| (listed.key.as_str().to_owned(), listed.size)));
            match page.next {
                Some(next) if after.as_ref() < Some(&next) => after = Some(next),
                Some(_) => return Err(unexpected()),
                None => return Ok(found),
            }
        }
    }

    async fn parts_of(&self, upload: &Upload) -> Result<Vec<Part>, StorageError> {
        let found = self.of_uploads(&format!("{UPLOADS}{}/", upload.id)).await?;
        if found.is_empty() {
            return Err(StorageError::new(NAME, StorageErrorKind::NotFound, "no such upload"));
        }
        let mut parts: Vec<Part> = found
            .iter()
            .filter_map(|(text, size)| match parse(text) {
                Some((id, What::Part { number, offset })) if id == upload.id => {
                    Some(Part { number, size: *size, tag: offset.to_string() })
                }
                _ => None,
            })
            .collect();
        parts.sort();
        Ok(parts)
    }

    async fn own_uploads(&self, prefix: &str) -> Result<Vec<Upload>, StorageError> {
        let mut uploads = Vec::new();
        for (text, _) in self.of_uploads(UPLOADS).await? {
            let Some((id, What::Object)) = parse(&text) else { continue };
            let key = ObjectKey::new(text.as_str()).ok_or_else(unexpected)?;
            let bytes = match self.get_range(&key, None).await {
                // It has ended meanwhile.
                Err(error) if error.kind == StorageErrorKind::NotFound => continue,
                bytes => bytes?,
            };
            let (key, size) = described(&bytes).ok_or_else(unexpected)?;
            if key.as_str().starts_with(prefix) {
                uploads.push(Upload { key, size, id: id.to_owned() });
            }
        }
        Ok(uploads)
    }
}

impl Multipart for PeerProvider {
    fn rules(&self) -> PartRules {
        PartRules {
            bytes_min: 1,
            bytes_max: OBJECT_BYTES_MAX,
            bytes_step: PART_STEP,
            parts_max: PARTS_MAX,
            in_order: false,
            lists_unfinished: true,
        }
    }

    fn begin<'a>(&'a self, key: &'a ObjectKey, size: u64, _: PutMode) -> Pending<'a, Upload> {
        Box::pin(self.begin_upload(key, size))
    }

    fn put_part<'a>(&'a self, upload: &'a Upload, number: u32, offset: u64, bytes: Bytes) -> Pending<'a, Part> {
        Box::pin(async move {
            let size = bytes.len() as u64;
            self.send(&key(&upload.id, What::Part { number, offset }), bytes, true).await?;
            Ok(Part { number, size, tag: offset.to_string() })
        })
    }

    fn parts<'a>(&'a self, upload: &'a Upload) -> Pending<'a, Vec<Part>> {
        Box::pin(self.parts_of(upload))
    }

    fn complete<'a>(&'a self, upload: &'a Upload, _: &'a [Part], mode: PutMode) -> Pending<'a, Put> {
        // The vault knows its parts, and whether they make the object up.
        Box::pin(async move { self.send(&key(&upload.id, What::Done), Bytes::new(), mode == PutMode::Replace).await })
    }

    fn abort<'a>(&'a self, upload: &'a Upload) -> Pending<'a, ()> {
        Box::pin(async move {
            let key = ObjectKey::new(key(&upload.id, What::Object)).ok_or_else(unexpected)?;
            self.delete(&key).await
        })
    }

    fn unfinished<'a>(&'a self, prefix: &'a str) -> Pending<'a, Vec<Upload>> {
        Box::pin(self.own_uploads(prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_means_one_thing_and_one_key_means_it() {
        let id = "0123456789abcdef0123456789abcdef";
        for what in [What::Object, What::Done, What::Part { number: 7, offset: 3 << 20 }] {
            assert_eq!(parse(&key(id, what)), Some((id, what)));
        }
        for text in [
            "0123/object",
            &format!("{id}/other"),
            &format!("{id}/1.0"),
            &format!("{id}/00001.00"),
            &format!("{id}/00001.+0"),
            &format!("{}/object", id.to_uppercase()),
            &format!("{id}/object/x"),
            "../x/done",
        ] {
            assert_eq!(parse(&format!("{UPLOADS}{text}")), None, "{text}");
        }
        let object = ObjectKey::new("objects/a").unwrap();
        assert_eq!(described(&describe(&object, 99)), Some((object, 99)));
        assert_eq!(described(b"short"), None);
        assert_eq!(described(b"\0\0\0\0\0\0\0\x01../x/."), None);
    }
}
