//! Providers through the suite, and contents through the pipeline.

mod gateways;
mod layers;
mod model;
mod recovery;
mod registry;
mod turns;
mod uploads;
mod whole;
mod withdrawal;

use super::{fs::FsProvider, memory::MemoryProvider, *};
use larder_protocol::{
    id::{ChunkId, ContentId, EpochId, LocationId},
    path::RelPath,
    seal::{EpochSecret, KeyRing, Manifest, SnapshotEntry},
    time::Timestamp,
};
use std::{fs::File, io::Write, ops::Range, os::unix::fs::FileExt, path::Path, sync::Arc};

/// Runs the whole suite; what a storage does not declare is skipped.
pub(super) async fn conforms(provider: &dyn StorageProvider) {
    let report = conformance::run(provider, None).await;
    assert!(report.is_clean(), "{}: {report}", provider.name());
}

#[tokio::test]
async fn memory_conforms() {
    conforms(&MemoryProvider::default()).await;
}

#[tokio::test]
async fn fs_conforms() {
    let dir = tempfile::tempdir().unwrap();
    conforms(&FsProvider::open(dir.path().to_owned()).unwrap()).await;
}

#[cfg(feature = "clouds")]
#[tokio::test(flavor = "multi_thread")]
async fn sqlite_conforms_and_keeps_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("objects.db");
    let provider = sqlite::SqliteProvider::open(&file).unwrap();
    conforms(&provider).await;
    let key = ObjectKey::new("kept").unwrap();
    provider.put(&key, "x".into(), PutMode::IfAbsent).await.unwrap();
    drop(provider);
    let again = sqlite::SqliteProvider::open(&file).unwrap();
    assert_eq!(again.get_range(&key, None).await.unwrap(), "x");
    let other = dir.path().join("other.db");
    rusqlite::Connection::open(&other).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    assert_eq!(sqlite::SqliteProvider::open(&other).err().unwrap().kind, StorageErrorKind::Invalid);
    std::fs::write(&other, vec![7; 10_000]).unwrap();
    let damaged = sqlite::SqliteProvider::open(&other).err().unwrap();
    assert_eq!((damaged.kind, damaged.retry), (StorageErrorKind::Damaged, Retry::No));
}

/// SQLite goes on writing into a file that nobody will find again: that must not be called stored.
#[cfg(feature = "clouds")]
#[tokio::test(flavor = "multi_thread")]
async fn a_sqlite_file_that_was_moved_away_takes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (file, away) = (dir.path().join("objects.db"), dir.path().join("away.db"));
    let provider = sqlite::SqliteProvider::open(&file).unwrap();
    let keys = ["before", "while", "after"].map(|key| ObjectKey::new(key).unwrap());
    let put = |key| provider.put(key, "x".into(), PutMode::IfAbsent);
    put(&keys[0]).await.unwrap();
    std::fs::rename(&file, &away).unwrap();
    let error = put(&keys[1]).await.unwrap_err();
    assert_eq!((error.kind, error.may_retry()), (StorageErrorKind::Unavailable, true));
    assert!(provider.get_range(&keys[0], None).await.is_err() && provider.test().await.is_err());
    // Opening it does not put an empty file beside the log of the one that is away.
    assert!(sqlite::SqliteProvider::open(&file).is_err() && !file.exists());
    std::fs::copy(&away, &file).unwrap();
    assert_eq!(put(&keys[1]).await.unwrap_err().kind, StorageErrorKind::Unavailable, "another file");
    assert!(sqlite::SqliteProvider::open(&file).is_err(), "not while the log is the other one's");
    std::fs::rename(&away, &file).unwrap();
    put(&keys[2]).await.unwrap();
    drop(provider);
    let again = sqlite::SqliteProvider::open(&file).unwrap();
    let kept: Vec<_> = list_all(&again, "").await.unwrap().into_iter().map(|listed| listed.key).collect();
    assert_eq!(kept, [keys[2].clone(), keys[0].clone()], "what was refused is not there");
}

