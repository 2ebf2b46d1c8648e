//! `url`: addresses that a program of this machine reads, for a while, and pages of other sites do not.

use larder_test_servers::{
    http::{Answer as Told, Call},
    servers::SeaweedS3,
};
use larder_tests::{Node, World, data, eventually, json};
use serde_json::Value;
use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

const SIZE: u64 = 9_000_001;

/// Host and path of an address.
fn parts(url: &str) -> (&str, &str) {
    let rest = url.strip_prefix("http://").expect("an address");
    rest.split_at(rest.find('/').expect("a path"))
}

pub(crate) struct Answer {
    status: u16,
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let line = |line: &'_ str| {
            line.split_once(": ").filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(key, _)| key.len())
        };
        self.head.lines().find_map(|text| line(text).map(|length| &text[length + 2..]))
    }
}

/// One request over a connection of its own.
fn ask(host: &str, head: &str) -> Answer {
    let mut stream = TcpStream::connect(host).expect("the server listens");
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a status");
    Answer { status, head, body: bytes.split_off(end + 4) }
}

fn read(url: &str, method: &str, headers: &str) -> Answer {
    let (host, path) = parts(url);
    ask(host, &format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n"))
}

fn url(node: &Node, reference: &str) -> String {
    let view = node.object(["url", reference]);
    assert_eq!(view["kind"], "local", "{view:#}");
    json::text(&view, "url").to_owned()
}

/// Some bytes of what an address gives.
pub(crate) fn range(url: &str, first: u64, last: u64) -> Answer {
    read(url, "GET", &format!("Range: bytes={first}-{last}\r\n"))
}

#[test]
fn ranges_of_a_file_in_place() {
    let world = World::new();
    let [laptop] = world.group(["laptop"]);
    let films = laptop.folder("films");
    let film = films.join("summer film.mp4");
    let hash = data::file(&film, 1, SIZE);
    data::file(&films.join("other.mp4"), 2, 100);
    fs::write(films.join("page.html"), "<script>alert(1)</script>").unwrap();
    laptop.add("films", &films);

    let address = url(&laptop, "films:summer film.mp4");
    assert!(!address.contains(&hash) && !address.contains("summer"), "{address}");
    let whole = read(&address, "GET", "");
    assert_eq!(whole.status, 200, "{}", whole.head);
    assert!(whole.body == fs::read(&film).unwrap());
    assert_eq!(whole.header("content-type"), Some("video/mp4"));
    assert_eq!(whole.header("content-disposition"), Some("inline; filename*=UTF-8''summer%20film.mp4"));
    assert!(whole.header("content-security-policy").is_some_and(|policy| policy.contains("sandbox")), "{}", whole.head);
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("cache-control", "private, no-store"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        assert_eq!(whole.header(name), Some(value), "{name}");
    }
    let tag = whole.header("etag").expect("a tag").to_owned();
    assert!(!hash.contains(tag.trim_matches('"')));

    let head = read(&address, "HEAD", "");
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), Some(SIZE.to_string().as_str()));
    let part = range(&address, 4_100_000, 4_299_999);
    assert_eq!(part.status, 206, "{}", part.head);
    assert_eq!(part.header("content-range"), Some(format!("bytes 4100000-4299999/{SIZE}").as_str()));
    assert!(part.body == data::range(&film, 4_100_000, 200_000));
    let last = read(&address, "GET", "Range: bytes=-10\r\n");
    assert!(last.status == 206 && last.body == data::range(&film, SIZE - 10, 10));
    assert_eq!(range(&address, SIZE, SIZE).status, 416);
    assert_eq!(read(&address, "GET", &format!("If-None-Match: {tag}\r\n")).status, 304);
    let both = read(&address, "GET", "Range: bytes=0-0,5-5\r\n");
    assert_eq!((both.status, both.body.len() as u64), (200, SIZE));
    let page = read(&url(&laptop, "films:page.html"), "GET", "");
    assert!(page.header("content-disposition").is_some_and(|value| value.starts_with("attachment")), "{}", page.head);

    // The same address after a restart; a file that has changed is not served as what it was.
    laptop.down();
    laptop.up();
    assert!(range(&address, 7, 16).body == data::range(&film, 7, 10));
    let mut bytes = fs::read(&film).unwrap();
    bytes[5_000_000] ^= 1;
    fs::write(&film, &bytes).unwrap();
    assert_eq!(range(&address, 5_000_000, 5_000_000).status, 503, "no copy is what it was");
}

