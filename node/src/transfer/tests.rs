//! The data plane over real sockets on loopback.

mod distant;
mod hostile;

use super::*;
use ed25519_dalek::SigningKey;
use iroh_blobs::{
    HashAndFormat,
    get::StreamPair,
    store::mem::MemStore,
    util::{AsyncReadRecvStream, AsyncWriteSendStream},
};
use larder_protocol::{fetch::Reason, id::DeviceId};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Holds files by hash, and remembers what was doubted.
#[derive(Default)]
struct Files {
    blobs: Mutex<BTreeMap<[u8; 32], Blob>>,
    doubted: Mutex<Vec<[u8; 32]>>,
    /// What a device may not read.
    withheld: Mutex<BTreeSet<(DeviceId, [u8; 32])>>,
}

impl Files {
    fn add(&self, path: &Path, bytes: &[u8]) -> Item {
        fs::write(path, bytes).unwrap();
        let stamp = Some(FileStamp::of(&fs::metadata(path).unwrap()));
        let hash = *blake3::hash(bytes).as_bytes();
        let blob = Blob::file(path.to_owned(), bytes.len() as u64, stamp);
        self.blobs.lock().unwrap().insert(hash, blob);
        Item { hash, size: bytes.len() as u64, partial: PathBuf::new(), sources: Vec::new() }
    }
}

impl BlobSource for Files {
    fn find(&self, device: &DeviceId, hash: &[u8; 32]) -> Vec<Blob> {
        if self.withheld.lock().unwrap().contains(&(*device, *hash)) {
            return Vec::new();
        }
        self.blobs.lock().unwrap().get(hash).cloned().into_iter().collect()
    }

    fn doubt(&self, hash: &[u8; 32], _: &Blob) {
        self.doubted.lock().unwrap().push(*hash);
    }
}

#[derive(Default)]
struct Group(Mutex<BTreeSet<DeviceId>>);

impl Members for Group {
    fn may_read(&self, device: &DeviceId) -> bool {
        self.0.lock().unwrap().contains(device)
    }
}

struct Peer {
    key: SigningKey,
    files: Arc<Files>,
    plane: DataPlane,
    dir: tempfile::TempDir,
}

fn device(key: &SigningKey) -> DeviceId {
    DeviceId::new(key.verifying_key().to_bytes())
}

fn peer(group: &Arc<Group>, number: u8) -> Peer {
    peer_with_stall(group, number, Duration::from_secs(5))
}

fn peer_with_stall(group: &Arc<Group>, number: u8, stall: Duration) -> Peer {
    let (key, files, dir) =
        (SigningKey::from_bytes(&[number; 32]), Arc::new(Files::default()), tempfile::tempdir().unwrap());
    group.0.lock().unwrap().insert(device(&key));
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = PlaneConfig { quic: any, tcp: any, outboards: dir.path().join("outboards"), stall };
    let plane = DataPlane::bind(config, key.clone(), group.clone(), files.clone()).unwrap();
    Peer { key, files, plane, dir }
}

impl Peer {
    fn device(&self) -> DeviceId {
        device(&self.key)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn fetch(&self, tcp: bool, items: Vec<Item>, sources: &[&Peer]) -> Vec<Fetched> {
        self.plane.fetch(self.request(tcp, items, sources)).await
    }

    fn request(&self, tcp: bool, mut items: Vec<Item>, sources: &[&Peer]) -> Request {
        for (number, item) in items.iter_mut().enumerate() {
            item.partial = self.path(&format!("partial-{number}"));
            item.sources = sources.iter().map(|source| source.device()).collect();
        }
        let address = |source: &&Peer| if tcp { source.plane.tcp_addr() } else { source.plane.quic_addr() };
        Request {
            items,
            addresses: sources.iter().map(|source| (source.device(), vec![(tcp, address(source))])).collect(),
            progress: Arc::new(|_| {}),
            cancel: CancellationToken::new(),
        }
    }
}

fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new_derive_key("transfer test").finalize_xof().fill(&mut bytes);
    bytes
}

