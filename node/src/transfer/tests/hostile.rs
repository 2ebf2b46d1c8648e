//! Peers that do not keep to the rules, and disks and memberships that change under a transfer.

use super::*;
use rustls::{ClientConnection, ServerConnection, StreamOwned};
use std::{
    future::Future,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicU64, Ordering},
};

const SHORT: Duration = Duration::from_millis(400);
const LONG: Duration = Duration::from_secs(3600);
/// Pause between the bytes of a drip.
const DRIP: Duration = Duration::from_millis(10);
const SIZE: usize = 9_000;

type ServerStream = StreamOwned<ServerConnection, TcpStream>;

/// A member that serves one request as the closure does.
fn tcp_source(answer: impl FnOnce(ServerStream) + Send + 'static) -> (DeviceId, SocketAddr) {
    let key = SigningKey::from_bytes(&[5; 32]);
    let config = Arc::new(crate::keys::tls::server(&key, ALPN).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), socket);
        let mut head = [0; 4];
        stream.read_exact(&mut head).unwrap();
        stream.read_exact(&mut vec![0; u32::from_le_bytes(head) as usize]).unwrap();
        answer(stream);
    });
    (device(&key), address)
}

/// As [`tcp_source`], over QUIC.
fn quic_source<F: Future<Output = ()> + Send + 'static>(
    answer: impl FnOnce(quinn::SendStream) -> F + Send + 'static,
) -> (DeviceId, SocketAddr) {
    let key = SigningKey::from_bytes(&[5; 32]);
    let tls = crate::keys::tls::server(&key, ALPN).unwrap();
    let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(tls).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let endpoint = quinn::Endpoint::server(quinn::ServerConfig::with_crypto(Arc::new(crypto)), any).unwrap();
    let address = endpoint.local_addr().unwrap();
    tokio::spawn(async move {
        let connection = endpoint.accept().await.unwrap().await.unwrap();
        let (send, mut receive) = connection.accept_bi().await.unwrap();
        receive.read_to_end(1 << 20).await.unwrap();
        answer(send).await;
        connection.closed().await;
    });
    (device(&key), address)
}

/// A request for a file of [`SIZE`] bytes to one source.
fn from_source(asker: &Peer, tcp: bool, (source, address): (DeviceId, SocketAddr)) -> Request {
    let hash = *blake3::hash(&noise(SIZE)).as_bytes();
    let item = Item { hash, size: SIZE as u64, partial: PathBuf::new(), sources: Vec::new() };
    let mut request = asker.request(tcp, vec![item], &[]);
    request.items[0].sources = vec![source];
    request.addresses.insert(source, vec![(tcp, address)]);
    request
}

/// Writes byte after byte until the other end hangs up.
fn drip(socket: &mut TcpStream, bytes: impl IntoIterator<Item = u8>) {
    socket.set_read_timeout(Some(DRIP)).unwrap();
    for byte in bytes {
        match socket.write_all(&[byte]).and_then(|()| socket.read(&mut [0; 64])) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(1..) => {}
            _ => return,
        }
    }
    panic!("the other end never hung up");
}

/// The head of a TLS record that never comes whole.
fn half_a_hello() -> impl Iterator<Item = u8> {
    [0x16, 3, 1, 0x3f, 0, 1, 0, 0x3e, 0xfc].into_iter().chain([3; 10_000])
}

fn failed_for(fetched: &[Fetched], reason: Reason) {
    assert!(matches!(fetched, [Fetched::Failed(why)] if why.len() == 1 && why[0].1 == reason), "{fetched:?}");
}

/// One byte in each stall time kept a fetch and its thread for ever: the watchdog knew silence only.
#[tokio::test(flavor = "multi_thread")]
async fn a_drip_is_a_stall() {
    let asker = peer_with_stall(&Arc::default(), 2, SHORT);
    let source = tcp_source(|mut stream| {
        // The bytes of a TLS record: the side that reads the plain text never wakes up between them.
        let mut tls = Vec::new();
        for plain in [&1_000_000u32.to_le_bytes()[..], &(SIZE as u64).to_le_bytes(), &[0; 16_000]] {
            stream.conn.writer().write_all(plain).unwrap();
            while stream.conn.wants_write() {
                stream.conn.write_tls(&mut tls).unwrap();
            }
        }
        drip(&mut stream.sock, tls);
    });
    failed_for(&ends(asker.plane.fetch(from_source(&asker, true, source))).await, Reason::Stalled);

    let source = quic_source(|mut send| async move {
        send.write_all(&(SIZE as u64).to_le_bytes()).await.unwrap();
        let mut pause = tokio::time::interval(DRIP);
        while send.write_all(&[0]).await.is_ok() {
            pause.tick().await;
        }
    });
    failed_for(&ends(asker.plane.fetch(from_source(&asker, false, source))).await, Reason::Stalled);
}

