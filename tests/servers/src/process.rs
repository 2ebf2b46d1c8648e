//! A server as a process of its own, which ends with whoever started it.
//!
//! The server leads a process group, and nobody waits for it before it is killed, so that its id stays its own. Beside it runs a
//! guardian, a shell that reads from the test: when its input ends without a word (the test binary exited with the server
//! in a static, or was killed), it kills the server's group and removes its folder.

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open},
};
use std::{
    ffi::OsString,
    fs::{self, File},
    io::Write,
    net::TcpListener,
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// How long a server may take until it answers: far more than it does, so that a busy machine fails nothing.
const PATIENCE: Duration = Duration::from_secs(120);
/// Pause between two looks whether it answers.
const PAUSE: Duration = Duration::from_millis(20);
/// How often it is tried with other ports when another program took one in between.
const ATTEMPTS: usize = 5;

/// Argument: the folder. Reads the server's id, then a word when there is nothing left to do.
const GUARDIAN: &str = r#"
read -r server || exit
read -r over && exit
kill -s KILL -- "-$server"
[ -z "$LARDER_KEEP" ] || exit
# What is being killed may still write.
for _ in 1 2 3 4 5; do rm -rf -- "$1" && exit; sleep 0.2; done
"#;

/// A running server. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Process {
    server: Child,
    ended: OwnedFd,
    guardian: Child,
    dir: PathBuf,
}

impl Process {
    /// Starts a server with a folder of its own and `PORTS` free ports, and waits until `answers`.
    ///
    /// `command` gets the folder and the ports, writes what configuration it likes, and gives program and arguments. The
    /// server sees `PATH`, `LANG` and the folder as `HOME`, and no other variable.
    ///
    /// # Panics
    /// When it ends or does not answer in time, with the end of its log.
    pub(crate) fn start<const PORTS: usize>(
        name: &str,
        mut command: impl FnMut(&Path, [u16; PORTS]) -> Vec<OsString>,
        mut answers: impl FnMut([u16; PORTS]) -> bool,
    ) -> (Self, [u16; PORTS]) {
        let mut attempt = 1;
        loop {
            let ports = free_ports();
            let dir = tempfile::Builder::new().prefix("larder-server-").tempdir().expect("a temporary folder").keep();
            let process = Self::spawn(&dir, &command(&dir, ports));
            match process.wait_until(|| answers(ports)) {
                Ok(()) => return (process, ports),
                Err(Failure::Ended(log)) if attempt < ATTEMPTS && log.contains("in use") => attempt += 1,
                Err(Failure::Ended(log)) => panic!("{name} ended before it answered; its log:\n{log}"),
                Err(Failure::Silent(log)) => panic!("{name} did not answer within {PATIENCE:?}; its log:\n{log}"),
            }
        }
    }

    fn spawn(dir: &Path, command: &[OsString]) -> Self {
        let [program, arguments @ ..] = command else { panic!("a command has a program") };
        // Ctrl-C at a terminal reaches the test only, and through its end the guardian.
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", GUARDIAN, "guardian"]).arg(dir).process_group(0);
        let quiet = shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut guardian = quiet.spawn().expect("/bin/sh starts");

        let log = File::create(log_of(dir)).expect("its folder is writable");
        let mut server = Command::new(program);
        server.args(arguments).process_group(0).current_dir(dir).env_clear().env("HOME", dir).env("LANG", "C.UTF-8");
        server.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        server.stdin(Stdio::null()).stdout(log.try_clone().expect("a file has another handle")).stderr(log);
        let server = server.spawn().unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let input = guardian.stdin.as_mut().expect("its input is piped");
        writeln!(input, "{}", server.id()).expect("the guardian reads");
        // Nobody has waited for it, so the id is its own, even when it has ended.
        let ended = pidfd_open(Pid::from_child(&server), PidfdFlags::empty()).expect("a child can be opened");
        Self { server, ended, guardian, dir: dir.to_owned() }
    }

