//! One SFTP session over the system's `ssh`.
//!
//! `ssh` brings the user's own configuration, agent and known hosts; a host key that is not known is refused, and nothing is
//! asked on a terminal.

use super::NAME;
use crate::storage::{StorageError, StorageErrorKind};
use russh_sftp::{
    client::{RawSftpSession, error::Error},
    protocol::{Packet, StatusCode},
};
use std::{
    ffi::OsString,
    io::Read,
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::watch;

/// Longest wait for one answer of the server, in seconds.
const ANSWER_SECONDS: u64 = 60;
/// Most that is read of what `ssh` complains.
const COMPLAINT_MAX: u64 = 4096;

/// A session, and the process that carries it.
pub(super) struct Session {
    pub(super) raw: RawSftpSession,
    ssh: Mutex<Child>,
    broken: AtomicBool,
    /// What `ssh` complained, once it has ended.
    complaint: watch::Receiver<Option<String>>,
}

impl Drop for Session {
    fn drop(&mut self) {
        let ssh = self.ssh.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = ssh.kill();
        let _ = ssh.wait();
    }
}

fn failed(kind: StorageErrorKind, detail: impl Into<String>) -> StorageError {
    StorageError::new(NAME, kind, detail)
}

/// What the last line of `ssh`'s complaints means.
fn complaint(text: &str) -> StorageError {
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("the connection ended");
    let refused = ["Permission denied", "verification failed", "REMOTE HOST IDENTIFICATION", "No such identity"];
    let kind = if refused.iter().any(|word| text.contains(word)) {
        StorageErrorKind::NotAllowed
    } else {
        StorageErrorKind::Unavailable
    };
    failed(kind, line.chars().filter(|c| !c.is_control()).take(200).collect::<String>())
}

impl Session {
    /// Starts `ssh` with these arguments and greets the server.
    pub(super) async fn start(arguments: &[OsString]) -> Result<Self, StorageError> {
        let io = |error| StorageError::io(NAME, error);
        let (ours, theirs) = UnixStream::pair().map_err(io)?;
        ours.set_nonblocking(true).map_err(io)?;
        let output = theirs.try_clone().map_err(io)?;
        let ssh = Command::new("ssh")
            .args(arguments)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(OwnedFd::from(output)))
            .stderr(Stdio::piped())
            .spawn();
        let mut ssh = ssh.map_err(|error| {
            failed(StorageErrorKind::Unsupported, "the program 'ssh' cannot be started").because(error)
        })?;
        // Its complaints end when it does: sooner than an answer that will not come is given up.
        let (told, complaint) = watch::channel(None);
        if let Some(stderr) = ssh.stderr.take() {
            tokio::task::spawn_blocking(move || {
                let mut text = String::new();
                let _ = stderr.take(COMPLAINT_MAX).read_to_string(&mut text);
                told.send_replace(Some(text));
            });
        }
        let raw = RawSftpSession::new(tokio::net::UnixStream::from_std(ours).map_err(io)?);
        raw.set_timeout(ANSWER_SECONDS);
        let session = Self { raw, ssh: Mutex::new(ssh), broken: AtomicBool::new(false), complaint };
        session.while_it_lasts(async { session.raw.init().await.map_err(|error| session.error(error)) }).await?;
        Ok(session)
    }

    /// Does something as long as the session lasts.
    pub(super) async fn while_it_lasts<T>(
        &self,
        work: impl Future<Output = Result<T, StorageError>>,
    ) -> Result<T, StorageError> {
        let mut complaint = self.complaint.clone();
        let ended = async {
            // A sender that is gone without a word means the same.
            complaint.wait_for(Option::is_some).await.map(|text| text.clone().unwrap_or_default()).unwrap_or_default()
        };
        tokio::select! {
            biased;
            done = work => done,
            text = ended => {
                self.broken.store(true, Ordering::Release);
                Err(self::complaint(&text))
            }
        }
    }

    /// Whether it can go on being used.
    pub(super) fn is_sound(&self) -> bool {
        !self.broken.load(Ordering::Acquire)
    }

    /// What a failed call means; a session that lost its server is not used again.
    pub(super) fn error(&self, error: Error) -> StorageError {
        use StorageErrorKind::{Full, NotAllowed, NotFound, Other, TimedOut, Unavailable, Unsupported};
        let lost = |kind| {
            self.broken.store(true, Ordering::Release);
            kind
        };
        let kind = match &error {
            Error::Status(status) => match status.status_code {
                StatusCode::NoSuchFile => NotFound,
                StatusCode::PermissionDenied => NotAllowed,
                StatusCode::OpUnsupported => Unsupported,
                StatusCode::NoConnection | StatusCode::ConnectionLost => lost(Unavailable),
                _ if status.error_message.contains("space") || status.error_message.contains("quota") => Full,
                _ => Other,
            },
            Error::Timeout => lost(TimedOut),
            Error::Limited(_) => Other,
            _ => lost(Unavailable),
        };
        let detail = match &error {
            Error::Status(status) => format!("the server says: {:?}", status.status_code),
            other => other.to_string(),
        };
        failed(kind, detail).because(error)
    }

    /// `posix-rename@openssh.com`: replaces what is there. False when the server does not know it.
    pub(super) async fn rename_over(&self, from: &str, to: &str) -> Result<bool, StorageError> {
        let mut data = Vec::new();
        for path in [from, to] {
            let len =
                u32::try_from(path.len()).map_err(|_| failed(StorageErrorKind::Invalid, "the path is too long"))?;
            data.extend_from_slice(&len.to_be_bytes());
            data.extend_from_slice(path.as_bytes());
        }
        match self.raw.extended("posix-rename@openssh.com", data).await.map_err(|error| self.error(error))? {
            Packet::Status(status) => match status.status_code {
                StatusCode::Ok => Ok(true),
                StatusCode::OpUnsupported => Ok(false),
                _ => Err(self.error(Error::Status(status))),
            },
            _ => Err(self.error(Error::UnexpectedPacket)),
        }
    }
}
