//! Running a command: cleared environment, captured output, exit code, deadline, end by process id.

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use serde_json::Value;
use std::{
    ffi::{OsStr, OsString},
    fmt,
    io::{BufRead, BufReader, Write},
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How long a command may take unless it says otherwise.
const DEADLINE: Duration = Duration::from_secs(120);

/// A command that has not been run.
#[derive(Debug, Clone)]
pub struct Invocation {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    dir: PathBuf,
    stdin: Vec<u8>,
    deadline: Duration,
}

impl Invocation {
    /// A command that runs in `dir`. It sees no variable of the tests' own environment.
    pub fn new(program: &Path, dir: &Path) -> Self {
        let env = [("PATH", "/usr/local/bin:/usr/bin:/bin"), ("LANG", "C.UTF-8"), ("RUST_BACKTRACE", "1")];
        Self {
            program: program.to_owned(),
            args: Vec::new(),
            env: env.map(|(name, value)| (name.into(), value.into())).to_vec(),
            dir: dir.to_owned(),
            stdin: Vec::new(),
            deadline: DEADLINE,
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// What the command reads; nothing otherwise.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// How long it may take.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// When it cannot be started, or does not end within its deadline.
    #[track_caller]
    pub fn run(self) -> Finished {
        self.start().wait()
    }

    /// Starts it and returns at once.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn start(self) -> Running {
        let shown = self.to_string();
        let mut child = Command::new(&self.program)
            .args(&self.args)
            .env_clear()
            .envs(self.env)
            .current_dir(&self.dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{shown}: {error}"));
        let handle = ProcessHandle::of_child(&child);
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let bytes = self.stdin;
        // A command that does not read its input closes it: no failure of the harness.
        thread::spawn(move || stdin.map(|mut stdin| stdin.write_all(&bytes)));
        let (send_output, stdout_lines) = channel();
        let stdout = thread::spawn(move || {
            let (mut bytes, mut begin) = (Vec::new(), 0);
            let mut stdout = stdout.map(BufReader::new);
            while let Some(Ok(1..)) = stdout.as_mut().map(|stdout| stdout.read_until(b'\n', &mut bytes)) {
                let _ = send_output.send(bytes[begin..].to_vec());
                begin = bytes.len();
            }
            bytes
        });
        let (send_line, stderr_lines) = channel();
        let stderr = thread::spawn(move || {
            let mut all = String::new();
            for line in stderr.map(BufReader::new).into_iter().flat_map(BufRead::lines).map_while(Result::ok) {
                all += &line;
                all.push('\n');
                let _ = send_line.send(line);
            }
            all
        });
        let (ended, exit) = channel();
        thread::spawn(move || ended.send(child.wait()));
        let deadline = Instant::now() + self.deadline;
        Running {
            shown,
            handle,
            stdout: Some(stdout),
            stderr: Some(stderr),
            stdout_lines,
            stderr_lines,
            exit,
            deadline,
            over: false,
        }
    }
}

impl fmt::Display for Invocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.program.file_name().unwrap_or_default().to_string_lossy())?;
        self.args.iter().try_for_each(|arg| write!(f, " {}", arg.to_string_lossy()))
    }
}

/// A command that runs. Dropping it ends it.
pub struct Running {
    shown: String,
    handle: ProcessHandle,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<String>>,
    stdout_lines: Receiver<Vec<u8>>,
    stderr_lines: Receiver<String>,
    exit: Receiver<std::io::Result<ExitStatus>>,
    deadline: Instant,
    over: bool,
}