    fn wait_until(&self, mut answers: impl FnMut() -> bool) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            // The pause between two looks is a wait for its end.
            if ends_within(&self.ended, PAUSE) {
                return Err(Failure::Ended(self.log()));
            }
            if answers() {
                return Ok(());
            }
        }
        Err(Failure::Silent(self.log()))
    }

    /// Its folder.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The end of what it wrote to its output.
    pub(crate) fn log(&self) -> String {
        let log = fs::read(log_of(&self.dir)).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(4000)..]).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.server), Signal::KILL);
        let _ = self.server.wait();
        if let Some(mut input) = self.guardian.stdin.take() {
            let _ = writeln!(input, "over");
        }
        let _ = self.guardian.wait();
        if std::env::var_os("LARDER_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

enum Failure {
    Ended(String),
    Silent(String),
}

fn log_of(dir: &Path) -> PathBuf {
    dir.join("server.log")
}

fn ends_within(process: &OwnedFd, patience: Duration) -> bool {
    let timeout = Timespec::try_from(patience).ok();
    poll(&mut [PollFd::new(process, PollFlags::IN)], timeout.as_ref()).is_ok_and(|ready| ready > 0)
}

/// Ports that were free a moment ago, all different.
fn free_ports<const PORTS: usize>() -> [u16; PORTS] {
    let held: [TcpListener; PORTS] =
        std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").expect("a free port on loopback"));
    held.map(|listener| listener.local_addr().expect("a bound socket has an address").port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};

    fn shell(script: &str) -> Vec<OsString> {
        ["/bin/sh", "-c", script].map(OsString::from).to_vec()
    }

    #[test]
    fn ends_and_leaves_nothing_when_dropped() {
        let started = |dir: &Path, [_]: [u16; 1]| {
            fs::write(dir.join("a"), "a").unwrap();
            shell("exec sleep 1000")
        };
        let (process, _) = Process::start("sleep", started, |_| true);
        let (server, dir) = (process.ended.try_clone().unwrap(), process.dir().to_owned());
        assert!(dir.join("a").exists());
        drop(process);
        assert!(ends_within(&server, Duration::ZERO));
        assert!(!dir.exists());
    }

    #[test]
    #[should_panic(expected = "its log:\nno such thing")]
    fn says_why_a_server_did_not_start() {
        Process::start("shell", |_, [_]: [u16; 1]| shell("echo no such thing; exit 1"), |_| false);
    }

    #[test]
    fn a_port_that_was_taken_in_between_is_tried_again() {
        let mut ports = Vec::new();
        let command = |_: &Path, [port]: [u16; 1]| {
            ports.push(port);
            shell(if ports.len() < 3 { "echo address already in use; exit 1" } else { "exec sleep 1000" })
        };
        let mut looks = 0;
        let answers = |_| {
            looks += 1;
            looks > 20
        };
        let (_process, [port]) = Process::start("sleep", command, answers);
        assert_eq!(ports.last(), Some(&port));
    }

    /// Runs as a process of its own, which is killed: the server in it must not outlive it.
    #[test]
    fn a_killed_test_leaves_nothing_behind() {
        const ROLE: &str = "LARDER_TEST_SERVERS_VICTIM";
        if std::env::var_os(ROLE).is_some() {
            let (process, _) = Process::start("sleep", |_, [_]: [u16; 1]| shell("exec sleep 1000"), |_| true);
            println!("victim {} {}", process.server.id(), process.dir().display());
            std::io::stdin().read_line(&mut String::new()).unwrap();
            unreachable!("killed while it waits");
        }
        let mut victim = Command::new(std::env::current_exe().unwrap());
        victim.args(["--exact", "--nocapture", "process::tests::a_killed_test_leaves_nothing_behind"]).env(ROLE, "1");
        let mut victim = victim.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines().map_while(Result::ok);
        let line = lines.find_map(|line| Some(line.split_once("victim ")?.1.to_owned())).unwrap();
        let (server, dir) = line.split_once(' ').unwrap();
        let server = Pid::from_raw(server.parse().unwrap()).unwrap();
        let ended = pidfd_open(server, PidfdFlags::empty()).unwrap();
        victim.kill().unwrap();
        victim.wait().unwrap();
        assert!(ends_within(&ended, Duration::from_secs(30)));
        let deadline = Instant::now() + Duration::from_secs(30);
        while Path::new(dir).exists() {
            assert!(Instant::now() < deadline, "{dir} is still there");
            std::thread::yield_now();
        }
    }
}
