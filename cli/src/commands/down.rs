//! `larder down`.

use super::{Context, Outcome};
use crate::error;
use hyper::Method;
use larder_protocol::control::{ControlError, ErrorKind};
use std::time::{Duration, Instant};

/// How long a node may take to finish what it is doing.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn run(context: &Context) -> Outcome {
    let () = context.target().connect().await?.call(Method::POST, "/v1/shutdown", &()).await?;
    // The lock is let go of at the very end; polling it is the only sign that another process is gone.
    let deadline = Instant::now() + PATIENCE;
    while context.home.lock().is_err() {
        if Instant::now() > deadline {
            let home = context.home.socket();
            return Err(ControlError::new(ErrorKind::NodeRunning, home.display().to_string()).retry());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    context.note("stopped");
    Ok(error::OK)
}
