//! What users can ask of a node: one module for each verb, called by the control socket.

pub(crate) mod access;
pub(crate) mod bring;
pub(crate) mod cat;
pub(crate) mod checked;
pub(crate) mod clouds;
#[cfg(feature = "clouds")]
pub(crate) mod connect;
pub(crate) mod copies;
pub(crate) mod credentials;
pub(crate) mod defaults;
pub(crate) mod devices;
pub(crate) mod ensure;
pub(crate) mod errors;
pub(crate) mod events;
pub(crate) mod find;
pub(crate) mod gateways;
pub(crate) mod get;
pub(crate) mod index;
pub(crate) mod invites;
pub(crate) mod locations;
pub(crate) mod log;
pub(crate) mod offers;
#[cfg(feature = "web")]
pub(crate) mod presign;
pub(crate) mod profiles;
pub(crate) mod put;
pub(crate) mod reference;
pub(crate) mod select;
pub(crate) mod status;
mod store;
#[cfg(feature = "web")]
pub(crate) mod url;
mod vaults;

use larder_protocol::control::ControlError;

/// Runs blocking work off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ControlError> + Send + 'static,
) -> Result<T, ControlError> {
    tokio::task::spawn_blocking(work).await.map_err(errors::internal)?
}
