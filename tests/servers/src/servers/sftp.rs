//! OpenSSH's own server, SFTP only, run by whoever runs the tests.

use crate::{installed, process::Process};
use std::{
    ffi::OsString,
    fs,
    io::Read,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

/// An SFTP server that lets the user of the tests in with one key.
#[derive(Debug)]
pub struct Sftp {
    process: Process,
    port: u16,
    user: String,
}

impl Sftp {
    /// Starts one: below 1 s. The account of whoever runs the tests must not be locked, which sshd refuses.
    ///
    /// # Panics
    /// When OpenSSH is not installed or does not start.
    #[track_caller]
    pub fn start() -> Self {
        let sshd = installed::sshd().unwrap_or_else(|missing| panic!("{missing}"));
        if rustix::process::getuid().is_root() {
            // Only root's sshd wants it, and a fresh container lacks it.
            fs::create_dir_all("/run/sshd").expect("root makes /run/sshd");
        }
        let user = user();
        let command = |dir: &Path, [port]: [u16; 1]| {
            for key in ["host_key", "user_key"] {
                keygen(&dir.join(key));
            }
            fs::create_dir_all(files_of(dir)).expect("its folder is writable");
            let public = |key: &str| fs::read_to_string(dir.join(key)).expect("ssh-keygen wrote it");
            fs::write(dir.join("authorized_keys"), public("user_key.pub")).expect("its folder is writable");
            let known = format!("[127.0.0.1]:{port} {}", public("host_key.pub"));
            fs::write(dir.join("known_hosts"), known).expect("its folder is writable");
            // sshd starts itself anew for each connection: a relative path would lead elsewhere then.
            let config = dir.join("sshd_config");
            fs::write(&config, settings(dir, port)).expect("its folder is writable");
            let flags = ["-D", "-e", "-f"].map(OsString::from);
            [vec![sshd.clone().into_os_string()], flags.to_vec(), vec![config.into_os_string()]].concat()
        };
        let (process, [port]) = Process::start("sshd", command, |[port]| greets(port));
        Self { process, port, user }
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Who logs in: the user that runs the tests.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The file with the private key that is let in.
    pub fn key(&self) -> PathBuf {
        self.process.dir().join("user_key")
    }

    /// A `known_hosts` file with the server's key.
    pub fn known_hosts(&self) -> PathBuf {
        self.process.dir().join("known_hosts")
    }

    /// The folder in which a session begins. A session may leave it: it is no prison.
    pub fn files(&self) -> PathBuf {
        files_of(self.process.dir())
    }
}

fn files_of(dir: &Path) -> PathBuf {
    dir.join("files")
}

fn settings(dir: &Path, port: u16) -> String {
    let (dir, files) = (dir.display(), files_of(dir));
    format!(
        "ListenAddress 127.0.0.1:{port}
HostKey {dir}/host_key
AuthorizedKeysFile {dir}/authorized_keys
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
MaxStartups 100
MaxSessions 100
Subsystem sftp internal-sftp
ForceCommand internal-sftp -d {files}
",
        files = files.display()
    )
}

fn greets(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let mut greeting = [0; 8];
    let patience = stream.set_read_timeout(Some(Duration::from_secs(5)));
    patience.is_ok() && stream.read_exact(&mut greeting).is_ok() && &greeting == b"SSH-2.0-"
}

fn keygen(file: &Path) {
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", "tests", "-f"]).arg(file);
    let status = keygen.stdin(Stdio::null()).status();
    let made = status.as_ref().is_ok_and(std::process::ExitStatus::success);
    assert!(made, "ssh-keygen: {status:?}; run tests/servers/install");
}

/// The name of the user that runs the tests.
fn user() -> String {
    let output = Command::new("id").arg("-un").output().expect("id tells the user's name");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
