//! The loop that ties the parts together: events of the network and commits of the catalog in, sessions, news and work out.

mod aliases;
mod clouds;
mod conduct;
mod enforce;
mod holdings;
mod members;
mod news;
mod online;
mod places;
mod rights;
mod session;
mod used;
mod vaults;
mod wants;

pub(crate) use clouds::{
    Address, Cloud, Clouds, Described, is_address, needs_login, read_signature, refresh, usage, write_signature,
};
pub(crate) use conduct::{Conduct, Share};
pub(crate) use enforce::enforce;
pub(crate) use holdings::{Holdings, object_path};
pub(crate) use members::{Members, Removal};
pub(crate) use online::Online;
pub(crate) use places::{Place, Places};
pub(crate) use rights::{Rights, custodian};
pub(crate) use vaults::VaultLink;

use crate::{
    audit::Event as Noted,
    catalog::{Commit, Compacted, Compaction, ReceiveError},
    network::{Event, Verdict},
    node::{Node, now, remember_ports},
};
use larder_protocol::{
    bounded::{List, Text},
    codec,
    id::DeviceId,
    record::Device,
    sync::{Decision, Gossip, decide},
};
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::sync::{broadcast::error::RecvError, mpsc};

/// How long held operations wait for a session to account for them.
const HELD_TIME_MAX: Duration = Duration::from_secs(5);
/// How long changes of the listening addresses are gathered before they are told.
const ADDRESS_PAUSE: Duration = Duration::from_millis(200);
/// How long an admin waits before it begins an epoch that is called for, so that what else changes comes first.
const ROTATE_PAUSE: Duration = Duration::from_secs(2);
/// How much longer for each admin that is senior to it and connected: that one is to do it.
const ROTATE_TURN: Duration = Duration::from_secs(5);
/// How often it is looked whether logs can be compacted, and how long nothing may have been said before.
const COMPACT_EVERY: Duration = Duration::from_secs(600);
const COMPACT_PAUSE: Duration = Duration::from_secs(30);
/// How often operations from the future are looked at, and it is kept what devices have used of their shares.
const RELEASE_EVERY: Duration = Duration::from_secs(30);
/// How often the group is told how far the audit log goes.
const HEAD_EVERY: Duration = Duration::from_secs(60 * 60);
/// How long after a change of the members it is told at the latest.
const HEAD_AFTER_CHANGE: Duration = Duration::from_secs(10);
/// Peers that a round of anti-entropy picks.
const PEERS_PER_ROUND: usize = 2;

/// The engine of a node.
pub(crate) struct Engine {
    node: Arc<Node>,
    sessions: session::Sessions,
    /// Sessions that end tell the engine whom they were with.
    ended: mpsc::Sender<(DeviceId, bool)>,
    ended_receiver: mpsc::Receiver<(DeviceId, bool)>,
    round_at: Option<Instant>,
    held_at: Option<Instant>,
    addresses_at: Option<Instant>,
    release_at: Instant,
    head_at: Instant,
    compact_at: Instant,
    rotate_at: Option<Instant>,
    /// What was said before anybody was asked may travel.
    told: bool,
    announcements: news::Announcements,
    wants: wants::Wants,
    aliases: Arc<aliases::Aliases>,
    answers: vaults::Answers,
}

