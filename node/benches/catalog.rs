//! Measures catalog and search inside the node at the size of targets P2, P9, P11 and P12, and prints a table.
//!
//! `cargo bench -p larder-node --bench catalog -- [FILES]` (default 1,000,000). Inputs come from a fixed seed.

use larder_node::{
    catalog::{Catalog, Identity, LocalWrite, LogKeys, Options, ScanState},
    search::{Query, Search},
};
use larder_protocol::{
    bounded::List,
    id::{ContentId, EpochId, GroupId, LocationId},
    path::RelPath,
    record::{Entry, EntryValue, File, Location, Name, Record, Storage},
    time::Timestamp,
};
use std::{
    fs,
    hint::black_box,
    path::Path,
    time::{Duration, Instant, SystemTime},
};

const RECORDS_PER_CALL: u64 = 10_000;
const FILES_PER_FOLDER: u64 = 50;
const LOOKUPS: u64 = 20_000;
const LIMIT: usize = 50;
const WORDS: [&str; 24] = [
    "holiday", "beach", "invoice", "report", "family", "concert", "garden", "draft", "scan", "letter", "budget",
    "music", "lecture", "portrait", "winter", "summer", "kitchen", "client", "meeting", "backup", "archive", "travel",
    "birthday", "contract",
];

fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn word(seed: u64) -> &'static str {
    WORDS[(mix(seed) % WORDS.len() as u64) as usize]
}

