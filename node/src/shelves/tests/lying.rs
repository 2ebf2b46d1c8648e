//! A vault that does not keep its word: whoever reads from it notices, and never waits for ever.

use super::*;
use crate::storage::{FromStorage, OpenError, ProfileSpec, Sealing, open_content, put_content};
use larder_protocol::{
    id::{ContentId, EpochId},
    seal::{EpochSecret, KeyRing, Manifest},
};
use std::io::Write;
use tokio_util::sync::CancellationToken;

const SIZE: usize = 6_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    /// None at all.
    Honest,
    /// Other bytes than those that were put.
    OtherBytes,
    /// Pieces that are shorter than they must be.
    ShortPieces,
    /// The end before all is there.
    EarlyEnd,
    /// More than was asked for.
    Longer,
    /// Nothing more, while the stream stands.
    Silence,
    /// The answer to another question.
    OtherAnswer,
}

/// The way to an honest vault, past somebody who is not.
struct Liar {
    honest: Vault,
    lie: Lie,
}

struct Bent {
    stream: Box<dyn Frames>,
    lie: Lie,
    heard: usize,
}

impl PeerLink for Liar {
    fn open(&self, device: DeviceId) -> BoxFuture<'_, io::Result<Box<dyn Frames>>> {
        Box::pin(async move {
            let stream = self.honest.open(device).await?;
            Ok(Box::new(Bent { stream, lie: self.lie, heard: 0 }) as Box<dyn Frames>)
        })
    }
}

impl Frames for Bent {
    fn send<'a>(&'a mut self, frame: &'a [u8]) -> BoxFuture<'a, io::Result<()>> {
        self.stream.send(frame)
    }

    fn close(&mut self) -> BoxFuture<'_, io::Result<()>> {
        self.stream.close()
    }

    fn next(&mut self) -> BoxFuture<'_, io::Result<Option<Vec<u8>>>> {
        Box::pin(async move {
            let frame = self.stream.next().await?;
            self.heard += 1;
            let Some(mut frame) = frame else { return Ok(None) };
            let is_head = self.heard == 1;
            match self.lie {
                Lie::OtherBytes if !is_head => frame[0] ^= 1,
                Lie::ShortPieces if !is_head => drop(frame.pop()),
                Lie::EarlyEnd if self.heard > 3 => return Ok(None),
                Lie::Silence if !is_head => return std::future::pending().await,
                Lie::OtherAnswer if is_head => frame = codec::encode(&VaultAnswer::Done).unwrap(),
                Lie::Longer if is_head => {
                    if let Ok(VaultAnswer::Object { size }) = codec::decode(&frame) {
                        frame = codec::encode(&VaultAnswer::Object { size: size + (1 << 40) }).unwrap();
                    }
                }
                _ => {}
            }
            Ok(Some(frame))
        })
    }
}

fn liar(bench: &Bench, lie: Lie) -> PeerProvider {
    let honest = Vault { shelves: bench.shelves.clone(), device: OWNER, rights: Arc::new(Mutex::new(Rights::Store)) };
    PeerProvider::new(Arc::new(Liar { honest, lie }), DeviceId::new([9; 32]), SHELF)
}

fn sealing() -> Sealing {
    let ring = KeyRing::new(EpochId::new([1; 16]), EpochSecret::new([2; 32]));
    Sealing { ring: Arc::new(ring), signing: ed25519_dalek::SigningKey::from_bytes(&[3; 32]) }
}

/// Time stands still but for what is waited for.
#[tokio::test(start_paused = true)]
async fn silence_is_not_waited_for_without_end() {
    let bench = Bench::new(ROOMY);
    bench.owner().put(&key("object"), vec![1; 1 << 20].into(), PutMode::IfAbsent).await.unwrap();
    let error = liar(&bench, Lie::Silence).get_range(&key("object"), None).await.unwrap_err();
    assert_eq!(error.kind, StorageErrorKind::TimedOut);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lie_gives_an_error_and_no_byte() {
    let bench = Bench::new(ROOMY);
    let bytes = vec![5; SIZE];
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    let content = ContentId::new(*blake3::hash(&bytes).as_bytes());
    for chunked in [true, false] {
        let spec = ProfileSpec { encrypted: true, chunked };
        let source = Arc::new(file.try_clone().unwrap());
        let stored =
            put_content(&bench.owner(), spec, &sealing(), None, source, content, SIZE as u64, &|_| {}).await.unwrap();
        let object = bench.owner().get_range(&object_key(&stored.manifest), None).await.unwrap();
        let manifest = Manifest::open(&object, |epoch| sealing().ring.get(epoch).cloned()).unwrap().0;
        for lie in [Lie::Honest, Lie::OtherBytes, Lie::ShortPieces, Lie::EarlyEnd, Lie::Longer, Lie::OtherAnswer] {
            let rights = Arc::new(Mutex::new(Rights::Store));
            let honest = Vault { shelves: bench.shelves.clone(), device: OWNER, rights };
            let liar = PeerProvider::new(Arc::new(Liar { honest, lie }), DeviceId::new([9; 32]), SHELF);
            let (out, manifest) = (tempfile::tempfile().unwrap(), manifest.clone());
            let chunk = object_key(&manifest.chunks.iter().next().unwrap().chunk);
            let read = liar.get_range(&chunk, Some(0..1 << 20)).await;
            assert_eq!(read.is_ok(), matches!(lie, Lie::Honest | Lie::OtherBytes), "{lie:?} {read:?}");
            let source = FromStorage::new(Arc::new(liar), CancellationToken::new());
            let opened =
                tokio::task::spawn_blocking(move || open_content(&manifest, &source, &sealing().ring, &out, &|_| {}));
            match (lie, opened.await.unwrap()) {
                (Lie::Honest, opened) => opened.unwrap(),
                (Lie::OtherBytes, opened) => {
                    assert!(!matches!(opened, Ok(()) | Err(OpenError::Storage(_))), "{opened:?}")
                }
                (_, opened) => assert!(matches!(opened, Err(OpenError::Storage(_))), "{lie:?} {opened:?}"),
            }
        }
    }
}