#[test]
fn sealed_and_on_another_device() {
    let world = World::new();
    let [laptop, nas] = world.group(["laptop", "nas"]);
    let films = laptop.folder("films");
    let film = films.join("film.mp4");
    let hash = data::file(&film, 3, SIZE);
    laptop.add("films", &films);
    nas.add_sealed("vault", &nas.folder("disk"));
    nas.eventually_where(&hash, |answer| answer["replicas"][0]["reachable"] == true);

    let address = url(&nas, &hash);
    assert!(range(&address, 8_999_000, 9_000_000).body == data::range(&film, 8_999_000, 1_001), "from the laptop");
    nas.object(["ensure", &hash, "--at", "vault"]);
    laptop.down();
    nas.sees(&laptop, false);
    // The address from before goes on: it names the content, not a copy of it.
    assert!(range(&address, 4_194_000, 4_195_000).body == data::range(&film, 4_194_000, 1_001), "from own chunks");
    let whole = read(&address, "GET", "");
    assert!(whole.status == 200 && whole.body == fs::read(&film).unwrap());
}

#[test]
fn nobody_else_reads_it() {
    let world = World::new();
    let [laptop] = world.group(["laptop"]);
    let notes = laptop.folder("notes");
    fs::write(notes.join("a.txt"), "mine").unwrap();
    fs::write(notes.join("b.txt"), "other").unwrap();
    laptop.add("notes", &notes);
    let (address, other) = (url(&laptop, "notes:a.txt"), url(&laptop, "notes:b.txt"));
    let (host, path) = parts(&address);
    assert_eq!(read(&address, "GET", "").body, b"mine");

    for (method, headers, status) in [
        ("POST", "Content-Length: 0\r\n", 405),
        ("DELETE", "", 405),
        ("OPTIONS", "", 405),
        ("GET", "Origin: http://evil.example\r\n", 403),
        ("GET", "Origin: null\r\n", 403),
        ("GET", "Sec-Fetch-Site: cross-site\r\n", 403),
        ("GET", "Sec-Fetch-Site: same-site\r\n", 403),
    ] {
        let answer = read(&address, method, headers);
        assert_eq!(answer.status, status, "{method} {headers}");
        assert!(!answer.body.starts_with(b"mine"));
    }
    for named in ["evil.example", "127.0.0.1", "localhost", &format!("evil.example:{}", &host[10..])] {
        let answer = ask(host, &format!("GET {path} HTTP/1.1\r\nHost: {named}\r\nConnection: close\r\n\r\n"));
        assert_eq!(answer.status, 421, "{named}");
    }
    // One address's signature is no other's, and nothing but signed paths exists.
    let signature = other.rsplit('/').next().unwrap();
    let mixed = format!("{}/{signature}", address.rsplit_once('/').unwrap().0);
    assert_eq!(read(&mixed, "GET", "").status, 404);
    for path in ["/", "/s/", "/v1/status", "/s/../../etc/passwd"] {
        assert_eq!(read(&format!("http://{host}{path}"), "GET", "").status, 404, "{path}");
    }
    laptop.fails(1, "ambiguous-reference", ["url", "notes:"]);
    laptop.fails(4, "unknown-reference", ["url", "notes:none.txt"]);
    let short = laptop.object(["url", "notes:a.txt", "--ttl", "1s"]);
    let short = json::text(&short, "url").to_owned();
    let deadline = Instant::now() + Duration::from_secs(30);
    while read(&short, "GET", "").status != 410 {
        assert!(Instant::now() < deadline, "it never expires");
    }
}

