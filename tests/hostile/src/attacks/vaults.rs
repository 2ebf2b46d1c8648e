//! Attacks on a vault, by who may use it and by who may not any more.

use crate::peer::{PATIENCE, Peer};
use anyhow::{Context, Result, bail, ensure};
use futures::{AsyncReadExt, AsyncWriteExt};
use larder_protocol::{
    bounded::Text,
    codec,
    id::ShelfId,
    vault::{PART_BYTES, VaultAnswer, VaultRefusal, VaultRequest, shelf},
};
use libp2p::StreamProtocol;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;

/// Requests to vaults.
pub const VAULT: StreamProtocol = StreamProtocol::new("/larder/vault/1");
/// A shelf that nobody else uses.
const OWN: ShelfId = ShelfId::new([9; 16]);
/// How long requests are left hanging in one round.
const HANG: Duration = Duration::from_millis(1500);

/// A stream to the vault.
struct Stream(libp2p::Stream);

impl Stream {
    async fn open(peer: &Peer) -> Result<Self> {
        peer.reconnect().await;
        Ok(Self(peer.open(VAULT).await?))
    }

    async fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        let sent = async {
            self.0.write_all(bytes).await?;
            self.0.flush().await
        };
        Ok(timeout(PATIENCE, sent).await.context("the vault reads nothing")??)
    }

    async fn frame(&mut self, bytes: &[u8]) -> Result<()> {
        self.raw(&[&u32::try_from(bytes.len())?.to_le_bytes(), bytes].concat()).await
    }

    /// What the vault says; `None` when it has ended the stream.
    async fn answer(&mut self) -> Result<Option<VaultAnswer>> {
        let read = async {
            let mut len = [0; 4];
            self.0.read_exact(&mut len).await?;
            let mut bytes = vec![0; usize::try_from(u32::from_le_bytes(len)).unwrap_or(usize::MAX).min(PART_BYTES)];
            self.0.read_exact(&mut bytes).await?;
            Ok::<_, std::io::Error>(bytes)
        };
        match timeout(PATIENCE, read).await.context("the vault says nothing")? {
            Ok(bytes) => Ok(Some(codec::decode(&bytes)?)),
            Err(_) => Ok(None),
        }
    }

    /// Begins a request and hears the first answer.
    async fn ask(peer: &Peer, request: &VaultRequest) -> Result<(Self, Option<VaultAnswer>)> {
        let frame = codec::encode(request)?;
        // The vault may hang up on a stream that came in the same moment as another one.
        for _ in 0..5 {
            let mut stream = Self::open(peer).await?;
            stream.frame(&frame).await?;
            if let Some(answer) = stream.answer().await? {
                return Ok((stream, Some(answer)));
            }
        }
        bail!("the vault does not answer {request:?}")
    }
}

fn put(shelf: ShelfId, key: &str, size: u64) -> Result<VaultRequest> {
    Ok(VaultRequest::Put { shelf, key: Text::new(key)?, size, replace: true })
}

async fn refused(peer: &Peer, request: VaultRequest, why: VaultRefusal) -> Result<()> {
    let (_, answer) = Stream::ask(peer, &request).await?;
    ensure!(answer == Some(VaultAnswer::Refused(why)), "{request:?} was answered with {answer:?}");
    Ok(())
}

/// Puts an object and gives the last answer.
async fn puts(peer: &Peer, key: &str, bytes: &[u8]) -> Result<Option<VaultAnswer>> {
    let (mut stream, ready) = Stream::ask(peer, &put(OWN, key, bytes.len() as u64)?).await?;
    ensure!(ready == Some(VaultAnswer::Ready), "{key}: {ready:?}");
    for piece in bytes.chunks(PART_BYTES) {
        stream.frame(piece).await?;
    }
    stream.answer().await
}

