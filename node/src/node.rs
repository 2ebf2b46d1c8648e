//! The node: names every part, and the order in which they start and stop.
//!
//! Start: home and its lock → keys and membership → catalog and search → locations → data plane → control plane → engine
//! → control socket. Stop: the other way round.

use crate::{
    audit::Audit,
    catalog::{Catalog, CatalogError, Commit, Identity, LocalWrite, LogKeys, OpenReport, Options, Snapshot},
    config::{Home, Settings},
    credentials::Vault,
    engine::{Clouds, Conduct, Engine, Holdings, Members, Online, Places, VaultLink, tell_addresses},
    keys::{DeviceKeys, MembershipStore},
    network,
    operations::{checked::Checked, errors, invites::Inviting, offers::Offers},
    pairing::Host,
    search::{self, Search},
    shelves::Shelves,
    storage::{Registry, peer::PeerFactory},
    transfer::{DataPlane, PlaneConfig},
};
use larder_protocol::{
    control::{ControlError, ErrorKind},
    id::{DeviceId, EpochId, GroupId},
    record::Name,
    seal::KeyRing,
    sync::{FRAME_BYTES_MAX, Gossip},
    time::Timestamp,
};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::broadcast;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long a source may send nothing before the next one is asked.
const STALL: Duration = Duration::from_secs(20);
/// How long a greeted peer may be missing from the gossip topic.
const DEAF_AFTER: Duration = Duration::from_secs(5);
/// How long a start waits for the sockets to listen.
const LISTEN_TIME_MAX: Duration = Duration::from_secs(5);
/// Commits that a slow watcher may be behind; then it learns only that it missed some.
const COMMITS_MAX: usize = 1024;
/// Namespace of small values that only this device knows.
const LOCAL: &str = "node";
/// Key of what devices have used of their shares.
const CONDUCT: &[u8] = b"conduct";

/// Everything that a running node is made of.
pub struct Node {
    pub(crate) home: Home,
    pub(crate) name: Name,
    pub(crate) group: GroupId,
    pub(crate) group_name: String,
    pub(crate) keys: DeviceKeys,
    pub(crate) members: Arc<Members>,
    pub(crate) catalog: Catalog,
    /// What each commit of the catalog brought.
    pub(crate) commits: broadcast::Sender<Commit>,
    pub(crate) search: Search,
    pub(crate) places: Arc<Places>,
    /// Cloud locations that this device is a gateway of.
    pub(crate) clouds: Arc<Clouds>,
    /// The way to the vaults of the group.
    pub(crate) vaults: Arc<VaultLink>,
    /// The providers of this node.
    pub(crate) registry: Arc<Registry>,
    /// What this device keeps for its group while it is a vault.
    pub(crate) shelves: Shelves,
    /// This device's credentials.
    pub(crate) vault: Vault,
    pub(crate) audit: Audit,
    pub(crate) data: DataPlane,
    pub(crate) network: network::Handle,
    pub(crate) online: Online,
    pub(crate) conduct: Conduct,
    pub(crate) pairing: Arc<Host>,
    /// Commands that wait for who uses their invite.
    pub(crate) inviting: Arc<Inviting>,
    pub(crate) settings: Settings,
    pub(crate) listen: Vec<SocketAddr>,
    pub(crate) staging: std::path::PathBuf,
    /// Contents that are being put.
    pub(crate) offers: Offers,
    /// Files that need not be checked again.
    pub(crate) checked: Checked,
    #[cfg(feature = "web")]
    pub(crate) web: crate::web::Web,
    /// Transfers under way.
    pub(crate) transfers: AtomicU64,
    /// What runs in the background; waited for at the end.
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    /// A peer has said, since the start, how far it knows this device's own log. Before, a backup may have been
    /// restored: what this device says is seen here and told nobody.
    pub(crate) asked: AtomicBool,
}

/// The wall clock.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// The keys that batches are sealed under; none for a vault, whose catalog stays empty.
pub(crate) fn log_keys(ring: Option<&KeyRing>) -> LogKeys {
    let keys = ring.into_iter().flat_map(KeyRing::iter).map(|(epoch, secret)| (*epoch, secret.log_key())).collect();
    LogKeys { current: ring.map_or(EpochId::new([0; 16]), |ring| ring.current().0), keys }
}

/// Ports of one host: for control and for data, each on TCP and UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Ports([u16; 4]);

impl Ports {
    fn key(host: IpAddr, number: usize) -> Vec<u8> {
        format!("ports/{number}/{host}").into_bytes()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 8] = bytes.try_into().ok()?;
        Some(Self([0, 2, 4, 6].map(|at| u16::from_le_bytes([bytes[at], bytes[at + 1]]))))
    }

    fn encode(self) -> Vec<u8> {
        self.0.iter().flat_map(|port| port.to_le_bytes()).collect()
    }
}