#[tokio::test]
async fn an_unplugged_folder_is_not_an_empty_one() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("drive");
    std::fs::create_dir(&root).unwrap();
    let provider = FsProvider::open(root.clone()).unwrap();
    let key = ObjectKey::new("a/b").unwrap();
    provider.put(&key, "x".into(), PutMode::IfAbsent).await.unwrap();
    std::fs::rename(&root, dir.path().join("elsewhere")).unwrap();
    let gone = |error: StorageError| assert_eq!((error.kind, error.may_retry()), (StorageErrorKind::Unavailable, true));
    gone(provider.stat(&key).await.unwrap_err());
    gone(provider.get_range(&key, None).await.unwrap_err());
    gone(provider.list("", None, 9).await.unwrap_err());
    gone(provider.put(&key, "x".into(), PutMode::Replace).await.unwrap_err());
    gone(provider.delete(&key).await.unwrap_err());
    assert!(!root.exists(), "nothing is written where the drive was");
}

#[tokio::test]
async fn two_openings_of_a_folder_take_nothing_from_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let open = || FsProvider::open(dir.path().to_owned()).unwrap();
    let (first, bytes) = (open(), bytes::Bytes::from(noise(2_000_000)));
    for round in 0..10 {
        let key = ObjectKey::new(format!("k{round}")).unwrap();
        let (put, ()) = futures::join!(first.put(&key, bytes.clone(), PutMode::IfAbsent), async {
            tokio::task::spawn_blocking({
                let root = dir.path().to_owned();
                move || (0..20).for_each(|_| drop(FsProvider::open(root.clone()).unwrap()))
            })
            .await
            .unwrap();
        });
        assert_eq!(put.unwrap(), Put::New);
    }
}

#[tokio::test]
async fn fs_removes_what_a_crash_left_and_a_half_object_never_shows() {
    let dir = tempfile::tempdir().unwrap();
    drop(FsProvider::open(dir.path().to_owned()).unwrap());
    std::fs::write(dir.path().join(".larder/tmp/objects/5"), b"half").unwrap();
    let provider = FsProvider::open(dir.path().to_owned()).unwrap();
    assert!(list_all(&provider, "").await.unwrap().is_empty());
    assert!(!dir.path().join(".larder/tmp/objects/5").exists());
    let gone = FsProvider::open(dir.path().join("unplugged")).unwrap_err();
    assert!(gone.may_retry());
}

struct FromDisk<'a>(&'a FsProvider);

impl ChunkSource for FromDisk<'_> {
    fn read(&self, id: &ChunkId, range: Range<u64>) -> Result<Vec<u8>, OpenError> {
        let path = self.0.local_path(&object_key(id)).unwrap();
        let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap()];
        File::open(path)?.read_exact_at(&mut bytes, range.start)?;
        Ok(bytes)
    }
}

pub(super) fn sealing() -> Sealing {
    let ring = KeyRing::new(EpochId::new([1; 16]), EpochSecret::new([2; 32]));
    Sealing { ring: Arc::new(ring), signing: ed25519_dalek::SigningKey::from_bytes(&[3; 32]) }
}

fn content(bytes: &[u8]) -> (Arc<File>, ContentId) {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    (Arc::new(file), ContentId::new(*blake3::hash(bytes).as_bytes()))
}

fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new_derive_key("storage test").finalize_xof().fill(&mut bytes);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn every_combination_goes_through_one_pipeline_and_comes_back() {
    let plain_max = larder_protocol::seal::ChunkSize::default().plain();
    for (encrypted, chunked) in [(false, false), (false, true), (true, false), (true, true)] {
        for size in [0, 1, 100_000, plain_max - 1, plain_max, plain_max + 1, 10 * plain_max + 17] {
            let dir = tempfile::tempdir().unwrap();
            let provider = FsProvider::open(dir.path().to_owned()).unwrap();
            let (bytes, spec) = (noise(size), ProfileSpec { encrypted, chunked });
            let (file, id) = content(&bytes);
            let keys = sealing();
            let put = || put_content(&provider, spec, &keys, None, file.clone(), id, size as u64, &|_| {});
            let stored = put().await.unwrap();
            let object = std::fs::read(provider.local_path(&object_key(&stored.manifest)).unwrap()).unwrap();
            let ring = sealing().ring;
            let (manifest, _) = Manifest::open(&object, |epoch| ring.get(epoch).cloned()).unwrap();
            assert_eq!(
                (manifest.content, manifest.size, manifest.chunks.len() > 1),
                (id, size as u64, chunked && size > plain_max && encrypted || chunked && size > 4 << 20)
            );
            let out = tempfile::tempfile().unwrap();
            open_content(&manifest, &FromDisk(&provider), &ring, &out, &|_| {}).unwrap();
            let mut back = vec![0; size];
            out.read_exact_at(&mut back, 0).unwrap();
            assert!(back == bytes, "{spec:?} {size}");
            for range in [0..size.min(1), size / 3..size / 2, size.saturating_sub(70_000)..size] {
                let got =
                    open_range(&manifest, &FromDisk(&provider), &ring, range.start as u64..range.end as u64).unwrap();
                assert!(got == bytes[range.clone()], "{spec:?} {range:?} of {size}");
            }
            let again = put().await.unwrap();
            assert!(again.new_bytes < 8192 + size as u64 / 1000, "chunks that are there are not stored again");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_a_lost_chunk_and_another_file_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let provider = FsProvider::open(dir.path().to_owned()).unwrap();
    let bytes = noise(9_000_000);
    let (file, id) = content(&bytes);
    let wrong = put_content(
        &provider,
        ProfileSpec::SEALED,
        &sealing(),
        None,
        file.clone(),
        ContentId::new([9; 32]),
        9_000_000,
        &|_| {},
    )
    .await;
    assert!(matches!(wrong, Err(OpenError::OtherContent)));
    let stored =
        put_content(&provider, ProfileSpec::SEALED, &sealing(), None, file, id, 9_000_000, &|_| {}).await.unwrap();
    let object = std::fs::read(provider.local_path(&object_key(&stored.manifest)).unwrap()).unwrap();
    let ring = sealing().ring;
    let (manifest, _) = Manifest::open(&object, |epoch| ring.get(epoch).cloned()).unwrap();
    let victim = manifest.chunks[1].chunk;
    let path = provider.local_path(&object_key(&victim)).unwrap();
    let whole = std::fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    flipped[1_000_000] ^= 1;
    std::fs::write(&path, &flipped).unwrap();
    let open = || open_content(&manifest, &FromDisk(&provider), &ring, &tempfile::tempfile().unwrap(), &|_| {});
    assert!(matches!(open(), Err(OpenError::Damaged(id)) if id == victim));
    let offset = manifest.chunks[1].offset;
    assert!(open_range(&manifest, &FromDisk(&provider), &ring, offset + 999_000..offset + 1_000_100).is_err());
    std::fs::remove_file(&path).unwrap();
    assert!(open().is_err());
    std::fs::write(&path, &whole).unwrap();
    open().unwrap();
}

fn shows(folder: &Path, needle: &[u8]) -> bool {
    walk(folder).iter().any(|path| {
        let bytes = std::fs::read(path).unwrap();
        let name = path.to_str().unwrap().as_bytes();
        [bytes.as_slice(), name].iter().any(|hay| hay.windows(needle.len()).any(|window| window == needle))
    })
}

pub(super) fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_location_shows_no_name_no_plain_hash_and_no_plain_byte() {
    let dir = tempfile::tempdir().unwrap();
    let provider = FsProvider::open(dir.path().to_owned()).unwrap();
    let bytes = noise(300_000);
    let (file, id) = content(&bytes);
    let stored =
        put_content(&provider, ProfileSpec::SEALED, &sealing(), None, file, id, 300_000, &|_| {}).await.unwrap();
    let entry = SnapshotEntry {
        path: RelPath::new("holiday/beach.jpg").unwrap(),
        content: id,
        size: 300_000,
        modified: Timestamp(1),
        manifest: stored.manifest,
    };
    let location = LocationId::new([4; 16]);
    write_snapshot(&provider, &sealing(), location, vec![entry.clone()]).await.unwrap();
    let before = walk(dir.path()).len();
    let renamed = SnapshotEntry { path: RelPath::new("holiday/sea.jpg").unwrap(), ..entry };
    write_snapshot(&provider, &sealing(), location, vec![renamed]).await.unwrap();
    assert!(walk(dir.path()).len() <= before + 1, "a new name costs a page and no chunk");
    for needle in [b"beach.jpg".as_slice(), b"holiday", id.to_string().as_bytes(), id.as_bytes(), &bytes[1000..1032]] {
        assert!(!shows(dir.path(), needle));
    }
    assert!(shows(dir.path(), b"LRDC"), "the search finds what is there");
}
