//! The stage: folders, nodes as processes, and the narration.

use super::Failure;
use crate::render;
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

/// How long the story waits for news to arrive.
const PATIENCE: Duration = Duration::from_secs(30);

/// Folders and nodes of one demo.
pub(super) struct Stage {
    root: PathBuf,
    keep: bool,
    nodes: Vec<Node>,
    proven: Vec<String>,
    program: PathBuf,
}

/// One node: a home, and whether its process should be running.
struct Node {
    name: &'static str,
    home: PathBuf,
    up: bool,
}

/// What a command answered.
pub(super) struct Answer {
    pub(super) code: i32,
    /// Objects printed to stdout.
    pub(super) objects: Vec<Value>,
    pub(super) stdout: Vec<u8>,
    stderr: String,
}

impl Answer {
    /// The first object.
    pub(super) fn object(&self) -> Result<&Value, Failure> {
        self.objects.first().ok_or_else(|| format!("no answer: {}", self.stderr).into())
    }

    /// The kind of the last error.
    pub(super) fn error_kind(&self) -> Option<String> {
        let last = self.stderr.lines().rev().find_map(|line| serde_json::from_str::<Value>(line).ok())?;
        Some(last["error"]["kind"].as_str()?.to_owned())
    }
}

impl Stage {
    pub(super) fn new(keep: bool) -> Result<Self, Failure> {
        let root = std::env::temp_dir().join(format!("larder-demo-{}", std::process::id()));
        fs::create_dir(&root)?;
        Ok(Self { root, keep, nodes: Vec::new(), proven: Vec::new(), program: std::env::current_exe()? })
    }

    /// A folder of the demo, made when it is not there.
    pub(super) fn folder(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = self.root.join(name);
        fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// Adds a machine: its home listens on loopback only and looks for nobody on the network.
    pub(super) fn machine(&mut self, name: &'static str) -> Result<(), Failure> {
        let home = self.folder(&format!("{name}/home"))?;
        fs::write(home.join("config.toml"), "[network]\nlisten = [\"127.0.0.1:0\"]\nmdns = false\n")?;
        self.nodes.push(Node { name, home, up: false });
        Ok(())
    }

    fn node(&mut self, name: &str) -> Result<&mut Node, Failure> {
        self.nodes.iter_mut().find(|node| node.name == name).ok_or_else(|| format!("no machine {name}").into())
    }

    /// Runs a command on a machine, shows it, and gives its answer whatever the exit code.
    pub(super) fn try_run(&mut self, name: &str, args: &[&str]) -> Result<Answer, Failure> {
        let shown: Vec<String> = args.iter().map(|arg| self.shorten(arg)).collect();
        render::line(&format!("  {name}$ larder {}", shown.join(" ")));
        self.silent(name, args)
    }

    fn silent(&mut self, name: &str, args: &[&str]) -> Result<Answer, Failure> {
        let program = self.program.clone();
        let node = self.node(name)?;
        let Output { status, stdout, stderr } = Command::new(program)
            .arg("--home")
            .arg(&node.home)
            .args(["--json", "--progress", "none"])
            .args(args)
            .env_remove("LARDER_HOME")
            .stdin(Stdio::null())
            .output()?;
        match args[0] {
            "up" | "join" if status.success() => node.up = true,
            "down" if status.success() => node.up = false,
            _ => {}
        }
        let objects =
            String::from_utf8_lossy(&stdout).lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        Ok(Answer { code: status.code().unwrap_or(-1), objects, stdout, stderr })
    }

    /// Runs a command that must succeed.
    pub(super) fn run(&mut self, name: &str, args: &[&str]) -> Result<Answer, Failure> {
        let answer = self.try_run(name, args)?;
        if answer.code == 0 {
            Ok(answer)
        } else {
            Err(format!("{name}: larder {} ended with {}: {}", args.join(" "), answer.code, answer.stderr).into())
        }
    }

    /// Asks again until the answer satisfies, as a user would who waits for news.
    pub(super) fn until(
        &mut self,
        name: &str,
        args: &[&str],
        satisfies: impl Fn(&Answer) -> bool,
    ) -> Result<Answer, Failure> {
        let deadline = Instant::now() + PATIENCE;
        let mut answer = self.try_run(name, args)?;
        while !satisfies(&answer) {
            if Instant::now() > deadline {
                let text = String::from_utf8_lossy(&answer.stdout).into_owned();
                return Err(format!("{name}: larder {}: still {text}{}", args.join(" "), answer.stderr).into());
            }
            std::thread::sleep(Duration::from_millis(50));
            answer = self.silent(name, args)?;
        }
        Ok(answer)
    }

    /// Begins a chapter.
    pub(super) fn chapter(&self, title: &str) {
        render::line(&format!("\n{title}"));
    }

    /// Says something.
    pub(super) fn say(&self, text: &str) {
        render::line(&format!("    {}", render::escape(text)));
    }

    /// A claim that must hold.
    pub(super) fn prove(&mut self, holds: bool, claim: &str) -> Result<(), Failure> {
        if !holds {
            return Err(claim.to_owned().into());
        }
        render::line(&format!("    ✓ {claim}"));
        self.proven.push(claim.to_owned());
        Ok(())
    }

    fn shorten(&self, text: &str) -> String {
        let text = text.replace(&format!("{}/", self.root.display()), "");
        let shown = if text.starts_with("larder1") { "larder1…".to_owned() } else { text };
        if shown.contains(' ') { format!("'{shown}'") } else { shown }
    }

    /// Ends the demo: stops the nodes and removes the folders, or leaves all and says what to try.
    pub(super) fn finish(mut self) -> Result<(), Failure> {
        render::line(&format!("\nProved, with three processes on this machine ({} claims):", self.proven.len()));
        for claim in std::mem::take(&mut self.proven) {
            render::line(&format!("  ✓ {claim}"));
        }
        if !self.keep {
            self.stop_all()?;
            fs::remove_dir_all(&self.root)?;
            return Ok(());
        }
        render::line("\nThe nodes go on running. Try, for example:");
        let home = |name: &str| self.root.join(name).join("home").display().to_string();
        for (name, rest) in [
            ("desktop", "find beach"),
            ("desktop", "status"),
            ("nas", "where photos:holiday/beach.jpg"),
            ("laptop", "log"),
        ] {
            render::line(&format!("  larder --home {} {rest}", home(name)));
        }
        render::line("and when you are done:");
        for node in &self.nodes {
            render::line(&format!("  larder --home {} down", node.home.display()));
        }
        render::line(&format!("  rm -r {}", self.root.display()));
        self.nodes.clear();
        Ok(())
    }

    /// After a failure: stops the nodes and leaves the folders.
    pub(super) fn keep_for_inspection(&mut self) {
        eprintln!("larder: the demo's folders are left in {}", self.root.display());
    }

    fn stop_all(&mut self) -> Result<(), Failure> {
        let running: Vec<_> = self.nodes.iter().filter(|node| node.up).map(|node| node.name).collect();
        for name in running {
            self.silent(name, &["down"])?;
        }
        Ok(())
    }

    /// The home of a machine.
    pub(super) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(failure) = self.stop_all() {
            eprintln!("larder: {failure}");
        }
    }
}

/// A path as text; the demo makes its own, which are UTF-8.
pub(super) fn text(path: &Path) -> Result<&str, Failure> {
    path.to_str().ok_or_else(|| format!("{} is not UTF-8", path.display()).into())
}
