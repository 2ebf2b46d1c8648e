//! Running a node until it is told to stop.

use crate::{
    config::{Home, HomeError, HomeLock},
    control::{self, Acceptor},
    logging,
    node::Node,
    operations::{credentials, errors},
};
use larder_protocol::control::{ControlError, ErrorKind, Secret};
use std::net::SocketAddr;
use tokio_util::sync::CancellationToken;

/// Where the log goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogTarget {
    /// A file of the home, a new one each day.
    File,
    /// The terminal.
    Stderr,
}

/// How to run.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Where to listen instead of where the settings say.
    pub listen: Vec<SocketAddr>,
    /// Where the log goes.
    pub log: LogTarget,
    /// Unlocks the credentials.
    pub passphrase: Option<Secret>,
    /// 0 for information, 1 for more, 2 for everything.
    pub verbosity: u8,
}

/// Takes a home for this process.
pub(crate) fn lock(home: &Home) -> Result<HomeLock, ControlError> {
    home.lock().map_err(|error| match error {
        HomeError::Locked(path) => ControlError::new(ErrorKind::NodeRunning, path.display().to_string()),
        error => ControlError::new(ErrorKind::Io, "the home").detail(error.to_string()),
    })
}

/// Runs the node of a home until it is told to stop, by the control socket or a signal. Calls `ready` once it answers.
///
/// # Errors
/// [`ControlError`] when it cannot start.
pub async fn run(home: &Home, options: RunOptions, ready: impl FnOnce()) -> Result<(), ControlError> {
    home.create().map_err(|error| ControlError::new(ErrorKind::Io, "the home").detail(error.to_string()))?;
    let _lock = lock(home)?;
    let _log = logging::start(home, options.log, options.verbosity);
    let node = Node::start(home, options.listen).await?;
    if let Some(passphrase) = options.passphrase
        && let Err(error) = credentials::unlock(&node, Some(passphrase)).await
    {
        node.shutdown().await;
        return Err(error);
    }
    let acceptor = Acceptor::bind(&home.socket()).map_err(|error| errors::io(&error.path, &error.source))?;
    let stop_socket = CancellationToken::new();
    let serving = tokio::spawn(control::serve(node.clone(), acceptor, stop_socket.clone()));
    tracing::info!(device = %node.device(), "the node is up");
    ready();
    wait_for_the_end(&node).await;
    tracing::info!("the node stops");
    node.shutdown().await;
    stop_socket.cancel();
    if tokio::time::timeout(std::time::Duration::from_secs(2), serving).await.is_err() {
        tracing::debug!("somebody still held the control socket");
    }
    let _ = std::fs::remove_file(home.socket());
    Ok(())
}

async fn wait_for_the_end(node: &Node) {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminated) = signal(SignalKind::terminate()) else {
        node.stop.cancelled().await;
        return;
    };
    tokio::select! {
        () = node.stop.cancelled() => {}
        _ = terminated.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
