//! Measures what the provider trait and the registry cost (target P18), and prints a table.
//!
//! `cargo bench -p larder-node --bench storage -- [ROUNDS]` (default 40). Look-ups: 10⁶ among 100 providers. `fs`: whole
//! objects of 4 MiB and of 64 KiB put and read through `dyn StorageProvider`, in turns with the same system calls made
//! directly: temp file, write, fsync, rename, fsync of the folder; open and read.

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
    for size in SIZES {
        let bytes = Bytes::from(vec![7; size]);
        let [mut put, mut direct_puts, mut get, mut direct_gets] = [const { Vec::<Duration>::new() }; 4];
        for round in 0..rounds + WARM_UP {
            let key = ObjectKey::new(format!("through/{round}")).expect("a key");
            let timed = |times: &mut Vec<Duration>, work: &mut dyn FnMut()| {
                let start = Instant::now();
                work();
                if round >= WARM_UP {
                    times.push(start.elapsed());
                }
            };
            timed(&mut put, &mut || {
                let put = runtime.block_on(storage.put(&key, bytes.clone(), PutMode::Replace));
                black_box(put.expect("it is put"));
            });
            timed(&mut direct_puts, &mut || direct_put(dir.path(), round, &bytes).expect("it is written"));
            timed(&mut get, &mut || {
                black_box(runtime.block_on(storage.get_range(&key, None)).expect("it is read"));
            });
            timed(&mut direct_gets, &mut || drop(black_box(direct_get(dir.path(), round).expect("it is read"))));
        }
        for (what, mut through, mut direct) in [("put", put, direct_puts), ("get", get, direct_gets)] {
            let (through, direct) = (percentile(&mut through, 50), percentile(&mut direct, 50));
            let ratio = through.as_secs_f64() / direct.as_secs_f64();
            println!(
                "fs {what} of {:>4} KiB: through {through:>10.1?}  direct {direct:>10.1?}  ratio {ratio:.3}",
                size >> 10
            );
        }
    }
}
