//! One request and its answer on a stream to a vault.

use super::{NAME, refused};
use crate::storage::{StorageError, StorageErrorKind};
use futures::future::BoxFuture;
use larder_protocol::{
    codec,
    id::DeviceId,
    vault::{VaultAnswer, VaultRequest},
};
use std::{io, time::Duration};
use tokio::time::timeout;

/// How long a vault may take for a frame; making an object durable and listing are the longest.
const FRAME_TIME_MAX: Duration = Duration::from_secs(30);
/// How long it is waited, each time, before a vault that has hung up is asked again; in milliseconds.
const AGAIN_MS: [u64; 5] = [5, 10, 30, 100, 300];

/// A stream of frames to one device, in both directions. It ends when it is dropped.
pub trait Frames: Send {
    /// Sends a frame.
    fn send<'a>(&'a mut self, frame: &'a [u8]) -> BoxFuture<'a, io::Result<()>>;

    /// Says that nothing more comes from this end.
    fn close(&mut self) -> BoxFuture<'_, io::Result<()>>;

    /// The next frame; `None` when the other end has closed. Not safe to cancel: then the stream is to be dropped.
    fn next(&mut self) -> BoxFuture<'_, io::Result<Option<Vec<u8>>>>;
}

/// A way to the vaults of the group.
pub trait PeerLink: Send + Sync + 'static {
    /// Opens a stream to a vault. One that is not connected is an error at once.
    fn open(&self, device: DeviceId) -> BoxFuture<'_, io::Result<Box<dyn Frames>>>;
}

/// A stream on which one request was made.
pub(super) struct Conversation(Box<dyn Frames>);

fn broken(error: io::Error) -> StorageError {
    StorageError::io(NAME, error)
}

fn other(error: impl std::fmt::Display) -> StorageError {
    StorageError::new(NAME, StorageErrorKind::Other, error.to_string())
}

/// Whether the other end has hung up. A vault that takes two streams in one moment may drop one of them unread.
fn hung_up(error: &io::Error) -> bool {
    use io::ErrorKind as E;
    matches!(error.kind(), E::UnexpectedEof | E::BrokenPipe | E::ConnectionReset | E::ConnectionAborted | E::WriteZero)
}

impl Conversation {
    /// Asks and waits for the first answer; a refusal is an error. Nothing follows from this end when that is `all`.
    ///
    /// A vault that hangs up before it has answered is asked again at once, and so a few times.
    pub(super) async fn begin(
        link: &dyn PeerLink,
        device: DeviceId,
        request: &VaultRequest,
        all: bool,
    ) -> Result<(Self, VaultAnswer), StorageError> {
        let frame = codec::encode(request).map_err(other)?;
        let mut pauses = AGAIN_MS.into_iter().map(Duration::from_millis);
        loop {
            let mut conversation = Self(link.open(device).await.map_err(broken)?);
            match conversation.first(&frame, all).await {
                Ok(answer) => return Ok((conversation, read(&answer)?)),
                Err(error) => match pauses.next().filter(|_| hung_up(&error)) {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => return Err(broken(error)),
                },
            }
        }
    }

    async fn first(&mut self, frame: &[u8], all: bool) -> io::Result<Vec<u8>> {
        timeout(FRAME_TIME_MAX, async {
            self.0.send(frame).await?;
            if all {
                self.0.close().await?;
            }
            self.0.next().await?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
        })
        .await?
    }

    pub(super) async fn send(&mut self, frame: &[u8]) -> Result<(), StorageError> {
        let sent = timeout(FRAME_TIME_MAX, self.0.send(frame)).await;
        sent.map_err(io::Error::from).and_then(|sent| sent).map_err(broken)
    }

    /// Says that all is asked.
    pub(super) async fn close(&mut self) -> Result<(), StorageError> {
        let closed = timeout(FRAME_TIME_MAX, self.0.close()).await;
        closed.map_err(io::Error::from).and_then(|closed| closed).map_err(broken)
    }

    /// Waits until the vault has nothing more to say, so that the stream is over at both ends before another one begins: a
    /// connection has only so many.
    pub(super) async fn end(mut self) {
        let _ = timeout(FRAME_TIME_MAX, self.0.next()).await;
    }

    /// The next frame of an object.
    pub(super) async fn part(&mut self) -> Result<Vec<u8>, StorageError> {
        let next = timeout(FRAME_TIME_MAX, self.0.next()).await.map_err(io::Error::from).and_then(|next| next);
        next.map_err(broken)?.ok_or_else(|| broken(io::ErrorKind::UnexpectedEof.into()))
    }

    /// The vault's answer; a refusal is an error.
    pub(super) async fn answer(&mut self) -> Result<VaultAnswer, StorageError> {
        read(&self.part().await?)
    }
}

fn read(frame: &[u8]) -> Result<VaultAnswer, StorageError> {
    match codec::decode(frame).map_err(other)? {
        VaultAnswer::Refused(refusal) => Err(refused(refusal)),
        answer => Ok(answer),
    }
}
