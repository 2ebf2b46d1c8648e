//! One machine: a home, the user's folders, and the node that runs there.

use crate::{
    bins,
    eventually::{PATIENCE, eventually},
    json,
    process::{Finished, Invocation, ProcessHandle, Running},
};
use serde_json::Value;
use std::{
    ffi::OsStr,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// What a machine's `config.toml` says. It always listens on loopback only, on any port, and looks for nobody.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// News are pushed at once.
    pub gossip: bool,
    /// Seconds between rounds of anti-entropy; 0 switches them off.
    pub tick_seconds: f64,
    /// Seconds of quiet before SHA-256 are computed; `None` computes none, so that nothing changes behind a story's back.
    pub sha256_after_seconds: Option<f64>,
    /// Statements that another device may make in a day; `None` leaves the built-in limit.
    pub statements_per_day: Option<u32>,
    /// Seconds after which the custodian takes away what nothing refers to; `None` leaves the built-in time.
    pub sweep_after_seconds: Option<u32>,
    /// MiB that a gateway keeps of each cloud; `None` leaves the built-in bound.
    pub cloud_cache_mib: Option<u32>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            gossip: true,
            tick_seconds: 60.0,
            sha256_after_seconds: None,
            statements_per_day: None,
            sweep_after_seconds: None,
            cloud_cache_mib: None,
        }
    }
}

impl Settings {
    fn write(self, home: &Path) {
        let Self { gossip, tick_seconds, sha256_after_seconds, statements_per_day, .. } = self;
        let (sha256, after) = (sha256_after_seconds.is_some(), sha256_after_seconds.unwrap_or(5.0));
        let text = format!(
            "[network]\nlisten = [\"127.0.0.1:0\"]\nmdns = false\ngossip = {gossip}\n\n\
             [sync]\ntick_seconds = {tick_seconds:?}\n\n\
             [catalog]\nsha256 = {sha256}\nsha256_after_seconds = {after:?}\n"
        );
        let limit = statements_per_day.map(|count| format!("\n[limits]\nstatements_per_day = {count}\n"));
        let sweep = self.sweep_after_seconds.map(|after| format!("sweep_after_seconds = {after}\n"));
        let cache = self.cloud_cache_mib.map(|mib| format!("cache_mib = {mib}\n"));
        let clouds = format!("\n[clouds]\n{}{}", sweep.unwrap_or_default(), cache.unwrap_or_default());
        fs::create_dir_all(home).unwrap();
        let text = text + &limit.unwrap_or_default() + &clouds;
        fs::write(home.join("config.toml"), text).unwrap();
    }
}

/// A machine. Its node ends with the [`World`](crate::World) that it belongs to.
#[derive(Debug, Clone)]
pub struct Node {
    name: String,
    root: PathBuf,
    home: PathBuf,
}

impl Node {
    pub(crate) fn new(name: &str, root: &Path, settings: Settings) -> Self {
        Self::at(name, root, &root.join("home"), settings)
    }

    /// A machine whose home is at a path of the story's choice.
    pub fn at(name: &str, root: &Path, home: &Path, settings: Settings) -> Self {
        settings.write(home);
        fs::create_dir_all(root.join("user")).unwrap();
        Self { name: name.to_owned(), root: root.to_owned(), home: home.to_owned() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder that `--home` names.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Changes the settings; the next start of the node reads them.
    pub fn configure(&self, settings: Settings) {
        settings.write(&self.home);
    }

    /// A folder of the user, made when it is not there.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// A path below the user's folder; nothing is made.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join("user").join(name)
    }

    /// A `larder` command on this machine, run in the user's folder, with `--json`.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Invocation {
        self.bare_command(args).args(["--json"])
    }

    /// The same without `--json`.
    pub fn bare_command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Invocation {
        let user = self.root.join("user");
        Invocation::new(&bins::larder(), &user)
            .env("HOME", &user)
            .env("TMPDIR", std::env::temp_dir())
            .args([OsStr::new("--home"), self.home.as_os_str()])
            .args(args)
    }