/// About 44 bytes, as in real trees.
fn path(file: u64) -> RelPath {
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

fn content(file: u64) -> ContentId {
    ContentId::new(*blake3::hash(&file.to_le_bytes()).as_bytes())
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// Bytes that the file system has given to a file or folder: redb reserves length ahead, as holes.
fn disk_bytes(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else {
        return fs::metadata(path).map_or(0, |data| std::os::unix::fs::MetadataExt::blocks(&data) * 512);
    };
    entries.flatten().map(|entry| disk_bytes(&entry.path())).sum()
}

fn rss_mb() -> f64 {
    let pages = fs::read_to_string("/proc/self/statm").ok();
    let pages: f64 = pages.and_then(|text| text.split(' ').nth(1)?.parse().ok()).unwrap_or(f64::NAN);
    pages * 4096.0 / 1e6
}

fn row(what: &str, value: String) {
    println!("| {what:<52} | {value:>34} |");
}

fn measure(what: &str, rounds: u64, mut ask: impl FnMut(u64) -> usize) {
    let mut times: Vec<Duration> = Vec::new();
    let mut found = 0;
    for round in 0..rounds {
        let start = Instant::now();
        found += black_box(ask(round));
        times.push(start.elapsed());
    }
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    let mean = found as f64 / rounds as f64;
    row(what, format!("p50 {:.0} µs  p99 {:.0} µs  ({mean:.1} hits)", at(0.5), at(0.99)));
}

fn main() {
    let files: u64 = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(1_000_000);
    let dir = tempfile::tempdir().expect("a temp folder");
    let identity = Identity {
        group: GroupId::new([1; 32]),
        signing: ed25519_dalek::SigningKey::from_bytes(&[7; 32]),
        log_keys: LogKeys::single(EpochId::new([2; 16]), [3; 32]),
    };
    let id = LocationId::new([9; 16]);
    let open = || Catalog::open(dir.path(), identity.clone(), Options::at(now())).expect("the catalog opens").0;
    let catalog = open();
    let name = Name::new("bench").expect("short");
    let location = Location {
        id,
        name: name.clone(),
        mount_epoch: 0,
        storage: Storage::Local,
        profile: name,
        purposes: List::default(),
        read_only: false,
        trust_store: false,
        removed: false,
    };
    catalog.append(vec![location.into()], Vec::new(), now()).expect("appends");

    println!("| {:<52} | {:>34} |", format!("catalog of {files} files"), "");
    println!("|{:-<54}|{:->36}|", "", "");
    let start = Instant::now();
    let (mut first, mut slowest) = (None, Duration::ZERO);
    let mut at = 0;
    while at < files {
        let until = files.min(at + RECORDS_PER_CALL);
        let mut records = Vec::new();
        let mut local = Vec::new();
        for file in at..until {
            let size = 1_000 + mix(file) % 5_000_000;
            let modified = Timestamp(1_500_000_000_000_000_000 + (mix(file ^ 1) >> 6) as i64);
            let value = EntryValue::File(File { content: content(file), size, modified, verified: now() });
            records.push(Record::from(Entry { location: id, mount_epoch: 0, path: path(file), value }));
            let state = ScanState { size, modified_ns: modified.0, inode: file, content: content(file) };
            local.push(LocalWrite::Scan { location: id, path: path(file), state: Some(state) });
        }
        let call = Instant::now();
        catalog.append(records, local, now()).expect("appends");
        first.get_or_insert(call.elapsed());
        slowest = slowest.max(call.elapsed());
        at = until;
    }
    let took = start.elapsed();
    row("append, 10,000 entries and scan states a call", format!("{:.0} /s", files as f64 / took.as_secs_f64()));
    row(
        "  first call, slowest call",
        format!("{:.0} ms, {:.0} ms", first.unwrap_or_default().as_secs_f64() * 1e3, slowest.as_secs_f64() * 1e3),
    );
    measure("append of one entry, durable", 300, |round| {
        let value =
            EntryValue::File(File { content: content(files + round), size: 1, modified: now(), verified: now() });
        let entry = Entry { location: id, mount_epoch: 0, path: path(files + round), value };
        catalog.append(vec![entry.into()], Vec::new(), now()).map_or(0, |_| 1)
    });
    row("resident after append", format!("{:.0} MB", rss_mb()));

    let index = tempfile::tempdir().expect("a temp folder");
    let search = Search::open(index.path(), catalog.clone(), 16 << 20).expect("the index opens");
    let start = Instant::now();
    let _ = search.find(&Query { words: "beach", limit: 1, ..Query::default() });
    row("search index made", format!("{:.0} /s", files as f64 / start.elapsed().as_secs_f64()));
    row("resident after indexing", format!("{:.0} MB", rss_mb()));
    drop((search, catalog));

    let (log, rows) = (disk_bytes(&dir.path().join("log")), disk_bytes(&dir.path().join("catalog.redb")));
    row("on disk: log", format!("{:.0} B per file", log as f64 / files as f64));
    row("on disk: database", format!("{:.0} B per file", rows as f64 / files as f64));
    row("on disk: both", format!("{:.0} B per file", (log + rows) as f64 / files as f64));
    let start = Instant::now();
    let compacted = Catalog::compact(dir.path(), &Options::at(now())).expect("the catalog is closed");
    row("compaction", format!("{:.1} s ({compacted})", start.elapsed().as_secs_f64()));
    let rows = disk_bytes(&dir.path().join("catalog.redb"));
    row("on disk: database, compacted", format!("{:.0} B per file", rows as f64 / files as f64));
    row("on disk: both, compacted", format!("{:.0} B per file", (log + rows) as f64 / files as f64));
    row("on disk: search index (cache)", format!("{:.0} B per file", disk_bytes(index.path()) as f64 / files as f64));

    let start = Instant::now();
    let catalog = open();
    row("open, and the first look-up", {
        let found = catalog.read().and_then(|read| read.copies(&content(1))).is_ok_and(|found| found.is_some());
        format!("{:.1} ms (found: {found})", start.elapsed().as_secs_f64() * 1e3)
    });
    let start = Instant::now();
    let search = Search::open(index.path(), catalog.clone(), 16 << 20).expect("the index opens");
    row("open search", format!("{:.1} ms", start.elapsed().as_secs_f64() * 1e3));

    let read = || catalog.read().expect("a snapshot");
    measure("where, random content", LOOKUPS, |round| {
        read().copies(&content(mix(round) % files)).map_or(0, |found| found.map_or(0, |found| found.entries.len()))
    });
    measure("where, unknown content", LOOKUPS, |round| {
        read().copies(&content(files * 2 + round)).map_or(0, |found| found.map_or(0, |found| found.entries.len()))
    });
    measure("resolve a prefix of 8 digits", LOOKUPS, |round| {
        usize::from(read().resolve(&content(mix(round) % files).to_string()[..8]).is_ok())
    });
    measure("entry of a path", LOOKUPS, |round| {
        usize::from(read().entry(&id, &path(mix(round) % files)).is_ok_and(|entry| entry.is_some()))
    });
    let ask =
        |words: &str| search.find(&Query { words, limit: LIMIT, ..Query::default() }).map_or(0, |hits| hits.len());
    measure("find, one exact name", 2_000, |round| {
        let path = path(mix(round) % files);
        ask(path.name())
    });
    measure("find, two words and a year", 2_000, |round| {
        ask(&format!("{} {} {}", word(round), word(round ^ 99), 2000 + round % 26))
    });
    measure("find, one common word", 2_000, |round| ask(word(round)));
    measure("find, a part of a common word", 2_000, |round| ask(&word(round)[1..4]));
    measure("find, two letters", 2_000, |round| ask(&word(round)[..2]));
    measure("find, one letter", 2_000, |round| ask(&word(round)[..1]));
    measure("find, nothing, letters that occur", 2_000, |round| ask(&format!("{}{}", word(round), word(round ^ 7))));
    measure("find, nothing, letters that do not", 2_000, |round| ask(&format!("qx{round}zk")));
    let start = Instant::now();
    let mut listed = 0;
    let _ = read().for_each_file(&id, None, &mut |_| {
        listed += 1;
        std::ops::ControlFlow::Continue(())
    });
    row("list all files with scan states", format!("{:.0} /s", f64::from(listed) / start.elapsed().as_secs_f64()));
    row("resident at the end", format!("{:.0} MB", rss_mb()));
}
