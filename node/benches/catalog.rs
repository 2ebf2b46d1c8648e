//! Measures catalog and search inside the node at the size of targets P2, P9, P11 and P12, and prints a table.
//!
//! `cargo bench -p larder-node --bench catalog -- [FILES]` (default 1,000,000). Inputs come from a fixed seed.

mod common;

use common::{
    LOCATION, RECORDS_PER_CALL, content, disk_bytes, head, identity, location, mix, now, options, path, row, rss_mb,
    word,
};
use larder_node::{
    catalog::{Catalog, LocalWrite, ScanState},
    search::{CACHE_BYTES, Query, Search},
};
use larder_protocol::{
    record::{Entry, EntryValue, File, Record},
    time::Timestamp,
};
use std::{
    hint::black_box,
    time::{Duration, Instant},
};

const LOOKUPS: u64 = 20_000;
const LIMIT: usize = 50;
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
    let open = || Catalog::open(dir.path(), identity(7), options()).expect("the catalog opens").0;
    let catalog = open();
    catalog.append(vec![location()], Vec::new(), now()).expect("appends");

    head(&format!("catalog of {files} files"));
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
            records.push(Record::from(Entry { location: LOCATION, mount_epoch: 0, path: path(file), value }));
            let state = ScanState { size, modified_ns: modified.0, inode: file, content: content(file) };
            local.push(LocalWrite::Scan { location: LOCATION, path: path(file), state: Some(state) });
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
        let entry = Entry { location: LOCATION, mount_epoch: 0, path: path(files + round), value };
        catalog.append(vec![entry.into()], Vec::new(), now()).map_or(0, |_| 1)
    });
    row("resident after append", format!("{:.0} MB", rss_mb()));

    let index = tempfile::tempdir().expect("a temp folder");
    let search = Search::open(index.path(), catalog.clone(), CACHE_BYTES).expect("the index opens");
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
    let compacted = Catalog::compact(dir.path(), &options()).expect("the catalog is closed");
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
    let search = Search::open(index.path(), catalog.clone(), CACHE_BYTES).expect("the index opens");
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
        usize::from(read().entry(&LOCATION, &path(mix(round) % files)).is_ok_and(|entry| entry.is_some()))
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
    let _ = read().for_each_file(&LOCATION, None, &mut |_| {
        listed += 1;
        std::ops::ControlFlow::Continue(())
    });
    row("list all files with scan states", format!("{:.0} /s", f64::from(listed) / start.elapsed().as_secs_f64()));
    row("resident at the end", format!("{:.0} MB", rss_mb()));
}
