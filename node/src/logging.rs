//! The log for people. Names, paths and hashes of contents are not in it at the level of information.

use crate::{config::Home, run::LogTarget};
use tracing_appender::{non_blocking::WorkerGuard, rolling};
use tracing_subscriber::EnvFilter;

/// Days of log files that are kept.
const FILES_MAX: usize = 7;

/// Starts logging; what is still to be written is written when the guard is dropped.
pub(crate) fn start(home: &Home, target: LogTarget, verbosity: u8) -> Option<WorkerGuard> {
    let level = match verbosity {
        0 => "info,libp2p=warn,quinn=warn,netlink_packet_route=error",
        1 => "debug,libp2p=info,quinn=info,quinn_proto=info,yamux=info,multistream_select=info,rustls=info,hyper=info",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("LARDER_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false);
    match target {
        LogTarget::Stderr => {
            let _ = subscriber.with_writer(std::io::stderr).try_init();
            None
        }
        LogTarget::File => {
            let file = rolling::Builder::new()
                .rotation(rolling::Rotation::DAILY)
                .filename_prefix("larder")
                .filename_suffix("log")
                .max_log_files(FILES_MAX)
                .build(home.logs())
                .ok()?;
            let (writer, guard) = tracing_appender::non_blocking(file);
            let _ = subscriber.with_writer(writer).try_init();
            std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "panic")));
            Some(guard)
        }
    }
}
