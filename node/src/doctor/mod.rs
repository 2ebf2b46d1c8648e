//! Looks a home over and says what is not as it should be. Changes nothing.
//!
//! Without a node the files themselves are read, the catalog over a copy in memory. With one, the node says what it knows, and
//! only what lies beside its open files is read. The command line words what is found.

mod files;
mod places;
mod running;
mod shelves;
mod stored;
#[cfg(test)]
mod tests;

pub(crate) use running::examine as examine_running;

use crate::{config::Home, credentials::Vault, keys::DeviceKeys, node::Belongings};
use larder_protocol::control::{ControlError, FindingKind, FindingView};

/// What was found, and whether a node runs here that should be asked too.
#[derive(Debug)]
pub struct Examined {
    /// What is not as it should be.
    pub findings: Vec<FindingView>,
    /// A node runs in this home.
    pub node_runs: bool,
}

/// Looks over a home. With `full` a catalog of any size is compared with its log; else one whose log is not too long; and
/// every object that this device keeps as a vault is read, while no node runs.
///
/// # Errors
/// [`ErrorKind::NotInitialised`](larder_protocol::control::ErrorKind::NotInitialised) when the home belongs to no group.
pub fn examine(home: &Home, full: bool) -> Result<Examined, ControlError> {
    if !crate::is_initialised(home) && !home.keys().exists() {
        return Err(crate::operations::errors::not_initialised(home));
    }
    let mut findings = Vec::new();
    files::permissions(home, &mut findings);
    files::left_over(home, &mut findings);
    files::room(&home.catalog(), &mut findings);
    // Held to the end, so that no node starts meanwhile.
    let lock = home.claim();
    if lock.is_some() {
        files::socket(home, &mut findings);
        files::credentials(&Vault::open(&home.keys()), false, &mut findings);
        match Belongings::load(home) {
            Ok(belongings) => stored::examine(home, belongings, full, &mut findings),
            Err(error) => findings.push(why_unusable(home, &error)),
        }
    }
    let settings = crate::config::Settings::load(&home.config_file()).unwrap_or_default();
    shelves::examine(home, settings.vault.space(), full && lock.is_some(), &mut findings);
    findings.sort();
    findings.dedup();
    Ok(Examined { findings, node_runs: lock.is_none() })
}

/// Keys or settings: what of the two cannot be used.
fn why_unusable(home: &Home, error: &ControlError) -> FindingView {
    let settings = crate::config::Settings::load(&home.config_file());
    match (settings, DeviceKeys::load(&home.keys())) {
        (Err(error), _) => {
            FindingView::new(FindingKind::Settings, home.config_file().display().to_string()).detail(error.to_string())
        }
        (Ok(_), Ok(None)) => {
            FindingView::new(FindingKind::Keys, home.keys().display().to_string()).detail("device.key is missing")
        }
        (Ok(_), _) => FindingView::new(FindingKind::Keys, home.keys().display().to_string()).detail(&error.detail),
    }
}
