//! Contents under addresses that a browser, a player or `curl` on this machine can read: a small HTTP server on loopback.
//!
//! Goals: ranges that never die on a pause or a seek, every byte that comes from here verified, bounded memory. What only a
//! storage holds, bare, is a redirect to an address of that storage, signed anew each time. Whoever has an address has one
//! content until it expires, and nothing else: an address names a random handle, never the content, and is signed under a key
//! of its own. Pages of other sites get nothing even with an address, since the host, the origin and the browser's own
//! account of who asks are checked. Non-goals: other machines, writing, listing.
//!
//! Nothing listens before the first address was asked for, and after a restart only while one is still good.

mod guard;
mod links;
mod media;
mod range;
mod serve;
mod signing;

pub(crate) use links::Link;

use crate::{
    catalog::{Catalog, CatalogError, LocalWrite},
    keys::KeyFileError,
    node::{Node, now},
    operations::errors,
};
use larder_protocol::{control::ControlError, time::Timestamp};
use signing::{Handle, UrlKey};
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
};
use tokio::{net::TcpListener, sync::Mutex};

/// Namespace and key of the port.
const PORT: (&str, &[u8]) = ("web", b"port");

/// The server of a node.
pub(crate) struct Web {
    key: UrlKey,
    /// Where it listens, once it does.
    listening: Mutex<Option<SocketAddr>>,
}

impl Web {
    /// Loads the key, or makes one.
    pub(crate) fn load(keys: &Path) -> Result<Self, KeyFileError> {
        Ok(Self { key: UrlKey::load(keys)?, listening: Mutex::default() })
    }

    /// Makes an address under which a content can be read until `expires`, and starts the server where it does not run.
    ///
    /// # Errors
    /// [`ControlError`] when the catalog cannot be written, no port is free or there are too many addresses.
    pub(crate) async fn publish(node: &Arc<Node>, link: Link) -> Result<String, ControlError> {
        let address = Self::start(node).await?;
        let (handle, expires) = (Handle::random(), link.expires);
        links::keep(node, handle, link).await?;
        Ok(format!("http://{address}{}", node.web.key.path(&handle, expires)))
    }

    /// Starts the server when an address from before is still good.
    pub(crate) async fn resume(node: &Arc<Node>) -> Result<(), ControlError> {
        if links::any(&node.catalog, now()).map_err(errors::catalog)? {
            Self::start(node).await?;
        }
        Ok(())
    }

    async fn start(node: &Arc<Node>) -> Result<SocketAddr, ControlError> {
        let mut listening = node.web.listening.lock().await;
        if let Some(address) = *listening {
            return Ok(address);
        }
        let known = port(&node.catalog).map_err(errors::catalog)?;
        let listener = match TcpListener::bind((Ipv4Addr::LOCALHOST, known)).await {
            // Somebody else has the port; addresses from before are lost then.
            Err(_) if known != 0 => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await,
            bound => bound,
        };
        let (listener, address) = listener
            .and_then(|listener| listener.local_addr().map(|address| (listener, address)))
            .map_err(|error| errors::io("127.0.0.1", &error))?;
        if address.port() != known {
            let value = Some(address.port().to_le_bytes().to_vec());
            let write = LocalWrite::Value { namespace: PORT.0, key: PORT.1.to_vec(), value };
            node.append(Vec::new(), vec![write]).await?;
        }
        node.tasks.spawn(serve::serve(node.clone(), listener, address));
        *listening = Some(address);
        Ok(address)
    }
}

fn port(catalog: &Catalog) -> Result<u16, CatalogError> {
    let value = catalog.read()?.local(PORT.0, PORT.1)?;
    Ok(value.and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_le_bytes))
}

/// Whole seconds of a time, as addresses carry them.
fn seconds(time: Timestamp) -> i64 {
    time.0.div_euclid(1_000_000_000)
}
