//! Answers that come in pieces: one JSON object a line, ended by an end mark.

use axum::{
    body::Body,
    http::header,
    response::{IntoResponse, Response},
};
use larder_protocol::control::{ControlError, Progress, StreamItem};
use serde::Serialize;
use std::future::Future;
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Lines that may wait for a slow reader; then the operation waits.
const LINES_MAX: usize = 256;

/// Takes what an operation has to say, and tells it when nobody listens any more.
pub(crate) struct Reporter<T> {
    lines: mpsc::Sender<StreamItem<T>>,
    cancelled: CancellationToken,
}

impl<T> Clone for Reporter<T> {
    fn clone(&self) -> Self {
        Self { lines: self.lines.clone(), cancelled: self.cancelled.clone() }
    }
}

impl<T> Reporter<T> {
    /// Cancelled when the user has gone.
    pub(crate) fn cancelled(&self) -> &CancellationToken {
        &self.cancelled
    }

    /// Tells a result.
    pub(crate) async fn result(&self, result: T) {
        let _ = self.lines.send(StreamItem::Result(result)).await;
    }

    /// Tells what could not be done.
    pub(crate) async fn error(&self, error: ControlError) {
        let _ = self.lines.send(StreamItem::Error(error)).await;
    }

    /// Tells how far it is; dropped when the reader is slow, as a later one says more.
    pub(crate) fn progress(&self, progress: Progress) {
        let _ = self.lines.try_send(StreamItem::Progress(progress));
    }
}

/// Runs an operation and answers with what it reports. The reader's going cancels it.
pub(crate) fn respond<T, F>(operation: impl FnOnce(Reporter<T>) -> F) -> Response
where
    T: Serialize + Send + 'static,
    F: Future<Output = Result<(), ControlError>> + Send + 'static,
{
    let (lines, receiver) = mpsc::channel(LINES_MAX);
    let cancelled = CancellationToken::new();
    let guard: DropGuard = cancelled.clone().drop_guard();
    let reporter = Reporter { lines: lines.clone(), cancelled };
    let running = operation(reporter);
    tokio::spawn(async move {
        if let Err(error) = running.await {
            let _ = lines.send(StreamItem::Error(error)).await;
        }
        let _ = lines.send(StreamItem::End).await;
    });
    let body = ReceiverStream::new(receiver).map(move |item| {
        let _held_while_the_reader_reads = &guard;
        serde_json::to_vec(&item).map(|mut line| {
            line.push(b'\n');
            line
        })
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(body)).into_response()
}