    /// A command after a line of shell that limits what it may use, such as `ulimit -n 80`.
    pub fn limited<S: AsRef<OsStr>>(&self, limit: &str, args: impl IntoIterator<Item = S>) -> Invocation {
        let user = self.root.join("user");
        Invocation::new(Path::new("/bin/sh"), &user)
            .env("HOME", &user)
            .env("TMPDIR", std::env::temp_dir())
            .args(["-c", &format!("{limit}; exec \"$0\" \"$@\"")])
            .args([bins::larder().as_os_str(), OsStr::new("--home"), self.home.as_os_str()])
            .args(args)
    }

    /// Runs a command.
    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Finished {
        self.command(args).run()
    }

    /// Runs a command that must succeed.
    #[track_caller]
    pub fn ok<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Finished {
        self.run(args).expect(0)
    }

    /// Runs a command that must succeed and print one object.
    #[track_caller]
    pub fn object<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Value {
        self.ok(args).object()
    }

    /// Runs a command that must succeed, and gives the objects that it prints.
    #[track_caller]
    pub fn objects<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Vec<Value> {
        self.ok(args).objects()
    }

    /// Runs a command that must fail in a certain way, and gives its last error.
    ///
    /// # Panics
    /// When it succeeds or fails otherwise.
    #[track_caller]
    pub fn fails<S: AsRef<OsStr>>(&self, code: i32, kind: &str, args: impl IntoIterator<Item = S>) -> Value {
        let finished = self.run(args).expect(code);
        let error = finished.errors().pop().unwrap_or_else(|| panic!("no error object: {finished:?}"));
        json::has_fields(&error, &["kind", "subject", "message", "hint", "retry"]);
        assert_eq!(error["kind"], kind, "{finished:?}");
        error
    }

    /// Starts a command whose progress can be watched.
    #[track_caller]
    pub fn start<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Running {
        self.command(args).args(["--progress", "json"]).start()
    }

    /// Makes this machine the first of a group, and starts its node.
    #[track_caller]
    pub fn found(&self) {
        self.ok(["init", "--name", &self.name]);
        self.up();
    }

    /// Starts the node.
    #[track_caller]
    pub fn up(&self) {
        self.ok(["up"]);
    }

    /// Stops the node.
    #[track_caller]
    pub fn down(&self) {
        self.ok(["down"]);
    }

    /// The process of the running node.
    ///
    /// # Panics
    /// When not exactly one runs in this home.
    #[track_caller]
    pub fn process(&self) -> ProcessHandle {
        let home = self.home.as_os_str().as_encoded_bytes();
        let is_node = |args: &[&[u8]]| args.contains(&home) && args.contains(&&b"up"[..]);
        let mut found = ProcessHandle::find(is_node);
        assert_eq!(found.len(), 1, "nodes of {}: {found:?}", self.name);
        found.remove(0)
    }

    /// SIGKILL to the node: what a power cut is to a process.
    #[track_caller]
    pub fn kill(&self) {
        self.process().kill();
    }

    /// A code with which another machine joins.
    #[track_caller]
    pub fn invite(&self) -> String {
        json::text(&self.object(["invite"]), "code").to_owned()
    }

    /// Joins a group with a code, which also starts the node.
    #[track_caller]
    pub fn join(&self, code: &str) -> Value {
        self.object(["join", code, "--name", &self.name])
    }

    /// Adds a folder as a location and indexes it; gives the summary.
    #[track_caller]
    pub fn add(&self, name: &str, folder: &Path) -> Value {
        self.ok([OsStr::new("location"), OsStr::new("add"), OsStr::new(name), folder.as_os_str()]);
        self.object(["index", name])
    }

