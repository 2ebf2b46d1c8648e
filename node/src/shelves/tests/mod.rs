//! A vault and those who ask it, joined by channels instead of a network.

mod keeping;
mod lying;
mod parts;
mod scrub;

use super::{Asker, Rights, ServeError, Shelves, Space, serve};
use crate::storage::{
    ObjectKey, Put, PutMode, StorageErrorKind, StorageProvider, conformance, object_key,
    peer::{Frames, PeerLink, PeerProvider},
};
use bytes::Bytes;
use futures::future::BoxFuture;
use larder_protocol::{
    bounded::Text,
    codec,
    id::{ChunkId, DeviceId, ShelfId},
    vault::{OBJECT_BYTES_MAX, PART_BYTES, VaultAnswer, VaultRefusal, VaultRequest},
};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use tempfile::TempDir;
use tokio::sync::mpsc;

const SHELF: ShelfId = ShelfId::new([7; 16]);
const OWNER: DeviceId = DeviceId::new([1; 32]);
const ROOMY: Space = Space { quota: None, reserve: 0 };

/// One end of a stream; a frame waits until the other end takes it.
struct End {
    send: Option<mpsc::Sender<Vec<u8>>>,
    receive: mpsc::Receiver<Vec<u8>>,
}

fn pair() -> (End, End) {
    let ((there, from_there), (here, from_here)) = (mpsc::channel(1), mpsc::channel(1));
    (End { send: Some(there), receive: from_here }, End { send: Some(here), receive: from_there })
}

impl Frames for End {
    fn send<'a>(&'a mut self, frame: &'a [u8]) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            assert!(frame.len() <= PART_BYTES);
            let send = self.send.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
            send.send(frame.to_vec()).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
        })
    }

    fn close(&mut self) -> BoxFuture<'_, io::Result<()>> {
        self.send = None;
        Box::pin(async { Ok(()) })
    }

    fn next(&mut self) -> BoxFuture<'_, io::Result<Option<Vec<u8>>>> {
        Box::pin(async move { Ok(self.receive.recv().await) })
    }
}

/// A vault, as one device reaches it.
struct Vault {
    shelves: Arc<Shelves>,
    device: DeviceId,
    rights: Arc<Mutex<Rights>>,
}

impl PeerLink for Vault {
    fn open(&self, _: DeviceId) -> BoxFuture<'_, io::Result<Box<dyn Frames>>> {
        let (here, mut there) = pair();
        let (shelves, device, rights) = (self.shelves.clone(), self.device, self.rights.clone());
        tokio::spawn(async move {
            let may = || *rights.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = serve(&shelves, &Asker { device, rights: &may, meet: &|_| () }, &mut there).await;
        });
        Box::pin(async move { Ok(Box::new(here) as Box<dyn Frames>) })
    }
}

struct Bench {
    dir: TempDir,
    space: Space,
    shelves: Arc<Shelves>,
}

impl Bench {
    fn new(space: Space) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let shelves = Arc::new(Shelves::new(dir.path().join("vault"), space));
        Self { dir, space, shelves }
    }

    /// The same after a restart.
    fn again(self) -> Self {
        let shelves = Arc::new(Shelves::new(self.dir.path().join("vault"), self.space));
        Self { shelves, ..self }
    }

    fn reached_by(&self, device: DeviceId, rights: Rights) -> (PeerProvider, Arc<Mutex<Rights>>) {
        let rights = Arc::new(Mutex::new(rights));
        let link = Vault { shelves: self.shelves.clone(), device, rights: rights.clone() };
        (PeerProvider::new(Arc::new(link), DeviceId::new([9; 32]), SHELF), rights)
    }

    fn owner(&self) -> PeerProvider {
        self.reached_by(OWNER, Rights::Store).0
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join("vault").join(SHELF.to_string())
    }

    /// What a request on a stream of its own is answered, and what the vault says of its end.
    async fn raw(&self, frames: &[Vec<u8>]) -> (Option<VaultAnswer>, Result<(), ServeError>) {
        let (mut here, mut there) = pair();
        let shelves = self.shelves.clone();
        let serving = tokio::spawn(async move {
            serve(&shelves, &Asker { device: OWNER, rights: &|| Rights::Store, meet: &|_| () }, &mut there).await
        });
        let mut answer = None;
        for (number, frame) in frames.iter().enumerate() {
            if here.send(frame).await.is_err() {
                break;
            }
            if number == 0 {
                answer = here.next().await.unwrap();
            }
        }
        let End { send, mut receive } = here;
        drop(send);
        while let Some(frame) = receive.recv().await {
            answer = Some(frame);
        }
        (answer.map(|answer| codec::decode(&answer).unwrap()), serving.await.unwrap())
    }
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

fn named(bytes: &[u8]) -> ObjectKey {
    object_key(&ChunkId::new(*blake3::hash(bytes).as_bytes()))
}