/// What a home says of the device that it makes.
pub(crate) struct Belongings {
    pub(crate) settings: Settings,
    pub(crate) keys: DeviceKeys,
    pub(crate) members: Arc<Members>,
    pub(crate) identity: Identity,
}

impl Belongings {
    /// Reads settings, keys and membership.
    pub(crate) fn load(home: &Home) -> Result<Self, ControlError> {
        let settings = Settings::load(&home.config_file()).map_err(|error| errors::config(home, &error))?;
        let keys = DeviceKeys::load(&home.keys())
            .map_err(|error| errors::keys(&error))?
            .ok_or_else(|| errors::not_initialised(home))?;
        let store = MembershipStore::new(&home.keys(), keys.device());
        let log = store.load().map_err(|error| errors::keys(&error))?.ok_or_else(|| errors::not_initialised(home))?;
        let members = Arc::new(Members::new(store, log, keys.clone())?);
        let log_keys = log_keys(members.ring().as_deref());
        let identity = Identity { group: members.group(), signing: keys.signing().clone(), log_keys };
        Ok(Self { settings, keys, members, identity })
    }
}

/// How this device opens its catalog.
pub(crate) fn catalog_options(settings: &Settings, members: &Arc<Members>) -> Options {
    Options { cache_bytes: settings.catalog.cache_mib << 20, now: now(), permits: members.clone() }
}

impl Node {
    /// Opens a home and starts all parts. Must be called inside a tokio runtime.
    pub(crate) async fn start(home: &Home, listen: Vec<SocketAddr>) -> Result<Arc<Self>, ControlError> {
        let Belongings { settings, keys, members, identity } = Belongings::load(home)?;
        members.set_first_addresses(crate::contacts::load(home));
        let group = members.group();
        let (name, group_name) = members.own_names();
        let name = name.or_else(|| crate::contacts::own_name(home)).unwrap_or_default();
        let group_name = group_name.map_or_else(String::new, |name| name.to_string());

        let options = catalog_options(&settings, &members);
        let (dir, cache) = (home.catalog(), home.cache());
        let (catalog, search, report) = tokio::task::spawn_blocking(move || {
            let (catalog, report) = Catalog::open(&dir, identity, options).map_err(errors::catalog)?;
            let search = Search::open(&cache, catalog.clone(), search::CACHE_BYTES).map_err(errors::internal)?;
            Ok((catalog, search, report))
        })
        .await
        .map_err(errors::internal)??;
        if report != OpenReport::default() {
            tracing::info!(?report, "catalog opened");
        }
        let (commits, _) = broadcast::channel(COMMITS_MAX);
        let told = commits.clone();
        catalog.subscribe(move |commit| drop(told.send(commit.clone())));
        let audit = Audit::open(&home.audit(), &keys.device()).map_err(|error| errors::io(home.audit(), &error))?;
        let places = Arc::new(Places::load(catalog.clone(), keys.device()).map_err(errors::catalog)?);
        let keys_folder = home.keys();
        // A keyring may take its time.
        let vault = tokio::task::spawn_blocking(move || Vault::open(&keys_folder)).await.map_err(errors::internal)?;
        let registry = Arc::new(Registry::of_node());
        let vaults = Arc::new(VaultLink::new());
        registry.register(Arc::new(PeerFactory::new(group, vaults.clone()))).map_err(errors::internal)?;
        let shelves = Shelves::new(home.vault().join(group.to_string()), settings.vault.space());
        let clouds = Arc::new(Clouds::new(home, registry.clone(), vault.clone(), settings.clouds.cache_bytes()));
        let staging = home.cache().join("staging");
        std::fs::create_dir_all(&staging).map_err(|error| errors::io(&staging, &error))?;

        let listen = if listen.is_empty() { settings.network.listen.clone() } else { listen };
        let first = *listen.first().ok_or_else(|| {
            ControlError::new(ErrorKind::BadRequest, "network.listen").detail("at least one address is needed")
        })?;
        let holdings =
            Arc::new(Holdings::new(catalog.clone(), places.clone(), clouds.clone(), members.clone(), keys.device()));
        let ports = remembered(&catalog, first).map_err(errors::catalog)?;
        let data = bind_data(home, &keys, &members, &holdings, first, ports)?;
        let listen_control = listen
            .iter()
            .enumerate()
            .map(|(number, address)| {
                let ports = remembered_for(&catalog, *address, number).unwrap_or_default();
                (address.ip(), ports.0[0], ports.0[1])
            })
            .collect();
        let (network, events) = start_network(&keys, &settings, listen_control, &listen)?;
        let conduct = Conduct::new(settings.limits.share());
        if let Some(kept) =
            catalog.read().and_then(|snapshot| snapshot.local(LOCAL, CONDUCT)).map_err(errors::catalog)?
        {
            conduct.restore(&kept, now(), Instant::now());
        }
        let inviter = Arc::new(Inviting::default());
        let pairing = Host::new(keys.clone(), group, inviter.clone());
        let node = Arc::new(Self {
            home: home.clone(),
            name,
            group,
            group_name,
            keys,
            members,
            catalog,
            commits,
            search,
            places,
            clouds,
            vaults,
            registry,
            shelves,
            vault,
            audit,
            data,
            network,
            online: Online::default(),
            conduct,
            pairing,
            inviting: inviter.clone(),
            settings,
            listen,
            staging,
            offers: Offers::default(),
            checked: Checked::default(),
            #[cfg(feature = "web")]
            web: crate::web::Web::load(&home.keys()).map_err(|error| errors::keys(&error))?,
            transfers: AtomicU64::new(0),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            asked: AtomicBool::new(false),
        });
        inviter.attach(&node);
        node.vaults.attach(&node);
        holdings.attach(&node);
        node.places.prove(&node.catalog).map_err(errors::catalog)?;
        node.tasks.spawn(Engine::new(node.clone()).run(events));
        // Who is invited before this device has said where it is would not find it.
        let deadline = tokio::time::Instant::now() + LISTEN_TIME_MAX;
        while !tell_addresses(&node).await? && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        crate::operations::invites::reopen(&node)?;
        #[cfg(feature = "web")]
        crate::web::Web::resume(&node).await?;
        Ok(node)
    }

