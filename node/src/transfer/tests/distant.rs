//! Blobs that are not on the serving device, and are read in ranges.

use super::*;
use bytes::Bytes;
use larder_protocol::id::LocationId;
use std::{
    io,
    ops::Range,
    sync::{
        Condvar,
        atomic::{AtomicU64, Ordering},
    },
};

/// A blob in a cloud.
#[derive(Default)]
struct Cloud {
    bytes: Mutex<Vec<u8>>,
    /// Bytes that were read, and the most at a time.
    read: AtomicU64,
    most: AtomicU64,
    /// What was kept.
    kept: Arc<Mutex<Option<Vec<u8>>>>,
    /// How often somebody asked, and must have before another range is given while it is read through.
    asked: Mutex<(u64, u64)>,
    called: Condvar,
    asks_each: u64,
}

impl Distant for Cloud {
    fn location(&self) -> LocationId {
        LocationId::new([1; 16])
    }

    fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        let all = self.bytes.lock().unwrap().len() as u64;
        let early = |(asked, due): &mut (u64, u64)| self.read.load(Ordering::Relaxed) < all && *asked < *due;
        let mut asked = self.called.wait_while(self.asked.lock().unwrap(), early).unwrap();
        asked.1 = asked.0.saturating_add(self.asks_each);
        let len = range.end - range.start;
        self.read.fetch_add(len, Ordering::Relaxed);
        self.most.fetch_max(len, Ordering::Relaxed);
        let bytes = self.bytes.lock().unwrap();
        let bytes = bytes.get(range.start as usize..range.end as usize).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(Bytes::copy_from_slice(bytes))
    }

    fn keep(&self) -> Option<Box<dyn Keep>> {
        Some(Box::new(Keeping(Vec::new(), self.kept.clone())))
    }
}

struct Keeping(Vec<u8>, Arc<Mutex<Option<Vec<u8>>>>);

impl Keep for Keeping {
    fn take(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn proven(self: Box<Self>) {
        *self.1.lock().unwrap() = Some(self.0);
    }
}

impl Cloud {
    fn spoil(&self, at: usize) {
        self.bytes.lock().unwrap()[at] ^= 1;
    }
}

/// Serves one blob of a cloud.
struct Gateway {
    cloud: Arc<Cloud>,
    hash: [u8; 32],
    size: u64,
}

impl BlobSource for Gateway {
    fn find(&self, _: &DeviceId, hash: &[u8; 32]) -> Vec<Blob> {
        self.cloud.asked.lock().unwrap().0 += 1;
        self.cloud.called.notify_all();
        let blob = Blob { held: Held::Distant(self.cloud.clone()), size: self.size };
        if *hash == self.hash { vec![blob] } else { Vec::new() }
    }

    fn doubt(&self, _: &[u8; 32], _: &Blob) {}
}

struct Story {
    gate: Peer,
    reader: Peer,
    cloud: Arc<Cloud>,
    bytes: Vec<u8>,
    item: Item,
}

fn story(size: usize, stall: Duration, cloud: Cloud) -> Story {
    let (group, bytes) = (Arc::default(), noise(size));
    *cloud.bytes.lock().unwrap() = bytes.clone();
    let (cloud, hash, size) = (Arc::new(cloud), *blake3::hash(&bytes).as_bytes(), size as u64);
    let mut gate = peer_with_stall(&group, 1, stall);
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = PlaneConfig { quic: any, tcp: any, outboards: gate.dir.path().join("outboards"), stall };
    let gateway = Arc::new(Gateway { cloud: cloud.clone(), hash, size });
    gate.plane = DataPlane::bind(config, gate.key.clone(), group.clone(), gateway).unwrap();
    let reader = peer_with_stall(&group, 2, stall);
    Story { gate, reader, cloud, bytes, item: Item { hash, size, partial: PathBuf::new(), sources: Vec::new() } }
}

impl Story {
    async fn fetch(&self, tcp: bool) -> Fetched {
        let _ = fs::remove_file(self.reader.path("partial-0"));
        ends(self.reader.fetch(tcp, vec![self.item.clone()], &[&self.gate])).await.pop().unwrap()
    }

