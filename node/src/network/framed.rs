//! Frames on a stream: `length(u32 LE) bytes`, the length checked before anything is allocated.

use futures::{AsyncReadExt, AsyncWriteExt};
use std::{io, time::Duration};
use tokio::time::timeout;

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
            FrameReader { reader, frame_bytes_max: self.frame_bytes_max },
            FrameWriter { writer, frame_bytes_max: self.frame_bytes_max },
        )
    }
}

/// The receiving direction.
#[derive(Debug)]
pub struct FrameReader {
    reader: futures::io::ReadHalf<libp2p::Stream>,
    frame_bytes_max: usize,
}

impl FrameReader {
    /// The next frame; `None` when the other end has closed. Not safe to cancel: use one task for it.
    ///
    /// # Errors
    /// [`FrameError`] when the stream breaks or a frame is too long.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, FrameError> {
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
        let mut frame = vec![0; len];
        self.reader.read_exact(&mut frame).await?;
        Ok(Some(frame))
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