/// A source that took too long over one request, such as hashing a huge file, counted as unreachable for all others.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_slow_once_is_reachable() {
    let asker = peer_with_stall(&Arc::default(), 2, SHORT);
    let source = tcp_source(|mut stream| {
        let _ = stream.read(&mut [0]);
    });
    failed_for(&ends(asker.plane.fetch(from_source(&asker, true, source))).await, Reason::Stalled);
}

/// A drip before the source has proven who it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_drip_in_the_handshake_is_no_answer() {
    let asker = peer_with_stall(&Arc::default(), 2, SHORT);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        drip(&mut listener.accept().unwrap().0, [0x16, 3, 3, 0x3f, 0].into_iter().chain([2; 10_000]))
    });
    let source = (DeviceId::new([5; 32]), address);
    failed_for(&ends(asker.plane.fetch(from_source(&asker, true, source))).await, Reason::Unreachable);
}

/// A cancelled fetch held its thread until the source said something, or its stall time was over.
#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_is_cancelled_while_its_source_is_silent() {
    let asker = peer_with_stall(&Arc::default(), 2, LONG);
    for tcp in [true, false] {
        let (asked, was_asked) = tokio::sync::oneshot::channel();
        let (left, was_left) = tokio::sync::oneshot::channel();
        let source = if tcp {
            tcp_source(|mut stream| {
                asked.send(()).unwrap();
                let _ = stream.read(&mut [0]);
                left.send(()).unwrap();
            })
        } else {
            quic_source(|send| async move {
                asked.send(()).unwrap();
                let _ = send.stopped().await;
                left.send(()).unwrap();
            })
        };
        let request = from_source(&asker, tcp, source);
        let cancel = request.cancel.clone();
        let (fetched, ()) = ends(async {
            tokio::join!(asker.plane.fetch(request), async {
                was_asked.await.unwrap();
                cancel.cancel();
            })
        })
        .await;
        assert!(matches!(fetched[..], [Fetched::Cancelled]), "{fetched:?}");
        ends(was_left).await.unwrap();
    }
}

/// Membership was looked at when a request came, so that a removed device kept what it had begun to get.
#[tokio::test(flavor = "multi_thread")]
async fn removal_ends_a_transfer_under_way() {
    for tcp in [true, false] {
        let group = Arc::new(Group::default());
        let (holder, asker) = (peer(&group, 1), peer(&group, 2));
        let size = 96 << 20;
        let item = holder.files.add(&holder.path("film"), &vec![7; size]);
        let mut request = asker.request(tcp, vec![item], &[&holder]);
        let (removed, came) = (asker.device(), Arc::new(AtomicU64::new(0)));
        let counted = came.clone();
        request.progress = Arc::new(move |bytes| {
            counted.fetch_add(bytes, Ordering::Relaxed);
            group.0.lock().unwrap().remove(&removed);
        });
        failed_for(&ends(asker.plane.fetch(request)).await, Reason::Refused);
        assert!(came.load(Ordering::Relaxed) < size as u64 / 2, "only what was under way arrives");
    }
}

/// A member's TLS connection over TCP.
fn member_stream(member: &Peer, holder: &Peer) -> StreamOwned<ClientConnection, TcpStream> {
    let config = crate::keys::tls::client(&member.key, holder.device(), ALPN).unwrap();
    let connection = ClientConnection::new(Arc::new(config), "larder".try_into().unwrap()).unwrap();
    let mut stream = StreamOwned::new(connection, TcpStream::connect(holder.plane.tcp_addr()).unwrap());
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).unwrap();
    }
    stream
}