impl Running {
    /// The next object on stderr that satisfies, such as a progress event; `None` when stderr ended before.
    ///
    /// # Panics
    /// When the deadline passes first.
    #[track_caller]
    pub fn watch(&mut self, mut satisfies: impl FnMut(&Value) -> bool) -> Option<Value> {
        loop {
            match self.stderr_lines.recv_timeout(self.deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Some(value) = serde_json::from_str(&line).ok().filter(&mut satisfies) {
                        return Some(value);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => panic!("{}: nothing to be seen within its deadline", self.shown),
            }
        }
    }

    /// The next object on stdout, while the command goes on.
    ///
    /// # Panics
    /// When the deadline passes first, or stdout ends or holds anything else.
    #[track_caller]
    pub fn next_object(&mut self) -> Value {
        let left = self.deadline.saturating_duration_since(Instant::now());
        match self.stdout_lines.recv_timeout(left) {
            Ok(line) => serde_json::from_slice(&line).unwrap_or_else(|error| panic!("{}: {error}", self.shown)),
            Err(error) => panic!("{}: no further object: {error}", self.shown),
        }
    }

    /// SIGKILL.
    pub fn kill(&self) {
        self.handle.signal(Signal::KILL);
    }

    /// SIGINT, as Ctrl-C sends it.
    pub fn interrupt(&self) {
        self.handle.signal(Signal::INT);
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When its deadline passes first; it is killed then.
    #[track_caller]
    pub fn wait(mut self) -> Finished {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let exit = self.exit.recv_timeout(left);
        self.over = exit.is_ok();
        if !self.over {
            self.kill();
        }
        // Both readers end when the last holder of the pipe is gone; a node in the background must not be one.
        let stdout = self.stdout.take().and_then(|reader| reader.join().ok()).unwrap_or_default();
        let stderr = self.stderr.take().and_then(|reader| reader.join().ok()).unwrap_or_default();
        match exit {
            Ok(Ok(status)) => Finished { shown: self.shown.clone(), status, stdout, stderr },
            Ok(Err(error)) => panic!("{}: {error}", self.shown),
            Err(_) => panic!("{} did not end within its deadline; stderr: {stderr}", self.shown),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.over {
            self.kill();
        }
    }
}

/// A command that ended.
pub struct Finished {
    shown: String,
    status: ExitStatus,
    /// What it wrote to stdout.
    pub stdout: Vec<u8>,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Finished {
    /// Its exit code; `None` when a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The signal that ended it.
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// Stdout as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Demands an exit code.
    ///
    /// # Panics
    /// When it ended with another one.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code(), Some(code), "exit code of {self:?}");
        self
    }

    /// The objects on stdout, one a line.
    ///
    /// # Panics
    /// When a line is no JSON.
    #[track_caller]
    pub fn objects(&self) -> Vec<Value> {
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {self:?}"));
        self.text().lines().map(parse).collect()
    }

    /// The only object on stdout.
    ///
    /// # Panics
    /// When there is none, or more than one.
    #[track_caller]
    pub fn object(&self) -> Value {
        match &self.objects()[..] {
            [one] => one.clone(),
            _ => panic!("expected one object: {self:?}"),
        }
    }

    /// The errors on stderr, in order: what is inside `{"error": …}`.
    pub fn errors(&self) -> Vec<Value> {
        let parsed = self.stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        parsed.filter_map(|value| value.get("error").cloned()).collect()
    }

    /// The kind of the last error.
    pub fn error_kind(&self) -> Option<String> {
        Some(self.errors().last()?["kind"].as_str()?.to_owned())
    }
}

impl fmt::Debug for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cut = |text: &str| text.chars().take(4000).collect::<String>();
        write!(f, "`{}`: {}\nstdout: {}\nstderr: {}", self.shown, self.status, cut(&self.text()), cut(&self.stderr))
    }
}

/// A process that is known for certain: its id cannot be taken over by another one while this exists.
#[derive(Debug)]
pub struct ProcessHandle {
    pid: Pid,
    fd: OwnedFd,
}

impl ProcessHandle {
    fn of_child(child: &Child) -> Self {
        let pid = Pid::from_child(child);
        // Nobody waits for the child yet, so the id is still its own.
        let fd = pidfd_open(pid, PidfdFlags::empty()).expect("a child that nobody waited for can be opened");
        Self { pid, fd }
    }

    /// Every process whose arguments satisfy.
    pub fn find(mut satisfies: impl FnMut(&[&[u8]]) -> bool) -> Vec<Self> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw)
            else {
                continue;
            };
            let mut fits = || {
                let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
                let args: Vec<_> = line.strip_suffix(b"\0").unwrap_or(&line).split(|byte| *byte == 0).collect();
                satisfies(&args)
            };
            // Looked at again once it is held: the id may have changed hands in between.
            if fits()
                && let Ok(fd) = pidfd_open(pid, PidfdFlags::empty())
                && fits()
            {
                found.push(Self { pid, fd });
            }
        }
        found
    }

    /// Its id.
    pub fn id(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Sends a signal; a process that is gone already is fine.
    pub fn signal(&self, signal: Signal) {
        let _ = pidfd_send_signal(&self.fd, signal);
    }

    /// Whether it ends within a time.
    pub fn ends_within(&self, patience: Duration) -> bool {
        let timeout = Timespec::try_from(patience).ok();
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        poll(&mut fds, timeout.as_ref()).is_ok_and(|ready| ready > 0)
    }

    /// SIGKILL, and waits until it is gone.
    ///
    /// # Panics
    /// When it survives for 10 seconds.
    #[track_caller]
    pub fn kill(&self) {
        self.signal(Signal::KILL);
        assert!(self.ends_within(Duration::from_secs(10)), "process {} survived SIGKILL", self.id());
    }
}

/// Does something while a process is stopped, as it looks to others when the network is cut; then lets it go on.
pub fn stop_and_go<T>(process: &ProcessHandle, meanwhile: impl FnOnce() -> T) -> T {
    struct GoesOn<'a>(&'a ProcessHandle);
    impl Drop for GoesOn<'_> {
        fn drop(&mut self) {
            self.0.signal(Signal::CONT);
        }
    }
    process.signal(Signal::STOP);
    let _goes_on = GoesOn(process);
    meanwhile()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Invocation {
        Invocation::new(Path::new("/bin/sh"), Path::new("/")).args(["-c", script])
    }

    #[test]
    fn captures_what_a_command_does() {
        let finished = shell("cat; echo '{\"error\":{\"kind\":\"odd\"}}' >&2; exit 7").stdin("{\"a\":1}\n").run();
        let finished = finished.expect(7);
        assert_eq!(finished.object()["a"], 1);
        assert_eq!(finished.error_kind().as_deref(), Some("odd"));
    }

    #[test]
    fn the_environment_is_cleared() {
        let env = shell("env").env("LARDER_X", "1").run().expect(0).text();
        let mut names: Vec<_> = env.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
        names.retain(|name| !["PWD", "OLDPWD", "SHLVL", "_"].contains(name));
        names.sort_unstable();
        assert_eq!(names, ["LANG", "LARDER_X", "PATH", "RUST_BACKTRACE"]);
    }

    #[test]
    fn a_running_command_is_watched_and_killed() {
        let mut running = shell("echo '{\"n\":1}' >&2; echo '{\"n\":2}' >&2; exec sleep 1000").start();
        assert!(running.watch(|value| value["n"] == 2).is_some());
        running.kill();
        assert_eq!(running.wait().signal(), Some(9));
    }

    #[test]
    #[should_panic(expected = "did not end within its deadline")]
    fn a_command_that_hangs_is_ended() {
        shell("echo here >&2; exec sleep 1000").deadline(Duration::from_millis(200)).run();
    }
}
