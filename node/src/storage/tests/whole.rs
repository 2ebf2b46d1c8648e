//! Unsplit contents of any length: never in memory as a whole, never of a file that changes.

use super::{FromDisk, sealing};
use crate::storage::{
    FromStorage, OpenError, Pending, ProfileSpec, StorageProvider, Stored,
    fs::FsProvider,
    layers::{Answer, Around, Cache, CacheLimits, Call, Layered},
    list_all, object_key, open_content, open_range, put_content,
    upload::Source,
    whole::Whole,
};
use larder_protocol::{
    id::{ChunkId, ContentId},
    seal::{CHUNKS_MAX, FRAME_BYTES, Manifest},
};
use std::{
    fs::File,
    io::Write,
    ops::Range,
    os::unix::fs::FileExt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

const SEALED: ProfileSpec = ProfileSpec { encrypted: true, chunked: false };
const PLAIN: ProfileSpec = ProfileSpec { encrypted: false, chunked: false };

/// Knows the most bytes that one call sent or asked for.
#[derive(Default)]
struct Measure(Arc<AtomicU64>);

impl Around for Measure {
    fn around<'a, T: Answer + 'a>(
        &'a self,
        call: Call,
        go: impl Fn() -> Pending<'a, T> + Send + Sync + 'a,
    ) -> Pending<'a, T> {
        self.0.fetch_max(call.sends, Ordering::Relaxed);
        Box::pin(async move {
            let answer = go().await?;
            self.0.fetch_max(answer.payload(), Ordering::Relaxed);
            Ok(answer)
        })
    }
}

struct Storage {
    _dir: TempDir,
    disk: FsProvider,
    measured: Arc<dyn StorageProvider>,
    most: Arc<AtomicU64>,
}

impl Storage {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let open = || FsProvider::open(dir.path().to_owned()).unwrap();
        let (disk, measure) = (open(), Measure::default());
        let most = measure.0.clone();
        let measured = Arc::new(Layered::new(Arc::new(open()), measure));
        Self { disk, measured, most, _dir: dir }
    }

    async fn put(&self, spec: ProfileSpec, file: &Arc<File>, id: ContentId, size: u64) -> Result<Stored, OpenError> {
        put_content(&*self.measured, spec, &sealing(), None, file.clone(), id, size, &|_| {}).await
    }

    fn manifest(&self, stored: &Stored) -> Manifest {
        let object = std::fs::read(self.disk.local_path(&object_key(&stored.manifest)).unwrap()).unwrap();
        let ring = sealing().ring;
        Manifest::open(&object, |epoch| ring.get(epoch).cloned()).unwrap().0
    }
}