fn files_beneath(folder: &Path) -> usize {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries.flatten().map(|entry| if entry.path().is_dir() { files_beneath(&entry.path()) } else { 1 }).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_passes_the_suite_of_all_providers() {
    let bench = Bench::new(ROOMY);
    let report = conformance::run(&bench.owner(), None).await;
    assert!(report.is_clean(), "{report}");
    let (used, _) = bench.shelves.ledger().await.unwrap().usage().unwrap();
    assert_eq!(used, 0, "what was put was removed again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_what_its_name_says_is_neither_taken_nor_given() {
    let bench = Bench::new(ROOMY);
    let provider = bench.owner();
    for len in [0, 1000, 5 << 20] {
        let bytes = Bytes::from(vec![3; len]);
        let (good, bad) = (named(&bytes), named(b"other"));
        for mode in [PutMode::IfAbsent, PutMode::Replace] {
            let error = provider.put(&bad, bytes.clone(), mode).await.unwrap_err();
            assert_eq!(error.kind, StorageErrorKind::Damaged);
        }
        assert_eq!(provider.stat(&bad).await.unwrap(), None);
        assert_eq!(provider.put(&good, bytes.clone(), PutMode::IfAbsent).await.unwrap(), Put::New);
        assert_eq!(provider.put(&good, bytes.clone(), PutMode::IfAbsent).await.unwrap(), Put::AlreadyThere);
        if len == 0 {
            continue;
        }
        // A bit of the disk turns: the object is set aside, and taken when it comes again.
        let path = bench.folder().join(good.as_str());
        let mut spoiled = fs::read(&path).unwrap();
        spoiled[len / 2] ^= 1;
        fs::write(&path, spoiled).unwrap();
        let at = (len / 2) as u64;
        let error = provider.get_range(&good, Some(at..at + 1)).await.unwrap_err();
        assert_eq!(error.kind, StorageErrorKind::Damaged);
        assert_eq!(provider.get_range(&good, None).await.unwrap_err().kind, StorageErrorKind::NotFound);
        assert_eq!(provider.put(&good, bytes.clone(), PutMode::IfAbsent).await.unwrap(), Put::New);
        assert_eq!(provider.get_range(&good, None).await.unwrap(), bytes);
    }
    let listed = provider.list("", None, 100).await.unwrap().objects;
    assert_eq!(listed.len(), 3, "{listed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_may_is_served_and_only_as_long_as_it_may() {
    let bench = Bench::new(ROOMY);
    let owner = bench.owner();
    owner.put(&key("a"), "1".into(), PutMode::IfAbsent).await.unwrap();
    let (other, rights) = bench.reached_by(DeviceId::new([2; 32]), Rights::Store);
    assert_eq!(other.get_range(&key("a"), None).await.unwrap(), "1");
    assert_eq!(other.delete(&key("a")).await.unwrap_err().kind, StorageErrorKind::NotAllowed);
    *rights.lock().unwrap() = Rights::None;
    for error in [
        other.get_range(&key("a"), None).await.map(drop),
        other.put(&key("b"), "2".into(), PutMode::IfAbsent).await.map(drop),
        other.stat(&key("a")).await.map(drop),
        other.list("", None, 1).await.map(drop),
        other.delete(&key("a")).await,
        other.test().await,
        other.quota().unwrap().usage().await.map(drop),
    ] {
        assert_eq!(error.unwrap_err().kind, StorageErrorKind::Unavailable);
    }
    assert_eq!(owner.stat(&key("b")).await.unwrap(), None);
    *rights.lock().unwrap() = Rights::Decide;
    other.delete(&key("a")).await.unwrap();
    assert_eq!(owner.stat(&key("a")).await.unwrap(), None);
    // Whose right ends while an object comes.
    let (last, rights) = bench.reached_by(OWNER, Rights::Store);
    let (mut here, mut there) = pair();
    let (shelves, may) = (bench.shelves.clone(), rights.clone());
    let serving = tokio::spawn(async move {
        serve(&shelves, &Asker { device: OWNER, rights: &|| *may.lock().unwrap(), meet: &|_| () }, &mut there).await
    });
    let size = 2 * PART_BYTES as u64;
    let put = VaultRequest::Put { shelf: SHELF, key: Text::new("late").unwrap(), size, replace: false };
    here.send(&codec::encode(&put).unwrap()).await.unwrap();
    assert_eq!(codec::decode::<VaultAnswer>(&here.next().await.unwrap().unwrap()).unwrap(), VaultAnswer::Ready);
    here.send(&vec![0; PART_BYTES]).await.unwrap();
    *rights.lock().unwrap() = Rights::None;
    let _ = here.send(&vec![0; PART_BYTES]).await;
    let end = here.next().await.unwrap().unwrap();
    assert_eq!(codec::decode::<VaultAnswer>(&end).unwrap(), VaultAnswer::Refused(VaultRefusal::Role));
    serving.await.unwrap().unwrap();
    *rights.lock().unwrap() = Rights::Store;
    assert_eq!(last.stat(&key("late")).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_lead_elsewhere_are_refused() {
    let bench = Bench::new(ROOMY);
    bench.owner().test().await.unwrap();
    fs::write(bench.dir.path().join("secret"), "mine").unwrap();
    let text = |text: &str| Text::new(text).unwrap();
    let long = "x".repeat(201);
    for name in [
        "../../secret",
        "/etc/passwd",
        "a/../../../secret",
        "a//b",
        "",
        "a\0b",
        ".larder/tmp/x",
        ".larder/damaged/x",
        &long,
    ] {
        let (shelf, key) = (SHELF, text(name));
        for request in [
            VaultRequest::Put { shelf, key: key.clone(), size: 1, replace: true },
            VaultRequest::Get { shelf, key: key.clone(), range: None },
            VaultRequest::Stat { shelf, key: key.clone() },
            VaultRequest::Delete { shelf, key: key.clone() },
        ] {
            let (answer, end) = bench.raw(&[codec::encode(&request).unwrap()]).await;
            assert_eq!(answer, Some(VaultAnswer::Refused(VaultRefusal::Invalid)), "{request:?}");
            end.unwrap();
        }
    }
    for prefix in ["../", "../../", "/", "a/../", ".larder/tmp/objects/"] {
        let request = VaultRequest::List { shelf: SHELF, prefix: text(prefix), after: None, limit: 9 };
        let (answer, _) = bench.raw(&[codec::encode(&request).unwrap()]).await;
        assert_eq!(answer, Some(VaultAnswer::Refused(VaultRefusal::Invalid)), "{prefix}");
    }
    let huge = VaultRequest::Put { shelf: SHELF, key: text("huge"), size: OBJECT_BYTES_MAX + 1, replace: true };
    let (answer, _) = bench.raw(&[codec::encode(&huge).unwrap()]).await;
    assert_eq!(answer, Some(VaultAnswer::Refused(VaultRefusal::Invalid)));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_keep_to_the_protocol_leaves_nothing_behind() {
    let bench = Bench::new(Space { quota: Some(20 << 20), reserve: 0 });
    bench.owner().test().await.unwrap();
    let before = files_beneath(bench.dir.path());
    let put = |size: u64| {
        let key = Text::new("x").unwrap();
        codec::encode(&VaultRequest::Put { shelf: SHELF, key, size, replace: false }).unwrap()
    };
    // No request, a piece that is too short or too long, an object that ends early, large ones too.
    let (_, end) = bench.raw(&[vec![255; 40]]).await;
    assert!(end.unwrap_err().is_fault());
    let large = 6_u64 << 20;
    for frames in [vec![put(9), vec![0; 8]], vec![put(9), vec![0; 10]], vec![put(large), vec![0; 8]]] {
        let (answer, end) = bench.raw(&frames).await;
        assert_eq!(answer, Some(VaultAnswer::Ready));
        assert!(end.unwrap_err().is_fault());
    }
    let mut early = vec![put(large)];
    early.extend((0..20).map(|_| vec![0; PART_BYTES]));
    let (_, end) = bench.raw(&early).await;
    assert!(!end.unwrap_err().is_fault());
    assert_eq!(files_beneath(bench.dir.path()), before);
    assert_eq!(bench.owner().quota().unwrap().usage().await.unwrap().free, Some(20 << 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_vault_says_so_and_goes_on_reading() {
    let bench = Bench::new(Space { quota: Some(10_000), reserve: 0 });
    let provider = bench.owner();
    provider.put(&key("a"), vec![1; 6000].into(), PutMode::IfAbsent).await.unwrap();
    let error = provider.put(&key("b"), vec![2; 6000].into(), PutMode::IfAbsent).await.unwrap_err();
    assert_eq!((error.kind, error.may_retry()), (StorageErrorKind::Full, false));
    assert_eq!(provider.get_range(&key("a"), Some(5999..9000)).await.unwrap().len(), 1);
    let usage = provider.quota().unwrap().usage().await.unwrap();
    assert_eq!((usage.used, usage.free), (6000, Some(4000)));
    // After a restart it counts the same, and what was removed gives room.
    let again = bench.again();
    let provider = again.owner();
    let error = provider.put(&key("b"), vec![2; 6000].into(), PutMode::IfAbsent).await.unwrap_err();
    assert_eq!(error.kind, StorageErrorKind::Full);
    provider.delete(&key("a")).await.unwrap();
    provider.put(&key("b"), vec![2; 6000].into(), PutMode::IfAbsent).await.unwrap();
}
