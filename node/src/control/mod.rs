//! The control socket: HTTP and JSON over a Unix socket that only this user can open.
//!
//! The routes are thin: each decodes a request, calls one function of [`operations`](crate::operations) and encodes what
//! it answers. `docs/protocol.md` lists them.

mod routes;
mod socket;
mod stream;

pub(crate) use socket::Acceptor;
pub use socket::connect;
pub(crate) use stream::Reporter;

use crate::node::Node;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Serves the control socket until `stop` is cancelled.
pub(crate) async fn serve(node: Arc<Node>, acceptor: Acceptor, stop: CancellationToken) {
    let router = routes::router(node);
    let served = axum::serve(acceptor, router).with_graceful_shutdown(async move { stop.cancelled().await });
    if let Err(error) = served.await {
        tracing::error!(%error, "control socket stopped");
    }
}
