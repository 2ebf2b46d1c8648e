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

/// A stream of frames to one device, in both directions. It ends when it is dropped.
pub trait Frames: Send {
    /// Sends a frame.
    fn send<'a>(&'a mut self, frame: &'a [u8]) -> BoxFuture<'a, io::Result<()>>;

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

impl Conversation {
    pub(super) async fn begin(
        link: &dyn PeerLink,
        device: DeviceId,
        request: &VaultRequest,
    ) -> Result<Self, StorageError> {
        let frame = codec::encode(request).map_err(other)?;
        let mut conversation = Self(link.open(device).await.map_err(broken)?);
        conversation.send(&frame).await?;
        Ok(conversation)
    }

    pub(super) async fn send(&mut self, frame: &[u8]) -> Result<(), StorageError> {
        let sent = timeout(FRAME_TIME_MAX, self.0.send(frame)).await;
        sent.map_err(io::Error::from).and_then(|sent| sent).map_err(broken)
    }

    /// The next frame of an object.
    pub(super) async fn part(&mut self) -> Result<Vec<u8>, StorageError> {
        let next = timeout(FRAME_TIME_MAX, self.0.next()).await.map_err(io::Error::from).and_then(|next| next);
        next.map_err(broken)?.ok_or_else(|| broken(io::ErrorKind::UnexpectedEof.into()))
    }

    /// The vault's answer; a refusal is an error.
    pub(super) async fn answer(&mut self) -> Result<VaultAnswer, StorageError> {
        match codec::decode(&self.part().await?).map_err(other)? {
            VaultAnswer::Refused(refusal) => Err(refused(refusal)),
            answer => Ok(answer),
        }
    }
}
