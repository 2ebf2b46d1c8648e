//! Binding and reaching a Unix socket, however long its path is, and only for its own user.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsRawFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
};
use tokio::net::{UnixListener, UnixStream};

/// Longest path that fits into a socket address, with its final NUL.
const PATH_BYTES_MAX: usize = 107;

/// Why the socket cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub struct SocketError {
    /// Its path.
    pub path: PathBuf,
    /// What the operating system says.
    pub source: io::Error,
}

/// A path that fits: a long one is reached through its folder's file descriptor, never through a shared folder.
struct Reach {
    path: PathBuf,
    _folder: Option<File>,
}

fn reach(socket: &Path) -> io::Result<Reach> {
    if socket.as_os_str().len() <= PATH_BYTES_MAX {
        return Ok(Reach { path: socket.to_owned(), _folder: None });
    }
    let (folder, name) = socket.parent().zip(socket.file_name()).ok_or(io::ErrorKind::InvalidInput)?;
    let folder = File::open(folder)?;
    let path = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
    Ok(Reach { path, _folder: Some(folder) })
}

/// Accepts connections of this user's processes and closes all others.
pub(crate) struct Acceptor {
    listener: UnixListener,
    uid: u32,
}

impl Acceptor {
    /// Binds the socket, mode 0600; the caller holds the home's lock, so what stands there is a leftover.
    pub(crate) fn bind(socket: &Path) -> Result<Self, SocketError> {
        let bind = || {
            match fs::remove_file(socket) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let reach = reach(socket)?;
            let listener = UnixListener::bind(&reach.path)?;
            fs::set_permissions(socket, fs::Permissions::from_mode(0o600))?;
            Ok(Self { listener, uid: rustix::process::getuid().as_raw() })
        };
        bind().map_err(|source| SocketError { path: socket.to_owned(), source })
    }
}

impl Acceptor {
    /// The next connection of this user. May be dropped at any time.
    pub(crate) async fn accept(&self) -> UnixStream {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => match stream.peer_cred() {
                    Ok(peer) if peer.uid() == self.uid => return stream,
                    Ok(peer) => tracing::warn!(uid = peer.uid(), "control: refused another user"),
                    Err(error) => tracing::warn!(%error, "control: unknown user"),
                },
                Err(error) => {
                    // Out of descriptors: the ones in use must be given back first.
                    tracing::warn!(%error, "control: accept");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }
}

/// Connects to a node's control socket.
///
/// # Errors
/// When nobody listens there, or `PermissionDenied` when another user's process does.
pub async fn connect(socket: &Path) -> io::Result<UnixStream> {
    let reach = reach(socket)?;
    let stream = UnixStream::connect(&reach.path).await?;
    if stream.peer_cred()?.uid() == rustix::process::getuid().as_raw() {
        Ok(stream)
    } else {
        Err(io::Error::new(io::ErrorKind::PermissionDenied, "the socket belongs to another user's process"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_path_of_any_length_works() {
        let dir = tempfile::tempdir().unwrap();
        let deep = (0..10).fold(dir.path().to_owned(), |path, _| path.join("a-rather-long-folder-name"));
        fs::create_dir_all(&deep).unwrap();
        let socket = deep.join("larder.sock");
        let acceptor = Acceptor::bind(&socket).unwrap();
        let (client, _) = tokio::join!(connect(&socket), acceptor.accept());
        client.unwrap();
        assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
        drop(acceptor);
        Acceptor::bind(&socket).expect("a leftover socket is replaced");
    }

    #[tokio::test]
    async fn nobody_there_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(connect(&dir.path().join("none.sock")).await.is_err());
    }
}