/// What must not hang does not hang the tests either; nor does it end only because a connection was idle for too long.
async fn ends<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(25), work).await.expect("ends by itself")
}

fn complete(fetched: &Fetched) -> u64 {
    match fetched {
        Fetched::Complete(given) => given.iter().map(|given| given.bytes).sum(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_size_arrives_over_both_transports() {
    let group = Arc::new(Group::default());
    let (holder, asker) = (peer(&group, 1), peer(&group, 2));
    let all = noise(9 << 20);
    let sizes = [0, 1, 16_383, 16_384, 16_385, 32_769, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 4 << 20, 9 << 20];
    for tcp in [true, false] {
        let items: Vec<Item> =
            sizes.iter().map(|size| holder.files.add(&holder.path(&size.to_string()), &all[..*size])).collect();
        let fetched = asker.fetch(tcp, items, &[&holder]).await;
        for (number, size) in sizes.iter().enumerate() {
            assert_eq!(complete(&fetched[number]), *size as u64, "{size}");
            let path = asker.path(&format!("partial-{number}"));
            assert!(fs::read(&path).unwrap() == all[..*size], "{size}");
            fs::remove_file(path).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_small_files_share_exchanges() {
    let group = Arc::new(Group::default());
    let (holder, asker) = (peer(&group, 1), peer(&group, 2));
    let items: Vec<Item> = (0..2_000u32)
        .map(|number| holder.files.add(&holder.path(&format!("small-{number}")), &noise(1 + number as usize)))
        .collect();
    let fetched = asker.fetch(true, items, &[&holder]).await;
    assert_eq!(fetched.iter().map(complete).sum::<u64>(), (1..=2_000).sum::<u64>());
}

/// What we send is what iroh-blobs sends: its own client takes it.
#[tokio::test(flavor = "multi_thread")]
async fn iroh_blobs_own_client_decodes_what_we_serve() {
    let group = Arc::new(Group::default());
    let holder = peer(&group, 1);
    let bytes = noise(3_000_001);
    let item = holder.files.add(&holder.path("blob"), &bytes);
    let client = SigningKey::from_bytes(&[9; 32]);
    group.0.lock().unwrap().insert(device(&client));
    let tls = crate::keys::tls::client(&client, holder.device(), ALPN).unwrap();
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let endpoint = quinn::Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    let connection = endpoint.connect_with(config, holder.plane.quic_addr(), "larder").unwrap().await.unwrap();
    let (send, receive) = connection.open_bi().await.unwrap();
    let pair =
        StreamPair::new(0, AsyncReadRecvStream::new(QuinnReceive(receive)), AsyncWriteSendStream::new(QuinnSend(send)));
    let store = MemStore::new();
    let hash = iroh_blobs::Hash::from(item.hash);
    store.remote().fetch(pair, HashAndFormat::raw(hash)).await.unwrap();
    assert!(store.get_bytes(hash).await.unwrap() == bytes);
}

/// quinn's streams under the names that iroh-blobs wants.
struct QuinnReceive(quinn::RecvStream);
struct QuinnSend(quinn::SendStream);

impl iroh_blobs::util::AsyncReadRecvStreamExtra for QuinnReceive {
    fn inner(&mut self) -> &mut (impl tokio::io::AsyncRead + Unpin + Send) {
        &mut self.0
    }

    fn stop(&mut self, _: iroh::endpoint::VarInt) -> std::io::Result<()> {
        Ok(())
    }

    fn id(&self) -> u64 {
        0
    }
}

impl iroh_blobs::util::AsyncWriteSendStreamExtra for QuinnSend {
    fn inner(&mut self) -> &mut (impl tokio::io::AsyncWrite + Unpin + Send) {
        &mut self.0
    }

    fn reset(&mut self, _: iroh::endpoint::VarInt) -> std::io::Result<()> {
        Ok(())
    }

    async fn stopped(&mut self) -> std::io::Result<Option<iroh::endpoint::VarInt>> {
        Ok(None)
    }

    fn id(&self) -> u64 {
        0
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_transfer_goes_on_where_it_stopped() {
    let group = Arc::new(Group::default());
    let (holder, asker) = (peer(&group, 1), peer(&group, 2));
    let size = 64u64 << 20;
    let item = holder.files.add(&holder.path("film"), &noise(size as usize));
    let mut request = asker.request(true, vec![item.clone()], &[&holder]);
    let cancel = request.cancel.clone();
    let seen = Arc::new(Mutex::new(0));
    let counted = seen.clone();
    request.progress = Arc::new(move |bytes| {
        let mut seen = counted.lock().unwrap();
        *seen += bytes;
        if *seen > 20 << 20 {
            cancel.cancel();
        }
    });
    assert!(matches!(asker.plane.fetch(request).await[..], [Fetched::Cancelled]));
    let first = *seen.lock().unwrap();
    assert!(first > 20 << 20 && first < size);
    let fetched = asker.fetch(true, vec![item], &[&holder]).await;
    let rest = complete(&fetched[0]);
    assert!(rest <= size - first + (2 << 20), "{first} came first, {rest} after");
    assert_eq!(
        crate::tree_hash::hash_file(&fs::File::open(asker.path("partial-0")).unwrap(), size).unwrap(),
        blake3::hash(&noise(size as usize))
    );

    // What a crash spoiled is noticed and fetched again, and nothing else.
    let path = asker.path("partial-0");
    assert_eq!(
        complete(
            &asker.fetch(true, vec![holder.files.add(&holder.path("film"), &noise(size as usize))], &[&holder]).await
                [0]
        ),
        0
    );
    assert!(path.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_refused_and_the_next_source_serves() {
    let group = Arc::new(Group::default());
    let (bad, good, asker) = (peer(&group, 1), peer(&group, 2), peer(&group, 3));
    for (tcp, size) in [(true, 50_000usize), (false, 50_000), (true, 3 << 20), (false, 3 << 20)] {
        let bytes = noise(size);
        let name = format!("{tcp}-{size}");
        let item = bad.files.add(&bad.path(&name), &bytes);
        good.files.add(&good.path(&name), &bytes);
        // The inner nodes were computed when the file was sound; then a bit flips, and size and time stay.
        assert_eq!(complete(&asker.fetch(tcp, vec![item.clone()], &[&bad]).await[0]), size as u64);
        fs::remove_file(asker.path("partial-0")).unwrap();
        let path = bad.path(&name);
        let mut flipped = bytes.clone();
        flipped[size / 2] ^= 1;
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        fs::write(&path, &flipped).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();

        let alone = asker.fetch(tcp, vec![item.clone()], &[&bad]).await;
        assert!(
            matches!(&alone[..], [Fetched::Failed(why)] if why[..] == [(bad.device(), Reason::Damaged)]),
            "{alone:?}"
        );
        assert!(bad.files.doubted.lock().unwrap().contains(&item.hash));
        let _ = fs::remove_file(asker.path("partial-0"));
        let fetched = asker.fetch(tcp, vec![item], &[&bad, &good]).await;
        complete(&fetched[0]);
        assert!(fs::read(asker.path("partial-0")).unwrap() == bytes);
        fs::remove_file(asker.path("partial-0")).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changed_is_not_served_under_its_old_name() {
    let group = Arc::new(Group::default());
    let (holder, asker) = (peer(&group, 1), peer(&group, 2));
    let item = holder.files.add(&holder.path("file"), &noise(100_000));
    fs::write(holder.path("file"), noise(100_001)).unwrap();
    let fetched = asker.fetch(true, vec![item.clone()], &[&holder]).await;
    assert!(matches!(&fetched[..], [Fetched::Failed(why)] if why[0].1 == Reason::Damaged));
    fs::remove_file(holder.path("file")).unwrap();
    let fetched = asker.fetch(true, vec![item], &[&holder]).await;
    assert!(matches!(&fetched[..], [Fetched::Failed(why)] if why[0].1 == Reason::NotThere));
}

/// What is withheld is as good as not there, and the holder stays a source for all else.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_gets_only_what_it_may_read() {
    let group = Arc::new(Group::default());
    let (holder, asker, other) = (peer(&group, 1), peer(&group, 2), peer(&group, 3));
    let secret = holder.files.add(&holder.path("secret"), b"secret");
    let note = holder.files.add(&holder.path("note"), b"note");
    holder.files.withheld.lock().unwrap().insert((asker.device(), secret.hash));
    for tcp in [true, false] {
        let fetched = asker.fetch(tcp, vec![secret.clone()], &[&holder]).await;
        assert!(matches!(&fetched[..], [Fetched::Failed(why)] if why[0].1 == Reason::NotThere), "{fetched:?}");
        complete(&asker.fetch(tcp, vec![note.clone()], &[&holder]).await[0]);
        complete(&other.fetch(tcp, vec![secret.clone()], &[&holder]).await[0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_former_members_get_nothing() {
    let group = Arc::new(Group::default());
    let (holder, asker) = (peer(&group, 1), peer(&group, 2));
    let item = holder.files.add(&holder.path("file"), b"secret");
    for tcp in [true, false] {
        group.0.lock().unwrap().insert(asker.device());
        complete(&asker.fetch(tcp, vec![item.clone()], &[&holder]).await[0]);
        fs::remove_file(asker.path("partial-0")).unwrap();
        // The connection still stands; the next request on it is refused.
        group.0.lock().unwrap().remove(&asker.device());
        let fetched = asker.fetch(tcp, vec![item.clone()], &[&holder]).await;
        assert!(matches!(&fetched[..], [Fetched::Failed(why)] if why[0].1 == Reason::Refused), "{fetched:?}");
        let stranger = peer(&Arc::new(Group::default()), 7);
        let fetched = stranger.fetch(tcp, vec![item.clone()], &[&holder]).await;
        assert!(
            matches!(&fetched[..], [Fetched::Failed(why)] if matches!(why[0].1, Reason::Refused | Reason::Unreachable)),
            "{fetched:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_missing_blob_does_not_stop_the_others() {
    let group = Arc::new(Group::default());
    let (holder, asker) = (peer(&group, 1), peer(&group, 2));
    let mut items: Vec<Item> =
        (0..20u8).map(|number| holder.files.add(&holder.path(&format!("f{number}")), &[number; 1000])).collect();
    items[7].hash = [9; 32];
    let fetched = asker.fetch(true, items, &[&holder]).await;
    for (number, fetched) in fetched.iter().enumerate() {
        match fetched {
            Fetched::Failed(why) if number == 7 => assert_eq!(why[0].1, Reason::NotThere),
            other => assert_eq!(complete(other), 1000, "{number}"),
        }
    }
}

/// A source that says nothing is given up in favour of the next one.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_source_is_given_up() {
    let group = Arc::new(Group::default());
    let (holder, asker) = (peer(&group, 1), peer(&group, 2));
    let item = holder.files.add(&holder.path("file"), &noise(10_000));
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mute = SigningKey::from_bytes(&[5; 32]);
    let mut request = asker.request(true, vec![item], &[&holder]);
    request.items[0].sources.insert(0, device(&mute));
    request.addresses.insert(device(&mute), vec![(true, silent.local_addr().unwrap())]);
    complete(&ends(asker.plane.fetch(request)).await[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_travels_alone() {
    let group = Arc::new(Group::default());
    let (holder, asker) = (peer(&group, 1), peer(&group, 2));
    let bytes = noise(5 << 20);
    let item = holder.files.add(&holder.path("film"), &bytes);
    for range in [0..1, 16_000..17_000, 3_000_000..3_000_001, (5 << 20) - 10..5 << 20] {
        let request = asker.request(true, vec![item.clone()], &[&holder]);
        let (_, got) = asker.plane.fetch_range(&request, range.start as u64..range.end as u64).await.unwrap();
        assert!(got == bytes[range.clone()], "{range:?}");
    }
    let small =
        asker.plane.fetch_small(item.hash, holder.device(), &[(false, holder.plane.quic_addr())]).await.unwrap();
    assert!(small == bytes);
}
