//! Uploads in parts, as files beside the temp files; they outlive the process.
//!
//! An upload is a folder: `upload` (what it is, JSON), `data` (the object as far as it came) and, for each part, an empty
//! file `NUMBER.OFFSET.LENGTH` that is made after the part's bytes are on the disk.

use super::{FsProvider, files::Files};
use crate::storage::{Multipart, ObjectKey, Part, PartRules, Pending, Put, PutMode, Upload};
use bytes::Bytes;
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::PathBuf,
};

struct Have {
    number: u32,
    offset: u64,
    size: u64,
}

impl Have {
    fn parse(name: &str) -> Option<Self> {
        let mut numbers = name.split('.');
        let have = Self {
            number: numbers.next()?.parse().ok()?,
            offset: numbers.next()?.parse().ok()?,
            size: numbers.next()?.parse().ok()?,
        };
        numbers.next().is_none().then_some(have)
    }

    fn name(&self) -> String {
        format!("{}.{}.{}", self.number, self.offset, self.size)
    }

    fn part(&self) -> Part {
        Part { number: self.number, size: self.size, tag: self.offset.to_string() }
    }
}

impl Files {
    fn upload(&self, upload: &Upload) -> io::Result<PathBuf> {
        let plain = !upload.id.is_empty() && upload.id.bytes().all(|byte| byte.is_ascii_hexdigit());
        let folder = self.uploads.join(&upload.id);
        if plain && folder.is_dir() { Ok(folder) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    fn have(&self, upload: &Upload) -> io::Result<Vec<Have>> {
        let entries = fs::read_dir(self.upload(upload)?)?;
        let mut have: Vec<Have> =
            entries.flatten().filter_map(|entry| Have::parse(entry.file_name().to_str()?)).collect();
        have.sort_by_key(|have| have.number);
        Ok(have)
    }

    fn begin(&self, key: &ObjectKey, size: u64) -> io::Result<Upload> {
        self.writable()?;
        let id: String = crate::keys::random::<16>().iter().map(|byte| format!("{byte:02x}")).collect();
        let upload = Upload { key: key.clone(), size, id };
        let (folder, ready) = (self.uploads.join(format!("{}.new", upload.id)), self.uploads.join(&upload.id));
        fs::create_dir(&folder)?;
        File::create(folder.join("data"))?;
        fs::write(folder.join("upload"), serde_json::to_vec(&upload)?)?;
        fs::rename(folder, ready)?;
        Ok(upload)
    }

    fn put_part(&self, upload: &Upload, have: &Have, bytes: &[u8]) -> io::Result<Part> {
        self.writable()?;
        let folder = self.upload(upload)?;
        for old in self.have(upload)?.iter().filter(|old| old.number == have.number) {
            fs::remove_file(folder.join(old.name()))?;
        }
        let data = OpenOptions::new().write(true).open(folder.join("data"))?;
        data.write_all_at(bytes, have.offset)?;
        self.sync(&data)?;
        File::create(folder.join(have.name()))?;
        Ok(have.part())
    }

    fn complete(&self, upload: &Upload, parts: &[Part], mode: PutMode) -> io::Result<Put> {
        self.writable()?;
        let folder = self.upload(upload)?;
        let have = self.have(upload)?;
        let end = have.iter().try_fold(0, |at, have| (have.offset == at).then_some(at + have.size));
        if !have.iter().map(Have::part).eq(parts.iter().cloned()) || end != Some(upload.size) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the parts do not make the object up"));
        }
        let data = File::open(folder.join("data"))?;
        if data.metadata()?.len() != upload.size {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the upload is longer than its object"));
        }
        self.sync(&data)?;
        let put = self.place(&folder.join("data"), &upload.key, mode)?;
        fs::remove_dir_all(folder)?;
        Ok(put)
    }

    fn unfinished(&self, prefix: &str) -> io::Result<Vec<Upload>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.uploads)? {
            let folder = entry?.path();
            let upload = fs::read(folder.join("upload")).ok();
            let upload = upload.and_then(|bytes| serde_json::from_slice::<Upload>(&bytes).ok());
            // Without it, it is just beginning or just ending.
            found.extend(upload.filter(|upload| upload.key.as_str().starts_with(prefix)));
        }
        found.sort();
        Ok(found)
    }
}

impl Multipart for FsProvider {
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
        let key = key.clone();
        self.run(move |files| files.begin(&key, size))
    }

    fn put_part<'a>(&'a self, upload: &'a Upload, number: u32, offset: u64, bytes: Bytes) -> Pending<'a, Part> {
        let upload = upload.clone();
        let have = Have { number, offset, size: bytes.len() as u64 };
        self.run(move |files| files.put_part(&upload, &have, &bytes))
    }

    fn parts<'a>(&'a self, upload: &'a Upload) -> Pending<'a, Vec<Part>> {
        let upload = upload.clone();
        self.run(move |files| Ok(files.have(&upload)?.iter().map(Have::part).collect()))
    }

    fn complete<'a>(&'a self, upload: &'a Upload, parts: &'a [Part], mode: PutMode) -> Pending<'a, Put> {
        let (upload, parts) = (upload.clone(), parts.to_vec());
        self.run(move |files| files.complete(&upload, &parts, mode))
    }

    fn abort<'a>(&'a self, upload: &'a Upload) -> Pending<'a, ()> {
        let upload = upload.clone();
        self.run(move |files| match files.upload(&upload).and_then(fs::remove_dir_all) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        })
    }

    fn unfinished<'a>(&'a self, prefix: &'a str) -> Pending<'a, Vec<Upload>> {
        let prefix = prefix.to_owned();
        self.run(move |files| files.unfinished(&prefix))
    }
}