/// Whoever holds all connections open without asking anything is cut off, and the next one gets its answer.
#[test]
fn slow_heads_do_not_keep_others_out() {
    let world = World::new();
    let [laptop] = world.group(["laptop"]);
    let notes = laptop.folder("notes");
    fs::write(notes.join("a.txt"), "mine").unwrap();
    laptop.add("notes", &notes);
    let address = url(&laptop, "notes:a.txt");
    let (host, path) = parts(&address);
    let mut slow: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(host).unwrap()).collect();
    for stream in &mut slow {
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: ").as_bytes()).unwrap();
    }
    assert_eq!(read(&address, "GET", "").body, b"mine");
}

/// A bucket for profiles of this device, which differ in how they store.
struct Bucket {
    server: SeaweedS3,
    name: String,
}

impl Bucket {
    fn new() -> Self {
        let server = SeaweedS3::start();
        let name = server.bucket();
        Self { server, name }
    }

    /// Adds a location and the profile that it needs, both of that name.
    fn location(&self, node: &Node, name: &str, profile: &[&str]) {
        let endpoint = format!("endpoint={}", self.server.endpoint());
        node.ok(["profile", "add", name, "--provider", "s3", "--set", &endpoint].iter().chain(profile));
        let (id, secret) = (self.server.access_key(), self.server.secret_key());
        let lines = format!("access_key_id={id}\nsecret_access_key={secret}\n");
        node.command(["credential", "set", name]).stdin(lines).run().expect(0);
        let address = format!("s3://{}/{name}", self.name);
        let trust = if profile.contains(&"--no-encrypted") { &["--trust-store"][..] } else { &[] };
        node.ok(["location", "add", name, &address, "--profile", name].iter().chain(trust));
    }
}

fn kind_of<'a>(view: &'a Value, kind: &str) -> &'a str {
    assert_eq!(view["kind"], kind, "{view:#}");
    json::text(view, "url")
}

fn fetch(url: &str, first: u64, last: u64) -> Told {
    Call::new("GET", url).header("range", format!("bytes={first}-{last}")).go()
}