    /// Asks the node to stop.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits for what runs in the background, then closes all connections.
    pub(crate) async fn shutdown(&self) {
        self.stop.cancel();
        self.pairing.close_now();
        self.tasks.close();
        if tokio::time::timeout(Duration::from_secs(10), self.tasks.wait()).await.is_err() {
            tracing::warn!("some work did not end in time");
        }
        tokio::task::block_in_place(|| {
            self.keep_conduct();
            self.tell_audit_head();
        });
        self.data.close();
        self.network.shutdown().await;
    }

    /// This device.
    pub(crate) fn device(&self) -> DeviceId {
        self.keys.device()
    }

    /// Counts a transfer as long as the guard lives.
    pub(crate) fn transfer(self: &Arc<Self>) -> TransferGuard {
        self.transfers.fetch_add(1, Ordering::Relaxed);
        TransferGuard(self.clone())
    }

    /// Appends own statements durably, off the async threads.
    pub(crate) async fn append(
        &self,
        records: Vec<larder_protocol::record::Record>,
        local: Vec<LocalWrite>,
    ) -> Result<(), ControlError> {
        let catalog = self.catalog.clone();
        tokio::task::spawn_blocking(move || catalog.append(records, local, now()))
            .await
            .map_err(errors::internal)?
            .map_err(errors::append)?;
        Ok(())
    }

    /// Notes lines in the audit log, durable together.
    pub(crate) fn note_all(&self, events: Vec<crate::audit::Event>) {
        if let Err(error) = self.audit.append_all(now(), events) {
            tracing::error!(%error, "audit log cannot be written");
        }
    }

    /// Notes a line in the audit log; a log that cannot be written is told, and stops nothing.
    pub(crate) fn note(&self, event: crate::audit::Event) {
        if let Err(error) = self.audit.append(now(), event) {
            tracing::error!(%error, "audit log cannot be written");
        }
    }

    /// Tells the group how far the audit log goes. Blocks.
    pub(crate) fn tell_audit_head(&self) {
        // A vault has no key under which the others could read it.
        if self.members.reads()
            && let Err(error) = crate::audit::heads::tell(&self.catalog, &self.audit, &self.device(), now())
        {
            tracing::warn!(%error, "the end of the audit log cannot be told");
        }
    }

    /// Keeps what devices have used of their shares over a restart. Blocks.
    pub(crate) fn keep_conduct(&self) {
        if let Some(value) = self.conduct.keep(now(), Instant::now()) {
            let write = LocalWrite::Value { namespace: LOCAL, key: CONDUCT.to_vec(), value: Some(value) };
            if let Err(error) = self.catalog.append(Vec::new(), vec![write], now()) {
                tracing::warn!(%error, "what devices have used of their quota cannot be kept");
            }
        }
    }

    /// Names of the group's devices, by what they say of themselves or were admitted as.
    pub(crate) fn device_names(&self, snapshot: &Snapshot) -> Result<BTreeMap<DeviceId, String>, CatalogError> {
        let mut names = self.members.names();
        for (device, said) in snapshot.devices()? {
            if let Some(name) = names.get_mut(&device) {
                *name = said.name.to_string();
            }
        }
        Ok(names)
    }