impl Engine {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        let (ended, ended_receiver) = mpsc::channel(64);
        let start = Instant::now();
        Self {
            wants: wants::Wants::new(node.clone()),
            aliases: Arc::default(),
            answers: vaults::Answers::new(),
            sessions: session::Sessions::default(),
            round_at: node.settings.sync.tick().map(|tick| start + tick),
            node,
            ended,
            ended_receiver,
            held_at: None,
            addresses_at: Some(start),
            release_at: start + RELEASE_EVERY,
            head_at: start + HEAD_EVERY,
            compact_at: start + COMPACT_EVERY,
            rotate_at: None,
            told: false,
            announcements: news::Announcements::default(),
        }
    }

    /// Runs until the node stops.
    pub(crate) async fn run(mut self, mut events: mpsc::Receiver<Event>) {
        let mut commits = self.node.commits.subscribe();
        let members = self.node.members.clone();
        self.members_changed().await;
        self.addresses_changed().await;
        self.node.tasks.spawn(clouds::run(self.node.clone()));
        self.node.tasks.spawn(vaults::keep(self.node.clone()));
        self.wants.look();
        if self.node.settings.catalog.sha256 {
            self.node.tasks.spawn(self.aliases.clone().run(self.node.clone()));
            self.aliases.look(self.node.places.all().iter().map(|place| place.id));
        }
        loop {
            let wakeup = [
                self.round_at,
                self.held_at,
                self.addresses_at,
                self.rotate_at,
                Some(self.release_at),
                Some(self.head_at),
                Some(self.compact_at),
            ];
            let next = wakeup.into_iter().flatten().min().unwrap_or(self.release_at);
            tokio::select! {
                () = self.node.stop.cancelled() => return,
                Some(event) = events.recv() => self.event(event).await,
                commit = commits.recv() => match commit {
                    Ok(commit) => self.committed(commit).await,
                    // What was not told travels in the next sessions.
                    Err(RecvError::Lagged(missed)) => {
                        tracing::warn!(missed, "commits came faster than they were told");
                        self.round();
                    }
                    Err(RecvError::Closed) => return,
                },
                () = members.changed() => {
                    self.members_changed().await;
                    self.node.clouds.look();
                    self.addresses_changed().await;
                    // Who may speak only now says where it is.
                    self.addresses_at = Some(Instant::now() + ADDRESS_PAUSE);
                    // Membership travels in sessions only, so everybody within reach is told now.
                    self.node.online.devices().into_iter().for_each(|device| self.start_session(device));
                }
                Some((device, well)) = self.ended_receiver.recv() => self.session_ended(device, well).await,
                () = self.node.clouds.ready.notified() => self.wants.look(),
                () = tokio::time::sleep_until(next.into()) => self.timers().await,
            }
        }
    }

    async fn timers(&mut self) {
        let now_at = Instant::now();
        if self.round_at.is_some_and(|at| at <= now_at) {
            // Rounds of many nodes drift apart by up to a quarter.
            let jitter = f64::from(crate::keys::random::<1>()[0]) / 1024.0;
            self.round_at = self.node.settings.sync.tick().map(|tick| now_at + tick.mul_f64(0.875 + jitter));
            self.round();
        }
        if self.held_at.is_some_and(|at| at <= now_at) {
            self.held_at = None;
            self.round();
        }
        if self.addresses_at.is_some_and(|at| at <= now_at) {
            self.addresses_at = None;
            if let Err(error) = tell_addresses(&self.node).await {
                tracing::warn!(%error, "own addresses cannot be told");
            }
        }
        if self.rotate_at.is_some_and(|at| at <= now_at) {
            self.rotate_at = None;
            self.rotate();
        }
        if self.head_at <= now_at {
            self.head_at = now_at + HEAD_EVERY;
            let node = self.node.clone();
            self.node.tasks.spawn_blocking(move || node.tell_audit_head());
        }
        if self.compact_at <= now_at {
            self.compact_at = now_at + COMPACT_EVERY;
            self.compact();
        }
        if self.release_at <= now_at {
            self.release_at = now_at + RELEASE_EVERY;
            let node = self.node.clone();
            self.node.tasks.spawn_blocking(move || {
                let catalog = &node.catalog;
                if catalog.read().and_then(|snapshot| snapshot.counts()).is_ok_and(|counts| counts.waiting > 0)
                    && let Err(error) = catalog.release(now())
                {
                    tracing::warn!(%error, "operations that were held back");
                }
                node.keep_conduct();
            });
        }
    }

    /// Begins an epoch without those who should not hold the current one's secret, or with those who should.
    fn rotate(&self) {
        let node = self.node.clone();
        self.node.tasks.spawn_blocking(move || match node.members.rotate() {
            Ok(true) => node.note(Noted::ok("rotate", node.group)),
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "a new epoch cannot be kept"),
        });
    }

    /// Lets go of what in the logs no longer counts.
    fn compact(&self) {
        let node = self.node.clone();
        self.node.tasks.spawn_blocking(move || {
            match node.catalog.compact_local_log() {
                Ok(0) => {}
                Ok(freed_bytes) => tracing::info!(freed_bytes, "local log compacted"),
                Err(error) => tracing::warn!(%error, "the local log cannot be compacted"),
            }
            let limits = Compaction { alone: node.members.devices().len() <= 1, ..Compaction::default() };
            match node.catalog.compact_logs(limits, now()) {
                Ok(done) if done == Compacted::default() => {}
                Ok(done) => tracing::info!(?done, "logs compacted"),
                Err(error) => tracing::warn!(%error, "logs cannot be compacted"),
            }
        });
    }

    /// Tells connected vaults where the others are.
    fn introduce(&self) {
        let node = self.node.clone();
        self.node.tasks.spawn(async move { vaults::introduce(&node).await });
    }

    /// Starts sessions with a few connected peers.
    fn round(&mut self) {
        let mut peers = self.node.online.devices();
        while peers.len() > PEERS_PER_ROUND {
            let index = usize::from(u16::from_le_bytes(crate::keys::random())) % peers.len();
            peers.swap_remove(index);
        }
        for device in peers {
            self.begin_session(device, session::Expects::Nothing);
        }
    }

    /// Starts a session for a reason: something is missing here or there.
    fn start_session(&mut self, device: DeviceId) {
        self.begin_session(device, session::Expects::News);
    }

    fn begin_session(&mut self, device: DeviceId, expects: session::Expects) {
        if self.node.conduct.hears(&device, Instant::now()) && self.sessions.begin(device) {
            let (node, ended) = (self.node.clone(), self.ended.clone());
            self.node.tasks.spawn(async move {
                let well = session::initiate(&node, device, expects).await;
                let _ = ended.send((device, well)).await;
            });
        }
    }

    async fn session_ended(&mut self, device: DeviceId, well: bool) {
        let again = self.sessions.end(device);
        // A vault is in no topic.
        if well && self.node.members.shares_catalog_with(&device) {
            self.node.network.greeted(device).await;
        }
        if !self.told && self.node.asked.load(Ordering::SeqCst) {
            // Own statements were held back until now.
            self.told = true;
            self.node.online.devices().into_iter().for_each(|device| self.start_session(device));
        } else if again && self.node.online.contains(&device) {
            self.start_session(device);
        }
    }

    async fn event(&mut self, event: Event) {
        match event {
            Event::Connected { device, address } => {
                tracing::info!(%device, "peer connected");
                self.node.online.insert(device, address);
                self.node.clouds.look_at(&device);
                self.introduce();
                // One of the two begins; the session serves both.
                if self.node.device() < device {
                    self.start_session(device);
                }
                self.wants.look();
            }
            Event::Disconnected { device } => {
                tracing::info!(%device, "peer disconnected");
                self.node.online.remove(&device);
                self.node.clouds.look_at(&device);
                self.announcements.forget(&device);
                // What it would have done for a cloud is another gateway's turn now.
                self.wants.look();
            }
            // Who is not listened to is refused before a byte is read.
            Event::Asked { device, stream } if self.node.conduct.hears(&device, Instant::now()) => {
                self.answers.answer(&self.node, device, stream);
            }
            Event::Asked { .. } => {}
            Event::Inbound { device, stream } => {
                let (node, ended) = (self.node.clone(), self.ended.clone());
                // Who is not listened to is refused before a byte is read.
                let heard = self.node.conduct.hears(&device, Instant::now());
                if heard && self.node.members.role(&device).is_some() && self.sessions.admit(device) {
                    self.node.tasks.spawn(async move {
                        let well = session::answer(&node, device, stream).await;
                        let _ = ended.send((device, well)).await;
                    });
                }
            }
            Event::Gossip { from, bytes, id } => {
                let verdict = self.gossip(from, &bytes).await;
                self.node.network.judge(from, id, verdict).await;
            }
            // What was told between the session on connecting and now may have been missed.
            Event::Subscribed { device } => self.start_session(device),
            Event::Listening => self.addresses_at = Some(Instant::now() + ADDRESS_PAUSE),
        }
    }

    async fn gossip(&mut self, from: DeviceId, bytes: &[u8]) -> Verdict {
        if !self.node.conduct.hears(&from, Instant::now()) {
            return Verdict::Ignore;
        }
        let news = match Gossip::read(bytes) {
            Ok(Some(news)) => news,
            // From a newer version: forwarded untouched.
            Ok(None) => return Verdict::Accept,
            Err(error) => {
                tracing::info!(device = %from, %error, "gossip: no news");
                self.node.conduct.fault(&from, &error, Instant::now());
                return Verdict::Reject;
            }
        };
        let (Gossip::Batch { author, next_seq, .. } | Gossip::Head { author, next_seq, .. }) = &news;
        let (author, next_seq) = (*author, *next_seq);
        if self.node.members.role(&author.device).is_none() {
            // Removed, or admitted a moment ago: who passed it on may not have heard, or have heard more. The session tells
            // either; what a removed device said comes along there, to be kept and disputed.
            self.start_session(from);
            return Verdict::Ignore;
        }
        let stored = match self.node.catalog.read().and_then(|snapshot| snapshot.summary()) {
            Ok(summary) => summary.held.get(&author).map_or_else(|| summary.vector.get(&author), |held| held.end),
            Err(error) => {
                tracing::warn!(%error, "gossip cannot be judged");
                return Verdict::Ignore;
            }
        };
        match decide(stored, &news) {
            Decision::Ignore => Verdict::Ignore,
            Decision::Pull if !self.announcements.may(from, Instant::now()) => {
                tracing::debug!(%from, "gossip: announces too much");
                Verdict::Ignore
            }
            Decision::Pull => {
                self.start_session(from);
                Verdict::Accept
            }
            Decision::Hold => {
                let Gossip::Batch { batch, .. } = news else { return Verdict::Ignore };
                let node = self.node.clone();
                match tokio::task::spawn_blocking(move || session::hold(&node, vec![batch])).await {
                    // It belongs to another history, or shows that this device was restored.
                    Ok(Ok(applied)) if applied.unplaced > 0 || applied.begun.is_some() => {
                        self.start_session(from);
                        Verdict::Accept
                    }
                    Ok(Ok(_)) => {
                        tracing::debug!(device = %author.device, next_seq, "held from gossip");
                        self.held_at.get_or_insert(Instant::now() + HELD_TIME_MAX);
                        Verdict::Accept
                    }
                    // A husk never comes by gossip.
                    Ok(Err(error @ (ReceiveError::Batch(_) | ReceiveError::Unproven { .. }))) => {
                        tracing::warn!(device = %from, %error, "gossip: unsound batch");
                        self.node.conduct.fault(&from, &error, Instant::now());
                        Verdict::Reject
                    }
                    Ok(Err(error)) => {
                        tracing::debug!(%error, "gossip: a session will tell");
                        self.start_session(from);
                        Verdict::Ignore
                    }
                    Err(_) => Verdict::Ignore,
                }
            }
        }
    }

    async fn committed(&mut self, commit: Commit) {
        // Only an idle node compacts.
        self.compact_at = self.compact_at.max(Instant::now() + COMPACT_PAUSE);
        for fork in &commit.forks {
            self.node.note(Noted::ok("fork", fork.author).fact("seq", fork.seq));
        }
        if let Some(begun) = commit.begun {
            tracing::warn!(%begun, "this device's log went on elsewhere");
            self.node.note(Noted::ok("incarnation", begun));
        }
        let asked = self.node.asked.load(Ordering::SeqCst);
        for own in commit.own.iter().filter(|_| asked) {
            tracing::debug!(device = %own.author.device, next_seq = own.next_seq, "tells");
            let news = Gossip::of(own.author, own.first_seq, own.next_seq, &own.sealed);
            match codec::encode(&news) {
                Ok(bytes) => self.node.network.publish(bytes).await,
                Err(error) => tracing::warn!(%error, "news cannot be told"),
            }
        }
        if commit.devices {
            self.addresses_changed().await;
            self.introduce();
        }
        if !commit.locations.is_empty() {
            self.node.clouds.look();
            self.aliases.look(commit.locations.iter().copied());
        }
        if commit.wants_changed() || !commit.locations.is_empty() {
            self.wants.look();
        }
    }

    async fn members_changed(&mut self) {
        enforce(&self.node).await;
        // Who was let in or shut out, and by whom, is on record here by then.
        self.head_at = self.head_at.min(Instant::now() + HEAD_AFTER_CHANGE);
        let online = self.node.online.devices().into_iter().collect();
        let turn = self.node.members.turn_to_rotate(&online);
        let pause = |turn| ROTATE_PAUSE + ROTATE_TURN.saturating_mul(u32::try_from(turn).unwrap_or(u32::MAX));
        self.rotate_at = turn.map(|turn| Instant::now() + pause(turn));
    }

    async fn addresses_changed(&self) {
        match self.node.catalog.read().and_then(|snapshot| snapshot.devices()) {
            Ok(devices) => {
                for (device, said) in devices {
                    if device != self.node.device() {
                        let control = said.control.iter().map(|address| address.to_string()).collect::<Vec<_>>();
                        self.node.network.set_addresses(device, control).await;
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "addresses cannot be read"),
        }
        for (device, addresses) in self.node.members.first_addresses() {
            self.node.network.set_addresses(device, addresses).await;
        }
    }
}

/// Says where this device is, when that has changed; gives whether it listens anywhere yet.
pub(crate) async fn tell_addresses(node: &Node) -> Result<bool, larder_protocol::control::ControlError> {
    let mut control = node.network.listening().await;
    control.sort_unstable();
    let sockets: Vec<(bool, SocketAddr)> =
        control.iter().filter_map(|address| crate::network::socket_of(address)).collect();
    // Half of the addresses would be told, only to be corrected at once.
    let listens = |asked: &SocketAddr, tcp: bool| {
        sockets.iter().any(|(is_tcp, address)| {
            *is_tcp == tcp
                && (address.ip() == asked.ip() || (asked.ip().is_unspecified() && address.is_ipv4() == asked.is_ipv4()))
        })
    };
    if !node.listen.iter().all(|asked| listens(asked, true) && listens(asked, false)) {
        return Ok(false);
    }
    remember_ports(node, &sockets).await?;
    let hosts: BTreeSet<_> = sockets.iter().map(|(_, address)| address.ip()).collect();
    let mut data = Vec::new();
    for host in hosts.into_iter().filter(|host| host.is_ipv4() == node.data.tcp_addr().is_ipv4()) {
        data.push(format!("tcp://{}", SocketAddr::new(host, node.data.tcp_addr().port())));
        data.push(format!("udp://{}", SocketAddr::new(host, node.data.quic_addr().port())));
    }
    let texts = |texts: Vec<String>| List::truncated(texts.into_iter().filter_map(|text| Text::new(text).ok()));
    let said = Device { name: node.name.clone(), control: texts(control), data: texts(data) };
    let known =
        node.catalog.read().and_then(|snapshot| snapshot.devices()).map_err(crate::operations::errors::catalog)?;
    // A vault has no key under which the others could read it.
    if node.members.reads() && known.get(&node.device()) != Some(&said) {
        node.append(vec![said.into()], Vec::new()).await?;
    }
    Ok(true)
}
