//! Frames on a stream: `length(u32 LE) bytes`, the length checked before anything is allocated.

use futures::{AsyncReadExt, AsyncWriteExt};
use std::{io, sync::Arc, time::Duration};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// Bytes of a frame for which memory is taken before any of it has come; later as much again as has come.
const FIRST_BYTES: usize = 64 * 1024;
/// Frames of full length for which there is room: more than a session may send before it hears an answer, or two ends that
/// both send would wait for each other.
pub(crate) const ROOM_FRAMES: usize = 2;

/// How long the other end may take to accept what is sent.
const WRITE_TIME_MAX: Duration = Duration::from_secs(30);

/// Why a frame does not arrive or leave.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Longer than agreed.
    #[error("a frame of {len} bytes, at most {max} are accepted")]
    TooLong {
        /// Length announced in bytes.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// The stream failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A stream of frames to one peer.
#[derive(Debug)]
pub struct FramedStream {
    stream: libp2p::Stream,
    frame_bytes_max: usize,
}

impl FramedStream {
    pub(super) fn new(stream: libp2p::Stream, frame_bytes_max: usize) -> Self {
        Self { stream, frame_bytes_max }
    }

    /// Both directions apart.
    pub fn split(self) -> (FrameReader, FrameWriter) {
        let (reader, writer) = self.stream.split();
        (
            FrameReader {
                reader,
                room: Arc::new(Semaphore::new(ROOM_FRAMES * self.frame_bytes_max)),
                frame_bytes_max: self.frame_bytes_max,
            },
            FrameWriter { writer, frame_bytes_max: self.frame_bytes_max },
        )
    }
}

/// A frame that was received. It takes room from those after it until it is dropped.
#[derive(Debug)]
pub struct Received {
    bytes: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

impl Received {
    /// The bytes, which count for nothing any more.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

impl AsRef<[u8]> for Received {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The receiving direction. All its frames that are not dropped have at most the bytes of [`ROOM_FRAMES`] together.
#[derive(Debug)]
pub struct FrameReader {
    reader: futures::io::ReadHalf<libp2p::Stream>,
    room: Arc<Semaphore>,
    frame_bytes_max: usize,
}

impl FrameReader {
    /// The next frame, once there is room for it; `None` when the other end has closed. Not safe to cancel: use one task
    /// for it.
    ///
    /// # Errors
    /// [`FrameError`] when the stream breaks or a frame is too long.
    pub async fn next(&mut self) -> Result<Option<Received>, FrameError> {
        let mut head = [0; 4];
        match self.reader.read_exact(&mut head).await {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let len = u32::from_le_bytes(head) as usize;
        if len > self.frame_bytes_max {
            return Err(FrameError::TooLong { len, max: self.frame_bytes_max });
        }
        let permits = u32::try_from(len).map_err(|_| FrameError::TooLong { len, max: self.frame_bytes_max })?;
        let room = self.room.clone().acquire_many_owned(permits).await.map_err(io::Error::other)?;
        let mut bytes = Vec::new();
        while bytes.len() < len {
            let (at, more) = (bytes.len(), (len - bytes.len()).min(bytes.len().max(FIRST_BYTES)));
            bytes.reserve_exact(more);
            bytes.resize(at + more, 0);
            self.reader.read_exact(&mut bytes[at..]).await?;
        }
        Ok(Some(Received { bytes, _room: room }))
    }
}

/// The sending direction.
#[derive(Debug)]
pub struct FrameWriter {
    writer: futures::io::WriteHalf<libp2p::Stream>,
    frame_bytes_max: usize,
}

impl FrameWriter {
    /// Sends a frame.
    ///
    /// # Errors
    /// [`FrameError`] when the stream breaks, the frame is too long, or the other end takes nothing.
    pub async fn send(&mut self, frame: &[u8]) -> Result<(), FrameError> {
        let too_long = || FrameError::TooLong { len: frame.len(), max: self.frame_bytes_max };
        let len = u32::try_from(frame.len()).map_err(|_| too_long())?;
        if frame.len() > self.frame_bytes_max {
            return Err(too_long());
        }
        let send = async {
            self.writer.write_all(&len.to_le_bytes()).await?;
            self.writer.write_all(frame).await?;
            self.writer.flush().await
        };
        Ok(timeout(WRITE_TIME_MAX, send).await.map_err(io::Error::from)??)
    }

    /// Ends this direction.
    ///
    /// # Errors
    /// [`FrameError`] when the stream breaks.
    pub async fn close(&mut self) -> Result<(), FrameError> {
        Ok(timeout(WRITE_TIME_MAX, self.writer.close()).await.map_err(io::Error::from)??)
    }
}
