//! `where` and `find` inside the node, and the catalog's size, at 10^6 contents (P9, P12). Prints a Markdown table.
//!
//! `cargo bench -p larder-node --bench catalog [-- FILES]`

use larder_node::{
    catalog::{Catalog, Identity, LogKeys, Options, PermitAll},
    search::Search,
};
use larder_protocol::{
    bounded::Text,
    id::{ContentId, EpochId, GroupId, LocationId},
    path::RelPath,
    record::{Entry, EntryValue, File, Location, Purposes, Record, Storage},
    time::Timestamp,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

const LOCATION: LocationId = LocationId::new([1; 16]);
const NOW: Timestamp = Timestamp(1_700_000_000_000_000_000);
const WORDS: [&str; 12] = [
    "beach", "holiday", "invoice", "grandma", "garden", "report", "concert", "kitchen", "winter", "bicycle", "harbour",
    "lecture",
];

fn content(number: u64) -> ContentId {
    ContentId::new(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

fn path(number: u64) -> String {
    let word = |at: u64| WORDS[(at % 12) as usize];
    let year = 2005 + number % 20;
    format!("{}/{year}/{} {}/IMG_{year}_{number:07}.jpg", word(number / 5000), word(number / 70), number / 200 % 90)
}

/// Makes a query from the round and the number of files.
type Query = fn(u64, u64) -> String;

fn quantile(times: &mut [Duration], per_mille: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() - 1) * per_mille / 1000]
}

fn main() {
    let files: u64 = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(1_000_000);
    let dir = std::env::temp_dir().join(format!("larder-bench-{}", std::process::id()));
    let epoch = EpochId::new([2; 16]);
    let identity = Identity {
        group: GroupId::new([3; 32]),
        signing: ed25519_dalek::SigningKey::from_bytes(&[4; 32]),
        log_keys: LogKeys { current: epoch, keys: [(epoch, [5; 32].into())].into() },
    };
    let open = || Catalog::open(&dir, identity.clone(), Arc::new(PermitAll), &Options::default(), NOW).unwrap();
    let catalog = open();
    let text = |text: &str| Text::new(text).unwrap();
    let location: Record = Location {
        id: LOCATION,
        name: text("bench"),
        mount_epoch: 1,
        storage: Storage::Local,
        profile: text("raw"),
        purposes: Purposes::default(),
        read_only: false,
        trust_store: false,
        removed: false,
    }
    .into();
    catalog.append(vec![location], Vec::new(), NOW).unwrap();
    let start = Instant::now();
    for first in (0..files).step_by(2_000) {
        let entry = |number: u64| {
            let file = File { content: content(number), size: 1_000 + number, modified: NOW, verified: NOW };
            let path = RelPath::new(path(number)).unwrap();
            Entry { location: LOCATION, mount_epoch: 1, path, value: EntryValue::File(file) }.into()
        };
        catalog.append((first..(first + 2_000).min(files)).map(entry).collect(), Vec::new(), NOW).unwrap();
    }
    let appended = start.elapsed();
    let start = Instant::now();
    let search = Search::open(&dir.join("search.redb"), catalog.clone()).unwrap();
    search.catch_up().unwrap();
    let indexed = start.elapsed();

    println!("| {files} contents | p50 | p99 |\n|---|---|---|");
    let mut times: Vec<Duration> = (0..2_000u64)
        .map(|round| {
            let wanted = content(round * 7919 % files);
            let start = Instant::now();
            assert_eq!(catalog.copies(&wanted).unwrap().unwrap().entries.len(), 1);
            start.elapsed()
        })
        .collect();
    println!("| `where` | {:?} | {:?} |", quantile(&mut times, 500), quantile(&mut times, 990));
    let queries: [(&str, Query); 4] = [
        ("`find`, an exact name", |round, files| {
            let number = round * 104_729 % files;
            format!("IMG_{}_{number:07}", 2005 + number % 20)
        }),
        ("`find`, a common word, 20 hits", |round, _| WORDS[(round % 12) as usize].to_owned()),
        ("`find`, two words, 20 hits", |round, _| format!("{} 2{:03}", WORDS[(round % 12) as usize], round % 20 + 5)),
        ("`find`, a word that is not there", |round, _| format!("zqx{round}")),
    ];
    for (name, query) in queries {
        let mut times: Vec<Duration> = (0..300u64)
            .map(|round| {
                let query = query(round, files);
                let mut hits = 0;
                let start = Instant::now();
                search
                    .find(&query, |_| {
                        hits += 1;
                        hits < 20
                    })
                    .unwrap();
                start.elapsed()
            })
            .collect();
        println!("| {name} | {:?} | {:?} |", quantile(&mut times, 500), quantile(&mut times, 990));
    }
    let bytes = |path: &str| std::fs::metadata(dir.join(path)).map_or(0, |meta| meta.len());
    let log: u64 =
        std::fs::read_dir(dir.join("log")).unwrap().flatten().map(|file| file.metadata().unwrap().len()).sum();
    drop(search);
    drop(catalog);
    let start = Instant::now();
    drop(open());
    println!(
        "\nappended at {:.0} files/s; names indexed in {indexed:?}; opened in {:?}",
        files as f64 / appended.as_secs_f64(),
        start.elapsed()
    );
    println!(
        "bytes per file: database {}, log {}, search index {}",
        bytes("catalog.redb") / files,
        log / files,
        bytes("search.redb") / files
    );
    std::fs::remove_dir_all(dir).unwrap();
}