    /// The same with the names of devices that were removed.
    pub(crate) fn all_device_names(&self, snapshot: &Snapshot) -> Result<BTreeMap<DeviceId, String>, CatalogError> {
        let mut names = self.device_names(snapshot)?;
        for (device, said) in snapshot.devices()? {
            names.entry(device).or_insert_with(|| said.name.to_string());
        }
        Ok(names)
    }
}

/// Counts a transfer while it lives.
pub(crate) struct TransferGuard(Arc<Node>);

impl Drop for TransferGuard {
    fn drop(&mut self) {
        self.0.transfers.fetch_sub(1, Ordering::Relaxed);
    }
}

fn remembered(catalog: &Catalog, address: SocketAddr) -> Result<Ports, CatalogError> {
    remembered_for(catalog, address, 0)
}

/// The ports that a host had before; a fixed port in the settings is the control plane's.
fn remembered_for(catalog: &Catalog, address: SocketAddr, number: usize) -> Result<Ports, CatalogError> {
    let known =
        catalog.read()?.local(LOCAL, &Ports::key(address.ip(), number))?.and_then(|bytes| Ports::decode(&bytes));
    let mut ports = known.unwrap_or_default();
    if address.port() != 0 {
        (ports.0[0], ports.0[1]) = (address.port(), address.port());
    }
    Ok(ports)
}

fn bind_data(
    home: &Home,
    keys: &DeviceKeys,
    members: &Arc<Members>,
    holdings: &Arc<Holdings>,
    address: SocketAddr,
    ports: Ports,
) -> Result<DataPlane, ControlError> {
    let bind = |tcp, udp| {
        let config = PlaneConfig {
            tcp: SocketAddr::new(address.ip(), tcp),
            quic: SocketAddr::new(address.ip(), udp),
            outboards: home.cache().join("outboards"),
            stall: STALL,
        };
        DataPlane::bind(config, keys.signing().clone(), members.clone(), holdings.clone())
    };
    // Ports that somebody else has taken meanwhile are given up: the others learn the new ones.
    bind(ports.0[2], ports.0[3]).or_else(|_| bind(0, 0)).map_err(|error| errors::listen(&error))
}

type Events = tokio::sync::mpsc::Receiver<network::Event>;

fn start_network(
    keys: &DeviceKeys,
    settings: &Settings,
    remembered: Vec<(IpAddr, u16, u16)>,
    listen: &[SocketAddr],
) -> Result<(network::Handle, Events), ControlError> {
    let start = |listen| {
        network::start(network::Config {
            signing: keys.signing().clone(),
            listen,
            mdns: settings.network.mdns,
            gossip: settings.network.gossip,
            message_id: Gossip::message_id,
            frame_bytes_max: FRAME_BYTES_MAX,
            deaf_after: DEAF_AFTER,
        })
    };
    let free = |port: u16, udp: bool, host: IpAddr| {
        port == 0
            || if udp {
                std::net::UdpSocket::bind((host, port)).is_ok()
            } else {
                std::net::TcpListener::bind((host, port)).is_ok()
            }
    };
    let chosen = remembered
        .into_iter()
        .zip(listen)
        .map(|((host, tcp, udp), asked)| {
            // A remembered port that is taken is given up; one that was asked for is insisted on.
            let keep = |port: u16, udp| if asked.port() != 0 || free(port, udp, host) { port } else { 0 };
            (host, keep(tcp, false), keep(udp, true))
        })
        .collect();
    start(chosen).map_err(|error| errors::listen(&error))
}

/// Remembers the ports of this start for the next one.
pub(crate) async fn remember_ports(node: &Node, control: &[(bool, SocketAddr)]) -> Result<(), ControlError> {
    let mut writes = Vec::new();
    for (number, asked) in node.listen.iter().enumerate() {
        let of = |tcp: bool| {
            let fits = |(is_tcp, address): &&(bool, SocketAddr)| {
                *is_tcp == tcp
                    && (address.ip() == asked.ip()
                        || (asked.ip().is_unspecified() && address.is_ipv4() == asked.is_ipv4()))
            };
            control.iter().find(fits).map_or(0, |(_, address)| address.port())
        };
        let (data_tcp, data_udp) =
            if number == 0 { (node.data.tcp_addr().port(), node.data.quic_addr().port()) } else { (0, 0) };
        let ports = Ports([of(true), of(false), data_tcp, data_udp]);
        let key = Ports::key(asked.ip(), number);
        if node.catalog.read().and_then(|snapshot| snapshot.local(LOCAL, &key)).map_err(errors::catalog)?.as_deref()
            != Some(&ports.encode())
        {
            writes.push(LocalWrite::Value { namespace: LOCAL, key, value: Some(ports.encode()) });
        }
    }
    if writes.is_empty() { Ok(()) } else { node.append(Vec::new(), writes).await }
}