/// Whoever may use a vault, and asks for what it must not get.
pub async fn client(peer: &Arc<Peer>) -> Result<Value> {
    // Names that lead elsewhere.
    for key in [
        "../secret",
        "../../keys/device.key",
        "/etc/passwd",
        "a//b",
        ".larder/tmp/x",
        ".larder/sums/x",
        ".larder/damaged/x",
    ] {
        refused(peer, put(OWN, key, 1)?, VaultRefusal::Invalid).await?;
        let get = VaultRequest::Get { shelf: OWN, key: Text::new(key)?, range: None };
        let (_, answer) = Stream::ask(peer, &get).await?;
        ensure!(matches!(answer, Some(VaultAnswer::Refused(_))), "{key} was given");
    }
    // Bytes that are not what they are called.
    let name = blake3::hash(b"what it should be").to_string();
    let answer = puts(peer, &format!("objects/{}/{name}", &name[..2]), b"what it is").await?;
    ensure!(answer == Some(VaultAnswer::Refused(VaultRefusal::Damaged)), "a false name was answered with {answer:?}");
    // What is another's: the shelf that an honest device began.
    let honest = shelf(&peer.group, "");
    let delete = VaultRequest::Delete { shelf: honest, key: Text::new(".larder/location")? };
    refused(peer, delete, VaultRefusal::NotAllowed).await?;
    // More than there is.
    refused(peer, put(OWN, "huge", u64::MAX)?, VaultRefusal::Invalid).await?;
    let begin = |id: u32| format!(".larder/uploads/{id:032x}/object");
    let body = |size: u64| [&size.to_be_bytes()[..], b"large"].concat();
    for (size, why) in [(u64::MAX, VaultRefusal::Invalid), (1 << 39, VaultRefusal::Full)] {
        let answer = puts(peer, &begin(0), &body(size)).await?;
        ensure!(answer == Some(VaultAnswer::Refused(why)), "an upload of {size} bytes was answered with {answer:?}");
    }
    // Names without number.
    let mut begun = 0;
    let answer = loop {
        begun += 1;
        match puts(peer, &begin(begun), &body(9)).await? {
            Some(VaultAnswer::Stored { .. }) if begun < 100 => {}
            answer => break answer,
        }
    };
    ensure!(answer == Some(VaultAnswer::Refused(VaultRefusal::Busy)), "{begun} uploads: {answer:?}");
    // Bodies that never end, frames that are too long, and noise.
    let (mut endless, _) = Stream::ask(peer, &put(OWN, "endless", 100)?).await?;
    let mut frames = 0;
    while frames < 100 && endless.frame(&[7; PART_BYTES]).await.is_ok() {
        frames += 1;
    }
    ensure!(frames < 100, "a body without end was read on and on");
    for bytes in [&u32::MAX.to_le_bytes()[..], &[40, 0, 0, 0, 255, 255, 255, 255]] {
        let mut stream = Stream::open(peer).await?;
        stream.raw(bytes).await?;
        let _ = stream.raw(&[255; 4096]).await;
        let answer = stream.answer().await?;
        ensure!(answer.is_none(), "{bytes:?} was answered with {answer:?}");
    }
    // Requests that hang, as many as it answers of one device.
    let mut hanging = Vec::new();
    for number in 0..8 {
        let Ok(Ok(asked)) = timeout(HANG, Stream::ask(peer, &put(OWN, &format!("hanging-{number}"), 1 << 20)?)).await
        else {
            break;
        };
        hanging.push(asked);
    }
    println!("{{\"hanging\":{}}}", hanging.len());
    tokio::time::sleep(HANG).await;
    Ok(json!({ "uploads": begun - 1 }))
}

/// Is in the middle of an object when it is removed, and asks again afterwards.
pub async fn revoked(peer: &Arc<Peer>) -> Result<Value> {
    let answer = puts(peer, "before", b"before").await?;
    ensure!(answer == Some(VaultAnswer::Stored { new: true }), "a member was refused: {answer:?}");
    let (mut open, ready) = Stream::ask(peer, &put(OWN, "open", 64 << 20)?).await?;
    ensure!(ready == Some(VaultAnswer::Ready), "a member was refused: {ready:?}");
    open.frame(&[1; PART_BYTES]).await?;
    println!("{{\"open\":true}}");
    // It goes on, slowly, until it is told or hung up on.
    let ended = async {
        for _ in 0..255 {
            if open.frame(&[1; PART_BYTES]).await.is_err() {
                return Ok(());
            }
            match timeout(Duration::from_millis(100), open.answer()).await {
                Ok(Ok(None | Some(VaultAnswer::Refused(VaultRefusal::Role)))) => return Ok(()),
                Ok(Ok(answer)) => bail!("it was told {answer:?}"),
                Ok(Err(error)) => return Err(error),
                Err(_) => {}
            }
        }
        bail!("all of its object was taken")
    };
    timeout(PATIENCE * 2, ended).await.context("its object is taken on and on")??;
    for _ in 0..5 {
        peer.reconnect_once().await;
        let Ok(stream) = peer.open(VAULT).await else { continue };
        let mut stream = Stream(stream);
        let _ = stream.frame(&codec::encode(&VaultRequest::Usage)?).await;
        let answer = stream.answer().await?;
        ensure!(
            matches!(answer, None | Some(VaultAnswer::Refused(VaultRefusal::Role))),
            "it was answered with {answer:?}"
        );
    }
    Ok(json!({ "shut out": true }))
}
