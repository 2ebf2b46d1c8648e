//! What the benchmarks share: files with names and sizes as in real trees, from a fixed seed, and figures of this process.

use larder_node::{
    CATALOG_CACHE_MIB,
    catalog::{Identity, LogKeys, Options},
};
use larder_protocol::{
    bounded::List,
    id::{ContentId, EpochId, GroupId, LocationId},
    path::RelPath,
    record::{Location, Name, Record, Storage},
    time::Timestamp,
};
use std::{fs, path::Path, time::SystemTime};

/// Records that are said in one call.
pub const RECORDS_PER_CALL: u64 = 10_000;
/// The group of all devices here.
pub const GROUP: GroupId = GroupId::new([1; 32]);
/// Where all files are.
pub const LOCATION: LocationId = LocationId::new([9; 16]);
const FILES_PER_FOLDER: u64 = 50;
const WORDS: [&str; 24] = [
    "holiday", "beach", "invoice", "report", "family", "concert", "garden", "draft", "scan", "letter", "budget",
    "music", "lecture", "portrait", "winter", "summer", "kitchen", "client", "meeting", "backup", "archive", "travel",
    "birthday", "contract",
];

/// How a node opens its catalog, unless it is told otherwise.
pub fn options() -> Options {
    Options { cache_bytes: CATALOG_CACHE_MIB << 20, ..Options::at(now()) }
}

/// A number that looks random, the same for the same value.
pub fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A word of the names.
pub fn word(seed: u64) -> &'static str {
    WORDS[(mix(seed) % WORDS.len() as u64) as usize]
}

/// Path of a file: about 44 bytes, as in real trees.
pub fn path(file: u64) -> RelPath {
    let folder = file / FILES_PER_FOLDER;
    let text = format!(
        "{}/{} {}/{}-{}_{:05}.{}",
        word(folder / 40),
        2000 + mix(folder) % 26,
        word(folder ^ 0x55),
        word(file ^ 0xaa),
        word(file ^ 0xbb),
        file % 100_000,
        ["jpg", "pdf", "raw", "mp4"][(mix(file) % 4) as usize]
    );
    RelPath::new(text).expect("a plain relative path")
}

/// What is in a file.
pub fn content(file: u64) -> ContentId {
    ContentId::new(*blake3::hash(&file.to_le_bytes()).as_bytes())
}

/// The statement that announces the location.
pub fn location() -> Record {
    let name = Name::new("bench").expect("short");
    Location {
        id: LOCATION,
        name: name.clone(),
        mount_epoch: 0,
        storage: Storage::Local,
        profile: name,
        purposes: List::default(),
        read_only: false,
        trust_store: false,
        settings: List::default(),
        removed: false,
    }
    .into()
}

/// A device of the group.
pub fn identity(device: u8) -> Identity {
    Identity {
        group: GROUP,
        signing: ed25519_dalek::SigningKey::from_bytes(&[device; 32]),
        log_keys: LogKeys::single(EpochId::new([2; 16]), [3; 32]),
    }
}

/// The wall clock.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// Bytes that the file system has given to a file or folder: redb reserves length ahead, as holes.
pub fn disk_bytes(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else {
        return fs::metadata(path).map_or(0, |data| std::os::unix::fs::MetadataExt::blocks(&data) * 512);
    };
    entries.flatten().map(|entry| disk_bytes(&entry.path())).sum()
}

/// Memory of this process, in millions of bytes.
pub fn rss_mb() -> f64 {
    let pages = fs::read_to_string("/proc/self/statm").ok();
    let pages: f64 = pages.and_then(|text| text.split(' ').nth(1)?.parse().ok()).unwrap_or(f64::NAN);
    pages * 4096.0 / 1e6
}

/// Prints a row of the table.
pub fn row(what: &str, value: String) {
    println!("| {what:<52} | {value:>34} |");
}

/// Prints the head of a table.
pub fn head(title: &str) {
    println!("| {title:<52} | {:>34} |", "");
    println!("|{:-<54}|{:->36}|", "", "");
}