/// A connection that asked for nothing, or whose peer took no bytes, stood open after a removal.
#[tokio::test(flavor = "multi_thread")]
async fn removal_closes_idle_connections() {
    let group = Arc::new(Group::default());
    let (holder, member) = (peer(&group, 1), peer(&group, 2));
    // A request that was answered proves that the other end has let us in.
    let request = wire::encode(&vec![([9; 32].into(), bao_tree::ChunkRanges::all())]).unwrap();
    let mut stream = member_stream(&member, &holder);
    stream.write_all(&[&(request.len() as u32).to_le_bytes(), &request[..]].concat()).unwrap();
    stream.read_exact(&mut [0; 8]).unwrap();
    let tls = crate::keys::tls::client(&member.key, holder.device(), ALPN).unwrap();
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let endpoint = quinn::Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    let connection = endpoint.connect_with(config, holder.plane.quic_addr(), "larder").unwrap().await.unwrap();
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(&request).await.unwrap();
    send.finish().unwrap();
    assert!(receive.read_to_end(1).await.is_err());

    group.0.lock().unwrap().remove(&member.device());
    let closed = ends(connection.closed()).await;
    let code = quinn::VarInt::from_u32(1);
    assert!(
        matches!(&closed, quinn::ConnectionError::ApplicationClosed(close) if close.error_code == code),
        "{closed:?}"
    );
    let read = tokio::task::spawn_blocking(move || stream.read(&mut [0]));
    assert!(!matches!(ends(read).await.unwrap(), Ok(1..)));
}

/// A bit that flipped in our own cache was taken for damage of the user's file, which was doubted before the whole group.
#[tokio::test(flavor = "multi_thread")]
async fn a_spoiled_outboard_is_computed_again() {
    let group = Arc::new(Group::default());
    let (holder, asker) = (peer(&group, 1), peer(&group, 2));
    let bytes = noise(9 << 20);
    let item = holder.files.add(&holder.path("film"), &bytes);
    let fetch = async || {
        let fetched = ends(asker.fetch(true, vec![item.clone()], &[&holder])).await.remove(0);
        let arrived = fs::read(asker.path("partial-0")).unwrap() == bytes;
        fs::remove_file(asker.path("partial-0")).unwrap();
        (fetched, arrived)
    };
    complete(&fetch().await.0);
    let name = larder_protocol::id::to_hex(&item.hash);
    let path = holder.path("outboards").join(&name[..2]).join(name.clone() + ".obao4");
    let sound = fs::read(&path).unwrap();
    for at in [0, sound.len() / 2, sound.len() - 1] {
        let mut spoiled = sound.clone();
        spoiled[at] ^= 1;
        fs::write(&path, &spoiled).unwrap();
        let (fetched, arrived) = fetch().await;
        assert_eq!(complete(&fetched), bytes.len() as u64);
        assert!(arrived && fs::read(&path).unwrap() == sound);
    }
    assert!(holder.files.doubted.lock().unwrap().is_empty(), "the file is sound");

    // A file that is damaged too is still found out.
    let modified = fs::metadata(holder.path("film")).unwrap().modified().unwrap();
    let mut flipped = bytes.clone();
    flipped[8 << 20] ^= 1;
    fs::write(holder.path("film"), flipped).unwrap();
    fs::File::options().write(true).open(holder.path("film")).unwrap().set_modified(modified).unwrap();
    let mut spoiled = sound.clone();
    spoiled[sound.len() / 2] ^= 1;
    fs::write(&path, spoiled).unwrap();
    failed_for(&[fetch().await.0], Reason::Damaged);
    assert_eq!(*holder.files.doubted.lock().unwrap(), [item.hash]);
}