    async fn range(&self, tcp: bool, range: Range<u64>) -> Result<Vec<u8>, Reason> {
        let request = self.reader.request(tcp, vec![self.item.clone()], &[&self.gate]);
        let got = ends(self.reader.plane.fetch_range(&request, range)).await;
        got.map(|(_, bytes)| bytes).map_err(|failures| failures[0].1)
    }

    fn read(&self) -> u64 {
        self.cloud.read.swap(0, Ordering::Relaxed)
    }
}

const SECONDS: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_a_cloud_is_read_through_once_and_then_in_ranges() {
    let size = 20_000_001;
    for tcp in [true, false] {
        let story = story(size, SECONDS, Cloud::default());
        let size = size as u64;
        let range = 5_000_000..5_000_100;
        assert!(story.range(tcp, range.clone()).await.unwrap() == story.bytes[5_000_000..5_000_100]);
        assert!(story.read() < size + (1 << 20), "once, and a range");
        assert_eq!(story.cloud.kept.lock().unwrap().as_ref(), Some(&story.bytes));
        assert_eq!(complete(&story.fetch(tcp).await), size);
        assert!(fs::read(story.reader.path("partial-0")).unwrap() == story.bytes);
        assert_eq!(story.read(), size);
        assert!(story.cloud.most.load(Ordering::Relaxed) <= 4 << 20, "never much of it at a time");
        let blob = Blob { held: Held::Distant(story.cloud.clone()), size };
        let own = story.gate.plane.read_range(story.item.hash, &blob, range, &|| true);
        assert!(own.unwrap() == story.bytes[5_000_000..5_000_100] && story.read() < 1 << 20);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_what_takes_long_to_read_through_asks_again() {
    // Each of four pieces takes several requests, all of them longer than a peer may say nothing.
    let stall = Duration::from_secs(1);
    for tcp in [true, false] {
        let story = story(16 << 20, stall, Cloud { asks_each: 2, ..Cloud::default() });
        let began = std::time::Instant::now();
        let range = ends(story.range(tcp, 0..100)).await;
        assert!(began.elapsed() > stall, "it took long");
        assert!(range.unwrap() == story.bytes[..100]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_never_read_through_is_given_up() {
    for tcp in [true, false] {
        let story = story(9 << 20, Duration::from_millis(100), Cloud { asks_each: u64::MAX, ..Cloud::default() });
        assert_eq!(story.range(tcp, 0..100).await, Err(Reason::Stalled));
        story.cloud.asked.lock().unwrap().0 = u64::MAX;
        story.cloud.called.notify_all();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_in_a_cloud_is_never_given() {
    for tcp in [true, false] {
        // Before it was read through; and it is not read again for every request.
        let story = story(10 << 20, SECONDS, Cloud::default());
        story.cloud.spoil(7 << 20);
        assert_eq!(story.range(tcp, 0..100).await, Err(Reason::Damaged));
        assert!(story.read() > 0 && story.cloud.kept.lock().unwrap().is_none());
        assert!(matches!(story.fetch(tcp).await, Fetched::Failed(why) if why[0].1 == Reason::Damaged));
        assert_eq!(story.read(), 0);
        // And after that.
        let story = self::story(10 << 20, SECONDS, Cloud::default());
        story.range(tcp, 0..100).await.unwrap();
        story.cloud.spoil(7 << 20);
        let changed = 7 << 20..(7 << 20) + 1;
        assert_eq!(story.range(tcp, changed.clone()).await, Err(Reason::Damaged));
        let blob = Blob { held: Held::Distant(story.cloud.clone()), size: story.item.size };
        let own = story.gate.plane.read_range(story.item.hash, &blob, changed, &|| true);
        assert_eq!(own, Err(Reason::Damaged));
        assert!(story.range(tcp, 0..100).await.unwrap() == story.bytes[..100], "the rest is as good as before");
        assert!(matches!(story.fetch(tcp).await, Fetched::Failed(why) if why[0].1 == Reason::Damaged));
        let partial = fs::read(story.reader.path("partial-0")).unwrap();
        assert!(partial.iter().zip(&story.bytes).all(|(got, byte)| *got == *byte || *got == 0), "a wrong byte");
        // When it is as it was, it is given.
        story.cloud.spoil(7 << 20);
        complete(&story.fetch(tcp).await);
    }
}