    /// Adds an empty sealed location.
    #[track_caller]
    pub fn add_sealed(&self, name: &str, folder: &Path) {
        let folder = folder.to_str().expect("stories use UTF-8 paths");
        self.ok(["location", "add", name, folder, "--profile", "sealed"]);
    }

    /// Adds a profile of a cloud that nobody answers for, and keeps a credential for it untried.
    #[track_caller]
    pub fn keep_credential(&self, profile: &str) {
        let set = ["--set", "endpoint=http://127.0.0.1:9", "--set", "bucket=none"];
        self.ok(["profile", "add", profile, "--provider", "s3"].iter().chain(&set));
        let values = "access_key_id=id\nsecret_access_key=secret\n";
        self.command(["credential", "set", profile, "--no-test"]).stdin(values.to_owned()).run().expect(0);
    }

    /// Waits until a query has a hit with this content, and gives it.
    #[track_caller]
    pub fn finds(&self, query: &str, content: &str) -> Value {
        eventually(&format!("{} finds {query}", self.name), || {
            let hits = self.objects(["find", query]);
            hits.iter().find(|hit| hit["content_id"] == content).cloned().ok_or(hits)
        })
    }

    /// Waits until a content is known here, and gives what `where` says.
    #[track_caller]
    pub fn knows(&self, reference: &str) -> Value {
        self.eventually_where(reference, |_| true)
    }

    /// Waits until what `where` says satisfies, and gives it.
    #[track_caller]
    pub fn eventually_where(&self, reference: &str, satisfies: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("{}: where {reference}", self.name), || {
            let answer = self.run(["where", reference]);
            match answer.code() {
                Some(0) if satisfies(&answer.object()) => Ok(answer.object()),
                _ => Err(answer),
            }
        })
    }

    /// Waits until a location is known here.
    #[track_caller]
    pub fn knows_location(&self, name: &str) {
        eventually(&format!("{} knows location {name}", self.name), || {
            let answer = self.run(["location", "show", name]);
            if answer.code() == Some(0) { Ok(()) } else { Err(answer) }
        });
    }

    /// Waits until another device is seen online, or off.
    #[track_caller]
    pub fn sees(&self, other: &Node, online: bool) {
        eventually(&format!("{} sees {} online: {online}", self.name, other.name), || {
            let status = self.object(["status"]);
            let peers = json::list(&status, "peers");
            let seen = peers.iter().any(|peer| peer["name"] == other.name.as_str() && peer["online"] == online);
            if seen { Ok(()) } else { Err(status) }
        });
    }

    /// The digest of the catalog.
    #[track_caller]
    pub fn digest(&self) -> String {
        json::text(&self.object(["catalog", "digest"]), "digest").to_owned()
    }

    /// Waits for the node's own end, for example after it was told to stop.
    ///
    /// # Panics
    /// When it does not end in time.
    #[track_caller]
    pub fn ends(process: &ProcessHandle) {
        assert!(process.ends_within(PATIENCE), "process {} did not end", process.id());
    }
}

/// The socket address in an address as `status` prints it: `host:port`, with or without a scheme, or a multiaddress.
pub fn socket_address(text: &str) -> Option<SocketAddr> {
    if let Some(address) = text.rsplit('/').next().and_then(|last| last.parse().ok()) {
        return Some(address);
    }
    let mut parts = text.split('/').skip_while(|part| !["ip4", "ip6"].contains(part)).skip(1);
    let ip = parts.next()?.parse().ok()?;
    parts.next();
    Some(SocketAddr::new(ip, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_every_form() {
        for text in ["127.0.0.1:7", "quic://127.0.0.1:7", "/ip4/127.0.0.1/tcp/7", "/ip4/127.0.0.1/udp/7/quic-v1"] {
            assert_eq!(socket_address(text), Some(([127, 0, 0, 1], 7).into()), "{text}");
        }
        assert_eq!(socket_address("nothing"), None);
    }
}