/// One file that could not be opened ended the response, and all other files of the group failed with it. A pipe in the
/// place of a file held the thread that opened it. Over QUIC the refusal overtook the files before it.
#[tokio::test(flavor = "multi_thread")]
async fn unreadable_files_do_not_stop_the_others() {
    for tcp in [true, false] {
        let group = Arc::new(Group::default());
        let (holder, asker) = (peer(&group, 1), peer(&group, 2));
        let items: Vec<Item> =
            (0..20u8).map(|n| holder.files.add(&holder.path(&format!("f{n}")), &noise(30_000 + n as usize))).collect();
        for lost in ["f3", "f7", "f11", "f15"] {
            fs::remove_file(holder.path(lost)).unwrap();
        }
        std::os::unix::fs::symlink(holder.path("f7"), holder.path("f7")).unwrap();
        let mode = rustix::fs::Mode::RUSR;
        rustix::fs::mknodat(rustix::fs::CWD, holder.path("f11"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
        fs::create_dir(holder.path("f15")).unwrap();
        let fetched = ends(asker.fetch(tcp, items, &[&holder])).await;
        for (number, fetched) in fetched.into_iter().enumerate() {
            match number {
                3 | 7 => failed_for(&[fetched], Reason::NotThere),
                11 | 15 => failed_for(&[fetched], Reason::Damaged),
                _ => assert_eq!(complete(&fetched), 30_000 + number as u64),
            }
        }
    }
}

/// A partial file that could not be written ended the fetch of all others, which "failed" without a reason.
#[tokio::test(flavor = "multi_thread")]
async fn an_unwritable_file_does_not_stop_the_others() {
    let group = Arc::new(Group::default());
    let (holder, asker) = (peer(&group, 1), peer(&group, 2));
    let items = (0..5u8).map(|n| holder.files.add(&holder.path(&format!("f{n}")), &[n; 1000])).collect();
    fs::create_dir(asker.path("partial-2")).unwrap();
    for (number, fetched) in ends(asker.fetch(true, items, &[&holder])).await.iter().enumerate() {
        match fetched {
            Fetched::Disk(_) => assert_eq!(number, 2),
            other => assert_eq!(complete(other), 1000),
        }
    }
}

/// A panic on the side that writes left the item to be asked for again, of the same source, for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_ends_the_fetch() {
    let group = Arc::new(Group::default());
    let (holder, asker) = (peer(&group, 1), peer(&group, 2));
    let item = holder.files.add(&holder.path("file"), &noise(SIZE));
    let mut request = asker.request(true, vec![item], &[&holder]);
    request.progress = Arc::new(|_| panic!("on purpose"));
    failed_for(&ends(asker.plane.fetch(request)).await, Reason::Broken);
}

/// 128 connections that dripped bytes kept the door closed for members: they counted like members and had no deadline.
#[tokio::test(flavor = "multi_thread")]
async fn silent_strangers_do_not_close_the_door() {
    let group = Arc::new(Group::default());
    let (holder, asker) = (peer_with_stall(&group, 1, LONG), peer(&group, 2));
    let item = holder.files.add(&holder.path("file"), &noise(SIZE));
    let strangers: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(holder.plane.tcp_addr()).unwrap()).collect();
    complete(&ends(asker.fetch(true, vec![item.clone()], &[&holder])).await[0]);
    drop(strangers);

    // Over QUIC: many first flights whose answers nobody hears.
    let (hole, server) = (UdpSocket::bind("127.0.0.1:0").unwrap(), holder.plane.quic_addr());
    let tls = crate::keys::tls::client(&SigningKey::from_bytes(&[7; 32]), holder.device(), ALPN).unwrap();
    let crypto = Arc::new(quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap());
    let endpoint = quinn::Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let mut connecting = Vec::new();
    for _ in 0..150 {
        let config = quinn::ClientConfig::new(crypto.clone());
        connecting.push(endpoint.connect_with(config, hole.local_addr().unwrap(), "larder").unwrap());
        let (hole, first) = (hole.try_clone().unwrap(), tokio::task::spawn_blocking);
        first(move || {
            let mut datagram = [0; 2000];
            let len = hole.recv(&mut datagram).unwrap();
            hole.send_to(&datagram[..len], server).unwrap();
        })
        .await
        .unwrap();
    }
    fs::remove_file(asker.path("partial-0")).unwrap();
    complete(&ends(asker.fetch(false, vec![item], &[&holder])).await[0]);
    drop(connecting);
}

/// A handshake had a time limit for each byte, not for all of it; so had a request.
#[tokio::test(flavor = "multi_thread")]
async fn who_drips_a_handshake_or_a_request_is_shown_out() {
    let group = Arc::new(Group::default());
    let (holder, member) = (peer_with_stall(&group, 1, SHORT), peer(&group, 2));
    let mut stranger = TcpStream::connect(holder.plane.tcp_addr()).unwrap();
    let shown_out = tokio::task::spawn_blocking(move || drip(&mut stranger, half_a_hello()));
    ends(shown_out).await.unwrap();

    let mut stream = member_stream(&member, &holder);
    let shown_out = tokio::task::spawn_blocking(move || {
        stream.write_all(&1000u32.to_le_bytes()).unwrap();
        let mut tls = Vec::new();
        stream.conn.writer().write_all(&[0; 1000]).unwrap();
        stream.conn.write_tls(&mut tls).unwrap();
        drip(&mut stream.sock, tls);
    });
    ends(shown_out).await.unwrap();
}

/// What a crash left half written stayed for ever.
#[test]
fn half_written_outboards_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tmp-1-1"), "half").unwrap();
    fs::create_dir(dir.path().join("ab")).unwrap();
    Outboards::open(dir.path().to_owned()).unwrap();
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["ab"]);
}