/// A file that is empty but for some bytes here and there.
fn sparse(size: u64) -> (Arc<File>, ContentId) {
    let file = tempfile::tempfile().unwrap();
    file.set_len(size).unwrap();
    for at in [0, 4 << 20, size / 2, size.saturating_sub(5)].into_iter().filter(|at| at + 5 <= size) {
        file.write_all_at(b"bytes", at).unwrap();
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(&file).unwrap();
    (Arc::new(file), ContentId::new(*hasher.finalize().as_bytes()))
}

fn at(file: &File, range: &Range<u64>) -> Vec<u8> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    file.read_exact_at(&mut bytes, range.start).unwrap();
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn of_any_length_it_comes_back_and_few_bytes_are_in_memory() {
    let (frame, mib) = (FRAME_BYTES as u64, 1 << 20);
    for size in [4 * mib, 4 * mib + 1, 60 * mib - frame, 60 * mib, 60 * mib + frame, 200 * mib] {
        let (file, id) = sparse(size);
        for spec in [SEALED, PLAIN] {
            let storage = Storage::new();
            let stored = storage.put(spec, &file, id, size).await.unwrap();
            let manifest = storage.manifest(&stored);
            assert_eq!(manifest.chunks.len(), 1, "{spec:?} {size}");
            assert!(storage.most.load(Ordering::Relaxed) <= 10 * mib, "{}", storage.most.load(Ordering::Relaxed));
            let out = tempfile::tempfile().unwrap();
            let source = FromStorage::new(storage.measured.clone(), CancellationToken::new());
            let (opening, writing) = (manifest.clone(), out.try_clone().unwrap());
            let opened = tokio::task::spawn_blocking(move || {
                open_content(&opening, &source, &sealing().ring, &writing, &|_| {})
            });
            opened.await.unwrap().unwrap();
            assert_eq!(out.metadata().unwrap().len(), size);
            assert!((0..size).step_by(1 << 22).all(|start| {
                let range = start..(start + (1 << 22)).min(size);
                at(&out, &range) == at(&file, &range)
            }));
            // A chunk of up to 64 MiB is read at once.
            let most = storage.most.load(Ordering::Relaxed);
            assert!(most <= if size > 64 * mib { 10 * mib } else { 64 * mib }, "{spec:?} {size}: {most}");
            for range in [0..10, size / 2 - 40_000..size / 2 + 40_000, size - 70_000..size] {
                let got = open_range(&manifest, &FromDisk(&storage.disk), &sealing().ring, range.clone()).unwrap();
                assert!(got == at(&file, &range), "{spec:?} {range:?} of {size}");
            }
            let again = storage.put(spec, &file, id, size).await.unwrap();
            assert!(again.new_bytes < mib, "it is there: {again:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_bit_of_a_long_chunk_is_noticed() {
    let size = 70 << 20;
    let (file, id) = sparse(size);
    for spec in [SEALED, PLAIN] {
        let storage = Storage::new();
        let manifest = storage.manifest(&storage.put(spec, &file, id, size).await.unwrap());
        let path = storage.disk.local_path(&object_key(&manifest.chunks[0].chunk)).unwrap();
        let object = File::options().read(true).write(true).open(&path).unwrap();
        let mut byte = at(&object, &(50 << 20..(50 << 20) + 1));
        byte[0] ^= 1;
        object.write_all_at(&byte, 50 << 20).unwrap();
        let out = tempfile::tempfile().unwrap();
        assert!(open_content(&manifest, &FromDisk(&storage.disk), &sealing().ring, &out, &|_| {}).is_err());
        let range = (49 << 20)..(51 << 20);
        assert!(open_range(&manifest, &FromDisk(&storage.disk), &sealing().ring, range).is_err());
    }
}

/// Sealed under the key that was derived from other bytes, a block would give both away.
#[test]
fn a_file_that_changes_while_it_is_sent_gives_no_byte_of_the_changed_block() {
    let size = 9 << 20;
    for sealing in [Some(sealing()), None] {
        let (file, id) = sparse(size);
        let (whole, chunk) = Whole::read(file.clone(), id, size, sealing.as_ref()).unwrap();
        let before = whole.read(0..chunk.stored).unwrap();
        assert_eq!(*blake3::hash(&before).as_bytes(), *chunk.chunk.as_bytes());
        file.write_all_at(b"other", 5 << 20).unwrap();
        assert!(!whole.has_changed());
        assert_eq!(whole.read(0..1 << 20).unwrap(), before.slice(0..1 << 20), "this block is the same");
        assert!(whole.read(4 << 20..6 << 20).is_err() && whole.has_changed());
        (&*file).write_all(b"x").unwrap();
        assert!(matches!(Whole::read(file, id, size, sealing.as_ref()), Err(OpenError::OtherContent)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_refused_before_anything_is_sent() {
    let storage = Storage::new();
    let (file, id) = sparse(10);
    let chunk = larder_protocol::seal::ChunkSize::default();
    for (spec, size_max) in [
        (ProfileSpec::SEALED, chunk.plain() as u64 * CHUNKS_MAX as u64),
        (ProfileSpec { encrypted: false, chunked: true }, chunk.stored() as u64 * CHUNKS_MAX as u64),
        (SEALED, larder_protocol::seal::ChunkSize::WHOLE.plain() as u64),
    ] {
        let refused = storage.put(spec, &file, id, size_max + 1).await;
        assert!(matches!(refused, Err(OpenError::TooLarge(max)) if max == size_max), "{refused:?}");
    }
    assert!(list_all(&*storage.measured, "").await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_keeps_long_objects_that_are_read_through_and_checks_them() {
    let size = 20 << 20;
    let (file, id) = sparse(size);
    let storage = Storage::new();
    storage.put(PLAIN, &file, id, size).await.unwrap();
    let (chunk, folder) = (ChunkId::new(*id.as_bytes()), tempfile::tempdir().unwrap());
    let limits = CacheLimits { bytes_max: 64 << 20, object_max: 1 << 20 };
    let open = || Cache::open(storage.measured.clone(), folder.path().to_owned(), limits).unwrap();
    let (cache, key) = (open(), object_key(&chunk));
    assert_eq!(cache.size(&key, &chunk).await.unwrap(), size);
    let range = 5 << 20..6 << 20;
    assert!(cache.long_range(&key, chunk, size, range.clone()).await.unwrap() == at(&file, &range));
    assert_eq!(cache.long_file(chunk, size).await.unwrap(), None, "ranges pass through");
    let all = at(&file, &(0..size));
    // What is given up leaves nothing.
    let mut keep = cache.keep_long(chunk, size).unwrap();
    keep.take(&all[..9 << 20]);
    drop(keep);
    assert_eq!((cache.bytes(), std::fs::read_dir(folder.path()).unwrap().count()), (0, 0));
    let mut keep = cache.keep_long(chunk, size).unwrap();
    all.chunks(3 << 20).for_each(|bytes| keep.take(bytes));
    keep.proven();
    let path = cache.long_file(chunk, size).await.unwrap().unwrap();
    assert!(cache.bytes() == size && std::fs::read(&path).unwrap() == all);
    // Once it is here the storage is not asked.
    let object = storage.disk.local_path(&key).unwrap();
    std::fs::remove_file(&object).unwrap();
    assert_eq!(cache.size(&key, &chunk).await.unwrap(), size);
    assert!(cache.long_range(&key, chunk, size, range.clone()).await.unwrap() == at(&file, &range));
    assert!(cache.get_range(&key, Some(range.clone())).await.unwrap() == at(&file, &range));
    assert!(storage.most.load(Ordering::Relaxed) <= 10 << 20);
    // A new process checks it.
    assert_eq!(open().long_file(chunk, size).await.unwrap().as_ref(), Some(&path));
    File::options().write(true).open(&path).unwrap().write_all_at(b"spoilt", 1 << 20).unwrap();
    assert_eq!(open().long_file(chunk, size).await.unwrap(), None);
    assert!(!path.exists() && open().keep_long(chunk, (64 << 20) + 1).is_none(), "longer than all that may be kept");
    assert!(cache.long_range(&key, chunk, size, range).await.is_err(), "neither here nor there");
}
