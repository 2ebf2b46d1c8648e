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
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use std::{sync::Arc, time::Duration};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Connections at once; a later one waits until one of them ends.
const CONNECTIONS_MAX: usize = 128;
/// How long the head of a request may take, from the moment that a connection stands or the request before has ended.
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);

/// Serves the control socket until `stop` is cancelled.
pub(crate) async fn serve(node: Arc<Node>, acceptor: Acceptor, stop: CancellationToken) {
    let router = routes::router(node);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let under_way = GracefulShutdown::new();
    loop {
        let next = async {
            // The semaphore is never closed.
            let place = places.clone().acquire_owned().await.ok();
            (place, acceptor.accept().await)
        };
        let (place, stream) = tokio::select! {
            next = next => next,
            () = stop.cancelled() => break,
        };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME_MAX)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router.clone()));
        let connection = under_way.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "control: connection ended");
            }
            drop(place);
        });
    }
    drop(acceptor);
    under_way.shutdown().await;
}
