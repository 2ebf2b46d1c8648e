//! Where the binaries under test are.

use std::path::PathBuf;

/// The `larder` binary that `tests/run` built.
///
/// # Panics
/// When `LARDER_BIN` does not name a file.
pub fn larder() -> PathBuf {
    named("LARDER_BIN")
}

/// The `larder-sim` binary that `tests/run` built.
///
/// # Panics
/// When `LARDER_SIM_BIN` does not name a file.
pub fn simulator() -> PathBuf {
    named("LARDER_SIM_BIN")
}

fn named(variable: &str) -> PathBuf {
    let path = std::env::var_os(variable).map(PathBuf::from).unwrap_or_default();
    assert!(
        path.is_file(),
        "{variable} names no binary ({path:?}): run the stories with `tests/run`, for example \
         `tests/run -p larder-tests -- NAME`, or build `larder` and export {variable} with its path"
    );
    path
}