/// What lies bare in a bucket is read from there: by an address that the storage checks, or by one of this device that leads to
/// a fresh one each time.
#[test]
fn what_lies_bare_in_a_bucket_is_read_from_there() {
    let world = World::new();
    let [gate, phone] = world.group(["gate", "phone"]);
    let bucket = Bucket::new();
    bucket.location(&gate, "open", &["--no-encrypted", "--no-chunked"]);
    let films = gate.folder("films");
    let film = films.join("film.mp4");
    let hash = data::file(&film, 1, SIZE);
    let other = data::file(&films.join("other.mp4"), 2, 1_000);
    gate.add("films", &films);
    for content in [&hash, &other] {
        gate.ok(["ensure", content, "--at", "open"]);
    }

    // Whoever has it reads that one object, and does nothing else.
    let view = gate.object(["url", "open:film.mp4"]);
    let address = kind_of(&view, "presigned").to_owned();
    json::is_time(&view, "expires_at");
    assert!(address.starts_with(&bucket.server.endpoint()) && address.contains("X-Amz-Expires=3600"), "{address}");
    assert!(!address.contains(bucket.server.secret_key()));
    let part = fetch(&address, 4_100_000, 4_299_999);
    assert_eq!(part.status, 206);
    assert!(part.body == data::range(&film, 4_100_000, 200_000));
    assert_eq!(kind_of(&gate.object(["url", &hash]), "presigned").split('?').next(), address.split('?').next());
    let elsewhere = address.replace(&format!("{}/{hash}", &hash[..2]), &format!("{}/{other}", &other[..2]));
    assert_ne!(elsewhere, address);
    assert_eq!(Call::new("GET", &elsewhere).go().status, 403, "another object");
    for method in ["PUT", "DELETE", "HEAD"] {
        assert_eq!(Call::new(method, &address).go().status, 403, "{method}");
    }
    assert_eq!(Call::new("GET", &address).go().body.len() as u64, SIZE);
    let line = gate.objects(["log"]).into_iter().rfind(|line| line["action"] == "url").unwrap().to_string();
    assert!(line.contains("open") && !line.contains("X-Amz"), "{line}");

    // What the folder has comes from the folder, also by way of an address from before.
    let local = kind_of(&gate.object(["url", "films:film.mp4"]), "local").to_owned();
    let asked = kind_of(&gate.object(["url", "open:film.mp4", "--local"]), "local").to_owned();
    assert_eq!((range(&local, 0, 9).status, range(&asked, 0, 9).status), (206, 206));
    // A device without a credential gives addresses of its own, and reads through the gateway.
    let through = phone.knows(&hash);
    assert_eq!(json::list(&through, "replicas").len(), 2, "{through:#}");
    fs::rename(&film, gate.path("kept.mp4")).unwrap();
    gate.object(["index", "films", "--accept-loss"]);
    let far = url(&phone, &hash);
    assert!(range(&far, 4_100_000, 4_100_009).body == data::range(&gate.path("kept.mp4"), 4_100_000, 10));

    // Now only the bucket has it: the address of this device leads there, with a new signature when time has passed.
    let leads = || {
        let answer = range(&local, 5_000_000, 5_000_099);
        assert_eq!(answer.status, 302, "{}", answer.head);
        answer.header("location").unwrap().to_owned()
    };
    let (kept, brief) = (gate.path("kept.mp4"), gate.object(["url", &hash, "--ttl", "1s"]));
    let brief = kind_of(&brief, "presigned").to_owned();
    let first = leads();
    let next = eventually("another signature", || Some(leads()).filter(|url| *url != first).ok_or("the same"));
    for url in [&first, &next] {
        let part = fetch(url, 5_000_000, 5_000_099);
        assert!(part.status == 206 && part.body == data::range(&kept, 5_000_000, 100), "{}", part.status);
    }
    eventually("a brief address ends", || match Call::new("GET", &brief).go().status {
        403 => Ok(()),
        status => Err(status),
    });
    assert_eq!(fetch(&leads(), 0, 9).status, 206, "under an address of this device none ends");
    let head = read(&local, "HEAD", "");
    assert_eq!((head.status, head.header("content-length")), (200, Some(SIZE.to_string().as_str())));
    assert_eq!(range(&local, SIZE, SIZE).status, 416);

    // An object that is gone from the bucket has no address there.
    let path = format!("/{}/open/objects/{}/{hash}", bucket.name, &hash[..2]);
    assert_eq!(bucket.server.call("DELETE", &path, "", "").go().status, 204);
    assert_ne!(range(&local, 0, 9).status, 302);
    kind_of(&gate.object(["url", &hash]), "local");
}

#[test]
fn what_is_sealed_or_in_chunks_has_no_address_elsewhere() {
    let world = World::new();
    let gate = world.machine("gate");
    gate.found();
    let bucket = Bucket::new();
    bucket.location(&gate, "sealed-whole", &["--encrypted", "--no-chunked"]);
    bucket.location(&gate, "sealed-chunks", &[]);
    bucket.location(&gate, "chunks", &["--no-encrypted", "--chunked"]);
    bucket.location(&gate, "site", &["--no-encrypted", "--no-chunked", "--set", "publicUrl=https://cdn.example.org/"]);
    let files = gate.folder("files");
    let note = data::file(&files.join("note.txt"), 1, 100_000);
    gate.add("files", &files);
    for location in ["sealed-whole", "sealed-chunks", "chunks"] {
        gate.ok(["ensure", &note, "--at", location]);
        kind_of(&gate.object(["url", &format!("{location}:note.txt")]), "local");
    }
    fs::remove_file(files.join("note.txt")).unwrap();
    gate.object(["index", "files", "--accept-loss"]);
    let local = url(&gate, &note);
    assert_eq!(range(&local, 0, 9).status, 206, "from here, whatever has it");

    gate.ok(["ensure", &note, "--at", "site"]);
    let public = gate.object(["url", &note]);
    assert_eq!(kind_of(&public, "public"), format!("https://cdn.example.org/site/objects/{}/{note}", &note[..2]));
    assert!(public["expires_at"].is_null(), "{public:#}");
}
