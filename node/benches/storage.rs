//! Measures what the provider trait and the registry cost (target P18), and prints a table.
//!
//! `cargo bench -p larder-node --bench storage -- [ROUNDS]` (default 40). Look-ups: 10⁶ among 100 providers. `fs`: whole
//! objects of 4 MiB and of 64 KiB put and read through `dyn StorageProvider`, in turns with the same system calls made
//! directly: temp file, write, fsync, rename, fsync of the folder; open and read. "direct" makes them on the calling thread;
//! "apart" on a thread for blocking work, as everything in a node does that touches files, and is what the trait is
//! compared with.

use bytes::Bytes;
use larder_node::storage::{
    Credential, ObjectKey, ProviderConfig, ProviderFactory, PutMode, Registry, Setting, StorageError, StorageId,
    StorageProvider, fs::FsProvider, memory::MemoryProvider,
};
use std::{
    fs::{self, File, OpenOptions},
    hint::black_box,
    io::{Read, Write},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

const PROVIDERS: usize = 100;
const LOOKUPS: usize = 1_000_000;
const SIZES: [usize; 2] = [64 << 10, 4 << 20];
const WARM_UP: usize = 3;
/// The ways that are compared.
const WAYS: [&str; 3] = ["through", "apart", "direct"];

struct Named(&'static str);

impl ProviderFactory for Named {
    fn name(&self) -> &'static str {
        self.0
    }

    fn settings(&self) -> &'static [Setting] {
        &[]
    }

    fn create(&self, _: &ProviderConfig, _: &Credential) -> Result<Arc<dyn StorageProvider>, StorageError> {
        Ok(Arc::new(MemoryProvider::default()))
    }
}

fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() - 1) * percent / 100]
}

fn lookups() {
    let registry = Registry::of_node();
    let names: Vec<&'static str> = (0..PROVIDERS).map(|number| &*format!("provider-{number:03}").leak()).collect();
    for name in &names {
        registry.register(Arc::new(Named(name))).expect("names are unique");
    }
    let config = ProviderConfig::new();
    let ids: Vec<StorageId> = (0..PROVIDERS)
        .map(|number| StorageId { profile: format!("profile-{number}"), location: format!("location-{number}") })
        .collect();
    let measure = |what: &str, call: &dyn Fn(usize)| {
        let mut times: Vec<Duration> = (0..LOOKUPS)
            .map(|round| {
                let start = Instant::now();
                call(round * 37 % PROVIDERS);
                start.elapsed()
            })
            .collect();
        let (p50, p99) = (percentile(&mut times, 50), percentile(&mut times, 99));
        let max = times.last().copied().unwrap_or_default();
        println!("{what:<44} p50 {p50:>10.1?}  p99 {p99:>10.1?}  max {max:>10.1?}");
    };
    measure("factory by name, of 100", &|at| drop(black_box(registry.factory(names[at]))));
    measure("opened storage by profile and location, of 100", &|at| {
        let opened = registry.open(&ids[at], names[at], &config, &Credential::default());
        drop(black_box(opened.expect("it opens")));
    });
}

fn direct_put(root: &Path, number: usize, bytes: &[u8]) -> std::io::Result<()> {
    let temp = root.join("temp");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).open(&temp)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(temp, root.join("direct").join(number.to_string()))?;
    File::open(root.join("direct"))?.sync_all()
}

fn direct_get(root: &Path, number: usize) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(root.join("direct").join(number.to_string()))?;
    let mut bytes = Vec::with_capacity(usize::try_from(file.metadata()?.len()).unwrap_or_default());
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn main() {
    let rounds = std::env::args().filter_map(|argument| argument.parse().ok()).next_back().unwrap_or(40);
    lookups();
    let dir = tempfile::tempdir().expect("a temporary folder");
    fs::create_dir(dir.path().join("direct")).expect("a folder");
    fs::create_dir(dir.path().join("through")).expect("a folder");
    let storage: Arc<dyn StorageProvider> = Arc::new(FsProvider::open(dir.path().to_owned()).expect("it opens"));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let _context = runtime.enter();
    for size in SIZES {
        let bytes = Bytes::from(vec![7; size]);
        let mut times = [const { [const { Vec::<Duration>::new() }; WAYS.len()] }; 2];
        for round in 0..rounds + WARM_UP {
            let key = ObjectKey::new(format!("through/{round}")).expect("a key");
            let root = || dir.path().to_owned();
            let put = |way: usize| match way {
                0 => {
                    let put = runtime.block_on(storage.put(&key, bytes.clone(), PutMode::Replace));
                    black_box(put.expect("it is put"));
                }
                1 => {
                    let (root, bytes) = (root(), bytes.clone());
                    let work = tokio::task::spawn_blocking(move || direct_put(&root, round, &bytes));
                    runtime.block_on(work).expect("no panic").expect("it is written");
                }
                _ => direct_put(&root(), round, &bytes).expect("it is written"),
            };
            let get = |way: usize| match way {
                0 => drop(black_box(runtime.block_on(storage.get_range(&key, None)).expect("it is read"))),
                1 => {
                    let root = root();
                    let work = tokio::task::spawn_blocking(move || direct_get(&root, round));
                    drop(black_box(runtime.block_on(work).expect("no panic").expect("it is read")));
                }
                _ => drop(black_box(direct_get(&root(), round).expect("it is read"))),
            };
            let work: [&dyn Fn(usize); 2] = [&put, &get];
            for (times, work) in times.iter_mut().zip(work) {
                // Each way comes first, second and last equally often: what one leaves in caches is paid by all.
                for way in (0..WAYS.len()).map(|way| (way + round) % WAYS.len()) {
                    let start = Instant::now();
                    work(way);
                    if round >= WARM_UP {
                        times[way].push(start.elapsed());
                    }
                }
            }
        }
        for (what, mut times) in ["put", "get"].into_iter().zip(times) {
            let [through, apart, direct] = times.each_mut().map(|times| percentile(times, 50));
            let ratio = through.as_secs_f64() / apart.as_secs_f64();
            let kib = size >> 10;
            println!(
                "fs {what} {kib:>4} KiB: through {through:.1?}, apart {apart:.1?}, direct {direct:.1?}; ratio {ratio:.3}"
            );
        }
    }
}
