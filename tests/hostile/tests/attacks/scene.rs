//! A node under attack, an honest member beside it, and a member that turns.

use larder_tests::{
    Finished, Invocation, Node, Running, Settings, World, cluster, data, eventually, json, node::socket_address,
};
use serde_json::Value;
use std::{
    fs,
    net::SocketAddr,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// Memory by which the node may grow under one attack, in bytes.
pub const GROWTH_MAX: u64 = 64 << 20;
/// Size of the content that liars lie about.
pub const LIE_BYTES: u64 = 40_000;

/// The machines.
pub struct Scene {
    pub world: World,
    /// Under attack.
    pub victim: Node,
    /// Honest.
    pub friend: Node,
    /// A member whose node is down, and whose home the attacker takes.
    pub mallory: Node,
    /// A large content that the node serves.
    pub large: String,
    counter: u64,
}

impl Scene {
    pub fn new() -> Self {
        Self::with(Settings::default())
    }

    /// A scene with settings of its own.
    pub fn with(settings: Settings) -> Self {
        let world = World::new();
        // Rounds of anti-entropy are frequent: whatever gossip was talked out of comes by them.
        let settings = Settings { tick_seconds: 1.0, ..settings };
        let [victim, friend, mallory] = world.group_with(["victim", "friend", "mallory"], settings);
        let (shelf, desk) = (victim.folder("shelf"), friend.folder("desk"));
        let large = data::file(&shelf.join("large.bin"), 1, 20 << 20);
        victim.add("shelf", &shelf);
        data::file(&desk.join("paper.txt"), 2, LIE_BYTES);
        friend.add("desk", &desk);
        victim.finds("paper", json::text(&friend.objects(["find", "paper"])[0], "content_id"));
        mallory.finds("large", &large);
        cluster::agree(&[victim.clone(), friend.clone(), mallory.clone()]);
        mallory.down();
        Self { world, victim, friend, mallory, large, counter: 100 }
    }

    /// What the attacker is told.
    pub fn task(&self, member: bool, more: Value) -> Value {
        let status = self.victim.object(["status"]);
        let id = json::text(&status, "device_id").to_owned();
        let mut task = serde_json::json!({
            "device": id,
            "control": json::list(&status, "listen"),
            "content": self.large.trim_start_matches("blake3:"),
            "seconds": long_seconds(),
        });
        if member {
            task["home"] = self.mallory.home().to_str().into();
        }
        for (key, value) in more.as_object().into_iter().flatten() {
            task[key] = value.clone();
        }
        task
    }

    /// Begins an attack; returns when the attacker is connected.
    pub fn attack(&self, name: &str, member: bool, more: Value) -> Running {
        start(&self.world, name, &self.task(member, more))
    }

    /// Honest life: a new file at one end is found and fetched at the other, in both directions.
    pub fn goes_on(&mut self) {
        self.counter += 1;
        let number = self.counter;
        let exchange = |from: &Node, to: &Node, folder: &str, location: &str| {
            let name = format!("honest-{number}-{location}");
            let id = data::file(&from.folder(folder).join(&name), number, 30_000);
            from.object(["index", location]);
            to.finds(&name, &id);
            let target = to.folder("fetched");
            to.ok(["get", &id, "-o", target.join(&name).to_str().unwrap()]);
            assert!(target.join(&name).is_file(), "{name} was not fetched");
        };
        exchange(&self.friend, &self.victim, "desk", "desk");
        exchange(&self.victim, &self.friend, "shelf", "shelf");
    }

    /// Both honest nodes live and agree, and have not lost what they knew.
    pub fn is_unharmed(&self) {
        cluster::agree(&[self.victim.clone(), self.friend.clone()]);
        for node in [&self.victim, &self.friend] {
            node.finds("large", &self.large);
            let log = self.log(node);
            assert!(!log.contains("panicked"), "{}: {log}", node.name());
        }
    }

    /// The log of a node.
    pub fn log(&self, node: &Node) -> String {
        let logs = data::files(&node.home().join("..")).into_iter();
        let is_log = |path: &PathBuf| path.parent().and_then(Path::file_name).is_some_and(|name| name == "logs");
        logs.filter(is_log).filter_map(|path| fs::read_to_string(path).ok()).collect()
    }

    /// The attacker's device id as logs write it.
    pub fn mallory_id(&self) -> String {
        let status = self.victim.object(["status"]);
        let peers = json::list(&status, "peers");
        let found =
            peers.iter().find(|peer| !["friend", "victim"].contains(&peer["name"].as_str().unwrap_or_default()));
        json::text(found.expect("the member is listed"), "device_id").to_owned()
    }
}

/// Begins an attack; returns when the attacker is connected.
pub fn start(world: &World, name: &str, task: &Value) -> Running {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_larder-hostile"));
    let deadline = Duration::from_secs(90 + long_seconds() * 3 / 2);
    let dir = world.folder("attacker");
    let mut running = Invocation::new(&program, &dir).args([name]).stdin(task.to_string()).deadline(deadline).start();
    assert_eq!(running.next_object()["ready"], true);
    running
}

/// Seconds that each attack goes on; 0 for one round.
pub fn long_seconds() -> u64 {
    std::env::var("LARDER_LONG").ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Memory of a process: how much it has now, and the most since [`Memory::begin`].
pub struct Memory {
    process: i32,
    before: u64,
}

impl Memory {
    /// Begins to watch a node.
    pub fn begin(node: &Node) -> Self {
        let process = node.process().id();
        // The kernel begins its high-water mark anew.
        fs::write(format!("/proc/{process}/clear_refs"), "5").unwrap();
        Self { process, before: Self::read(process, "VmRSS:") }
    }

    fn read(process: i32, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{process}/status")).expect("the node lives");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// The most by which it has grown.
    pub fn growth(&self) -> u64 {
        Self::read(self.process, "VmHWM:").saturating_sub(self.before)
    }
}

/// What the attacker reports at its end.
pub fn report(name: &str, running: Running) -> Value {
    let finished: Finished = running.wait();
    assert_eq!(finished.code(), Some(0), "{name}: {finished:?}");
    finished.objects().pop().unwrap_or_default()
}

/// How long something took.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    (work(), start.elapsed())
}

/// Waits for a condition.
pub fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    eventually(what, || if holds() { Ok(()) } else { Err("not yet") });
}

impl Scene {
    /// Where the victim serves data, as its device record says it.
    pub fn data_addresses(&self) -> Vec<String> {
        let control: Vec<SocketAddr> = listening(&self.victim);
        let tcp = self.tcp_addresses().into_iter().filter(|address| !control.contains(address));
        let udp = self.udp_addresses().into_iter().filter(|address| !control.contains(address));
        tcp.map(|address| format!("tcp://{address}")).chain(udp.map(|address| format!("udp://{address}"))).collect()
    }

    /// Every TCP socket that the victim listens on.
    pub fn tcp_addresses(&self) -> Vec<SocketAddr> {
        sockets(self.victim.process().id(), "tcp", "0A")
    }

    /// Every UDP socket of the victim.
    pub fn udp_addresses(&self) -> Vec<SocketAddr> {
        udp_sockets(&self.victim)
    }
}

/// Every UDP socket of a node.
pub fn udp_sockets(node: &Node) -> Vec<SocketAddr> {
    sockets(node.process().id(), "udp", "07")
}

/// Where a node's control plane listens.
fn listening(node: &Node) -> Vec<SocketAddr> {
    let status = node.object(["status"]);
    json::list(&status, "listen").iter().filter_map(Value::as_str).filter_map(socket_address).collect()
}

/// Sockets on loopback that a process holds in a state, as the kernel lists them.
fn sockets(process: i32, kind: &str, state: &str) -> Vec<SocketAddr> {
    let held: Vec<String> = fs::read_dir(format!("/proc/{process}/fd"))
        .unwrap()
        .flatten()
        .filter_map(|fd| {
            fs::read_link(fd.path()).ok()?.to_str()?.strip_prefix("socket:[")?.strip_suffix(']').map(Into::into)
        })
        .collect();
    let table = fs::read_to_string(format!("/proc/{process}/net/{kind}")).unwrap();
    let lines = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines
        .filter(|line| line[3] == state && held.iter().any(|inode| inode == line[9]) && line[1].starts_with("0100007F"))
        .filter_map(|line| u16::from_str_radix(line[1].rsplit(':').next()?, 16).ok())
        .map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
        .collect()
}

/// Open files of a process.
pub fn descriptors(node: &Node) -> usize {
    fs::read_dir(format!("/proc/{}/fd", node.process().id())).unwrap().count()
}

/// Lets every user into a file or folder.
pub fn open_to_all(path: &Path) {
    let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o777));
}

/// What a process of another user is told on a socket. Needs root.
pub fn as_nobody(scene: &Scene, socket: &Path) -> String {
    // The tests' own folder may be closed to others.
    let program = scene.world.root().join("larder-hostile");
    fs::copy(env!("CARGO_BIN_EXE_larder-hostile"), &program).unwrap();
    open_to_all(&program);
    let mut command = Command::new(&program);
    command.arg("socket").arg(socket).current_dir("/").uid(65_534).gid(65_534);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