/// When the second address was taken, the node bound both anew, and the first went on serving on its old port.
#[tokio::test(flavor = "multi_thread")]
async fn a_plane_that_does_not_start_serves_nothing() {
    let (group, dir) = (Arc::new(Group::default()), tempfile::tempdir().unwrap());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let quic = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config =
        PlaneConfig { quic, tcp: taken.local_addr().unwrap(), outboards: dir.path().join("outboards"), stall: SHORT };
    let key = SigningKey::from_bytes(&[1; 32]);
    let bound = DataPlane::bind(config, key, group, Arc::new(Files::default()));
    assert!(matches!(bound, Err(PlaneError::Bind { .. })));
    ends(async {
        while UdpSocket::bind(quic).is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// A member's QUIC connection.
async fn member_connection(member: &Peer, holder: &Peer) -> quinn::Connection {
    let tls = crate::keys::tls::client(&member.key, holder.device(), ALPN).unwrap();
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let endpoint = quinn::Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    endpoint.connect_with(config, holder.plane.quic_addr(), "larder").unwrap().await.unwrap()
}

/// One member that asked often and took nothing held all places for answers, and hundreds of megabytes: nobody else was
/// answered until its requests stalled.
#[tokio::test(flavor = "multi_thread")]
async fn who_takes_nothing_keeps_only_itself_waiting() {
    let group = Arc::new(Group::default());
    let (holder, greedy, other) = (peer_with_stall(&group, 1, LONG), peer(&group, 2), peer(&group, 3));
    let (large, small) = (noise(6 << 20), noise(SIZE));
    let wanted = holder.files.add(&holder.path("large"), &large);
    let item = holder.files.add(&holder.path("small"), &small);
    let request = wire::encode(&vec![(wanted.hash.into(), bao_tree::ChunkRanges::all())]).unwrap();
    let mut held = Vec::new();
    for _ in 0..3 {
        let connection = member_connection(&greedy, &holder).await;
        for _ in 0..20 {
            let (mut send, receive) = connection.open_bi().await.unwrap();
            send.write_all(&request).await.unwrap();
            send.finish().unwrap();
            held.push((connection.clone(), receive));
        }
    }
    for tcp in [false, true] {
        complete(&ends(other.fetch(tcp, vec![item.clone()], &[&holder])).await[0]);
        fs::remove_file(other.path("partial-0")).unwrap();
    }
    // What waits is answered after all, once somebody takes it.
    let taken = held.into_iter().map(|(_connection, mut receive)| async move {
        receive.read_to_end(16 << 20).await.map(|answer| answer.len())
    });
    let taken = ends(futures::future::join_all(taken)).await;
    assert!(taken.iter().all(|len| len.as_ref().is_ok_and(|len| *len > large.len())), "{taken:?}");
}

/// Each connection could hold windows of its own, and a member had as many as all others together.
#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_connection_of_a_member_makes_room() {
    let group = Arc::new(Group::default());
    let (holder, member) = (peer(&group, 1), peer(&group, 2));
    let mut connections = Vec::new();
    for _ in 0..6 {
        connections.push(member_connection(&member, &holder).await);
    }
    for connection in &connections[..3] {
        let closed = ends(connection.closed()).await;
        assert!(
            matches!(&closed, quinn::ConnectionError::ApplicationClosed(close) if close.error_code == 2u32.into()),
            "{closed:?}"
        );
    }
    assert!(connections[3..].iter().all(|connection| connection.close_reason().is_none()));
}

/// What a member may hold of small blobs is used up: they are served all the same, read twice.
#[test]
fn blobs_beyond_the_quota_are_streamed() {
    let (dir, files) = (tempfile::tempdir().unwrap(), Files::default());
    let bytes = noise(100_000);
    let item = files.add(&dir.path().join("file"), &bytes);
    let outboards = Outboards::open(dir.path().join("outboards")).unwrap();
    let preparations = &preparing::Preparations::new(outboards.into());
    let proofs = serve::Proofs { preparations, patience: Duration::ZERO };
    let quotas = super::super::transport::Quotas::default();
    let device = DeviceId::new([1; 32]);
    let quota = quotas.of(&device);
    let wanted = vec![(item.hash.into(), bao_tree::ChunkRanges::all())];
    let answer = || {
        let mut out = Vec::new();
        serve::respond((&files, &device), &proofs, &quota, &wanted, &mut out).unwrap();
        out
    };
    let whole = answer();
    let _all = quota.whole(8 << 20).unwrap();
    assert!(quota.whole(1).is_none());
    assert_eq!(answer(), whole);
    assert_eq!(fs::read_dir(dir.path().join("outboards")).unwrap().count(), 0, "nothing is kept of small blobs");
}
