//! Everything else is lost: a sealed location and the recovery words give all files back, on a machine that has nothing.

use crate::bucket::Bucket;
use larder_protocol::{id::LocationId, path::RelPath, seal::page_of};
use larder_test_servers::{
    mock::{Drive, Graph, OAuth, drive, graph},
    servers::{FakeGcs, Sftp, WebDav},
};
use larder_tests::{Node, World, data, json};
use std::{fs, path::Path};

/// Founds a group and gives its recovery words.
fn found(node: &Node) -> String {
    let words = node.path("words");
    node.ok(["init", "--name", node.name(), "--recovery-out", words.to_str().unwrap()]);
    node.up();
    fs::read_to_string(words).unwrap()
}

fn objects(disk: &Path) -> Vec<std::path::PathBuf> {
    let shards = fs::read_dir(disk.join("objects")).unwrap().map(|shard| shard.unwrap().path());
    let mut objects: Vec<_> =
        shards.flat_map(|shard| fs::read_dir(shard).unwrap().map(|object| object.unwrap().path())).collect();
    objects.sort_by_key(|path| fs::metadata(path).unwrap().len());
    objects
}

#[test]
fn every_file_comes_back() {
    let world = World::new();
    let (laptop, fresh) = (world.machine("laptop"), world.machine("fresh"));
    let words = found(&laptop);
    let (documents, disk) = (laptop.folder("documents"), laptop.folder("disk"));
    let files = [("tax/letter.pdf", 70_000), ("film.mp4", 9_000_001), ("empty", 0), ("again/film.mp4", 9_000_001)];
    let hashes: Vec<String> = files
        .iter()
        .map(|(path, size)| data::file(&documents.join(path), if *size > 9_000_000 { 7 } else { *size }, *size))
        .collect();
    laptop.add("documents", &documents);
    laptop.add_sealed("vault", &disk);
    laptop.objects(["ensure", "documents:", "--at", "vault"]);
    laptop.down();
    fs::remove_dir_all(laptop.home()).unwrap();

    let out = fresh.path("back");
    let restore = |words: &str| {
        let args =
            ["catalog", "rebuild", "--from", disk.to_str().unwrap(), "--recovery", "-", "--to", out.to_str().unwrap()];
        fresh.command(args).stdin(words).run()
    };
    let restored = restore(&words).expect(0).objects();
    assert_eq!(restored.len(), files.len(), "{restored:#?}");
    for ((path, size), hash) in files.iter().zip(&hashes) {
        assert_eq!(&data::hash(&out.join(path)), hash, "{path}");
        let view = restored.iter().find(|view| json::text(view, "path") == *path).expect("it was said");
        assert_eq!((&view["content_id"], &view["bytes"]), (&hash.as_str().into(), &(*size).into()));
    }
    // Again: what is there stays. A different file in the way is left alone.
    fs::write(out.join("empty"), "mine").unwrap();
    let again = restore(&words);
    assert_eq!((again.code(), again.error_kind().as_deref()), (Some(3), Some("occupied")), "{}", again.stderr);
    assert_eq!(fs::read(out.join("empty")).unwrap(), b"mine");

    // Words of another group, words that are none, and a folder that is no sealed location.
    let stranger = world.machine("stranger");
    let others = found(&stranger);
    for wrong in [others.as_str(), "abandon abandon abandon"] {
        let refused = restore(wrong);
        assert_eq!(
            (refused.code(), refused.error_kind().as_deref()),
            (Some(5), Some("recovery-wrong")),
            "{}",
            refused.stderr
        );
    }

    // A chunk that was changed takes its file with it, a page of the snapshot its names; the rest comes back.
    fs::remove_dir_all(&out).unwrap();
    let largest = objects(&disk).pop().unwrap();
    let mut bytes = fs::read(&largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&largest, bytes).unwrap();
    let damaged = restore(&words);
    assert_eq!((damaged.code(), damaged.error_kind().as_deref()), (Some(3), Some("damaged")), "{}", damaged.stderr);
    assert!(out.join("tax/letter.pdf").exists() && !out.join("film.mp4").exists());
    let desk = disk.join(".larder/snapshot");
    let desk = fs::read_dir(desk).unwrap().map(|desk| desk.unwrap().path()).next().expect("the laptop's desk");
    let objects = fs::read_dir(&desk).unwrap().map(|object| object.unwrap().path());
    let pages: Vec<_> =
        objects.filter(|object| !["keys", "members"].iter().any(|name| object.ends_with(name))).collect();
    assert!(pages.len() > 1, "one page has all names: this proves nothing");
    for page in &pages {
        let mut bytes = fs::read(page).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(page, bytes).unwrap();
    }
    fs::remove_dir_all(&out).unwrap();
    let refused = restore(&words);
    assert_eq!((refused.code(), refused.error_kind().as_deref()), (Some(3), Some("partial")), "{}", refused.stderr);
    fs::write(desk.join("keys"), "no bundle").unwrap();
    assert_eq!(restore(&words).error_kind().as_deref(), Some("damaged"));
    fs::remove_file(desk.join("keys")).unwrap();
    assert_eq!(restore(&words).error_kind().as_deref(), Some("unknown-reference"));
}

#[test]
fn a_bucket_and_the_words_give_every_file_back() {
    let world = World::new();
    let (laptop, fresh) = (world.machine("laptop"), world.machine("fresh"));
    let words = found(&laptop);
    let bucket = Bucket::new();
    bucket.profile(&laptop, true);
    laptop.ok(["location", "add", "cloud", &bucket.address(), "--profile", "archive"]);
    let documents = laptop.folder("documents");
    let sizes =
        [("empty", 0), ("one", 1), ("tax/letter.pdf", 64 << 10), ("a/b/clip.mp4", 5 << 20), ("film.mp4", 25 << 20)];
    let hashes: Vec<String> =
        (1..).zip(&sizes).map(|(seed, (path, size))| data::file(&documents.join(path), seed, *size)).collect();
    laptop.add("documents", &documents);
    laptop.objects(["ensure", "documents:", "--at", "cloud"]);
    // Another kind of storage, which asks for no credential.
    let database = format!("sqlite://{}", world.folder("disk").join("objects.db").display());
    laptop.ok(["location", "add", "database", &database]);
    laptop.objects(["ensure", "documents:", "--at", "database"]);
    laptop.down();
    for gone in [laptop.home(), documents.as_path()] {
        fs::remove_dir_all(gone).unwrap();
    }

    let (out, address, endpoint) = (fresh.path("back"), bucket.address(), bucket.endpoint());
    let restore = |stdin: String| {
        let args = ["catalog", "rebuild", "--from", &address, "--set", &endpoint, "--recovery", "-", "--to"];
        fresh.command(args.iter().copied().chain([out.to_str().unwrap()])).stdin(stdin).run()
    };
    let key = bucket.credential();
    // Words of another group, no credential, and one that the storage does not take.
    let others = found(&world.machine("stranger"));
    for (stdin, kind) in [
        (format!("{others}\n{key}"), "recovery-wrong"),
        (words.clone(), "bad-request"),
        (format!("{words}\naccess_key_id=AK\nsecret_access_key=SK\n"), "credential-refused"),
    ] {
        let refused = restore(stdin);
        assert_eq!(refused.error_kind().as_deref(), Some(kind), "{}", refused.stderr);
        assert!(!out.exists() && refused.code() != Some(0));
    }
    let restored = restore(format!("{key}{words}")).expect(0).objects();
    assert_eq!(restored.len(), sizes.len(), "{restored:#?}");
    for ((path, _), hash) in sizes.iter().zip(&hashes) {
        assert_eq!(&data::hash(&out.join(path)), hash, "{path}");
    }
    let other = fresh.path("other");
    let args = ["catalog", "rebuild", "--from", &database, "--recovery", "-", "--to", other.to_str().unwrap()];
    assert_eq!(fresh.command(args).stdin(words.clone()).run().expect(0).objects().len(), sizes.len());
    for ((path, _), hash) in sizes.iter().zip(&hashes) {
        assert_eq!(&data::hash(&other.join(path)), hash, "{path}");
    }
    // What is there is not fetched again.
    bucket.proxy.log().clear();
    restore(format!("{words}\n{key}")).expect(0);
    let fetched: usize = bucket.proxy.log().all().iter().filter(|entry| entry.target.contains("/objects/")).count();
    assert_eq!(fetched, 0);

    // A chunk that was changed takes its file with it, a missing page its names; all is told, the rest comes back.
    fs::remove_dir_all(&out).unwrap();
    let (largest, _) = bucket.objects("objects/").pop().unwrap();
    let mut bytes = bucket.read(&largest);
    bytes[70_000] ^= 1;
    bucket.replace(&largest, bytes);
    let pages = bucket.objects(".larder/snapshot/");
    let desk = pages[0].0.rsplit_once('/').expect("a desk").0.to_owned();
    let number = |key: &&str| key.rsplit('/').next().is_some_and(|name| name.parse::<u16>().is_ok());
    let pages: Vec<&str> = pages.iter().map(|(key, _)| key.as_str()).filter(number).collect();
    assert!(pages.len() > 2, "{pages:?}");
    bucket.delete(pages[0]);
    let partly = restore(format!("{words}\n{key}"));
    assert_eq!(partly.code(), Some(3), "{}", partly.stderr);
    let back = partly.objects();
    assert!(!back.is_empty() && back.len() < sizes.len(), "{back:#?}");
    for view in &back {
        assert_eq!(data::hash(&out.join(json::text(view, "path"))), json::text(view, "content_id"));
    }
    let page: u16 = pages[0].rsplit('/').next().unwrap().parse().unwrap();
    assert!(partly.stderr.contains(&format!("page {page} of the snapshot is missing")), "{}", partly.stderr);
    // The index: whether a page is missing is unknown then, and that is said.
    bucket.delete(&format!("{desk}/index"));
    bucket.delete(&format!("{desk}/members"));
    let partly = restore(format!("{words}\n{key}"));
    assert_eq!(partly.code(), Some(3), "{}", partly.stderr);
    for said in ["index of the snapshot is missing", "membership copy is missing"] {
        assert!(partly.stderr.contains(said), "{}", partly.stderr);
    }
}

/// A kind of storage: its address, the settings that lead to it, and its credential as lines for stdin.
struct Kind {
    provider: &'static str,
    address: String,
    settings: Vec<String>,
    credential: String,
}

impl Kind {
    fn new(provider: &'static str, address: &str, settings: &[(&str, &str)], credential: &[(&str, &str)]) -> Self {
        let lines = |pairs: &[(&str, &str)]| -> Vec<String> {
            pairs.iter().map(|(name, value)| format!("{name}={value}")).collect()
        };
        let credential = lines(credential).join("\n") + "\n";
        Self { provider, address: address.to_owned(), settings: lines(settings), credential }
    }

    fn sets(&self) -> impl Iterator<Item = &str> {
        self.settings.iter().flat_map(|setting| ["--set", setting.as_str()])
    }
}

/// A new login of an account, as lines for stdin.
fn login(oauth: &OAuth, scopes: &[&str]) -> String {
    let secret = oauth.client_secret().map_or_else(String::new, |secret| format!("client_secret={secret}\n"));
    format!("client_id={}\n{secret}refresh_token={}\n", oauth.client_id(), oauth.grant(scopes).refresh)
}

#[test]
fn every_kind_of_storage_and_the_words_give_every_file_back() {
    const GRAPH_SCOPES: [&str; 2] = [graph::SCOPE_APP_FOLDER, graph::SCOPE_OFFLINE];
    let world = World::new();
    let laptop = world.machine("laptop");
    let words = found(&laptop);
    let (dav, sftp, gcs) = (WebDav::start(), Sftp::start(), FakeGcs::start());
    let (on_drive, on_graph) = (Drive::start(), Graph::start());
    let (port, key, hosts) = (sftp.port(), sftp.key(), sftp.known_hosts());
    let folder = sftp.files().join("some folder");
    let at_sftp = format!("sftp://{}@127.0.0.1:{port}{}", sftp.user(), folder.display());
    let key = [("key_file", key.to_str().unwrap()), ("known_hosts", hosts.to_str().unwrap())];
    let at_dav = dav.endpoint().replace("http://", "webdav://");
    let at_gcs = format!("gs://{}/some/prefix", gcs.bucket());
    let (drive_base, graph_base) = (on_drive.base(), on_graph.base());
    let google = [("api", drive_base.as_str()), ("accounts", &drive_base), ("oauth", &drive_base)];
    let microsoft = [("api", graph_base.as_str()), ("accounts", graph_base.trim_end_matches("/v1.0"))];
    let mut kinds = [
        Kind::new("webdav", &at_dav, &[], &[("username", dav.user()), ("password", dav.password())]),
        Kind::new("sftp", &at_sftp, &key, &[]),
        Kind::new("gcs", &at_gcs, &[("endpoint", gcs.endpoint())], &[("access_token", "any")]),
        Kind::new("gdrive", "gdrive:///Larder", &google, &[]),
        Kind::new("onedrive", "onedrive:///Larder", &microsoft, &[]),
    ];
    kinds[3].credential = login(on_drive.oauth(), &[drive::SCOPE_FILE]);
    kinds[4].credential = login(on_graph.oauth(), &GRAPH_SCOPES);
    let documents = laptop.folder("documents");
    let sizes = [("empty", 0), ("one", 1), ("tax/letter.pdf", 64 << 10), ("film.mp4", (5 << 20) + 3)];
    let hashes: Vec<String> =
        (1..).zip(&sizes).map(|(seed, (path, size))| data::file(&documents.join(path), seed, *size)).collect();
    laptop.add("documents", &documents);
    for kind in &kinds {
        let profile = ["profile", "add", kind.provider, "--provider", kind.provider];
        laptop.ok(profile.into_iter().chain(kind.sets()));
        if kind.credential.contains('=') {
            laptop.command(["credential", "set", kind.provider]).stdin(kind.credential.clone()).run().expect(0);
        }
        let name = format!("at-{}", kind.provider);
        laptop.ok(["location", "add", &name, &kind.address, "--profile", kind.provider]);
        laptop.objects(["ensure", "documents:", "--at", &name]);
    }
    laptop.down();
    for gone in [laptop.home(), documents.as_path()] {
        fs::remove_dir_all(gone).unwrap();
    }

    // The accounts are still there; whoever has them logs in anew.
    kinds[3].credential = login(on_drive.oauth(), &[drive::SCOPE_FILE]);
    kinds[4].credential = login(on_graph.oauth(), &GRAPH_SCOPES);
    let fresh = world.machine("fresh");
    let restore = |kind: &Kind, stdin: String, out: &str| {
        let args = ["catalog", "rebuild", "--from", &kind.address, "--recovery", "-", "--to", out];
        fresh.command(args.into_iter().chain(kind.sets())).stdin(stdin).run()
    };
    for kind in &kinds {
        let out = fresh.path(kind.provider);
        let restored = restore(kind, format!("{words}\n{}", kind.credential), out.to_str().unwrap()).expect(0);
        assert_eq!(restored.objects().len(), sizes.len(), "{}: {restored:?}", kind.provider);
        for ((path, _), hash) in sizes.iter().zip(&hashes) {
            assert_eq!(&data::hash(&out.join(path)), hash, "{}: {path}", kind.provider);
        }
        let said = format!("{}{}", restored.text(), restored.stderr);
        let secrets = [on_drive.oauth().secrets(), on_graph.oauth().secrets()].concat();
        assert!(!secrets.iter().any(|secret| said.contains(secret)), "{said}");
    }
    // OneDrive has replaced the login: the one that was given is void, and the new one is in the home.
    let (last, out) = (&kinds[4], fresh.path("again"));
    let again = |stdin| restore(last, stdin, out.to_str().unwrap());
    let other = again(format!("{words}\n{}", last.credential));
    assert_eq!(other.error_kind().as_deref(), Some("name-taken"), "{}", other.stderr);
    assert_eq!(again(words.clone()).expect(0).objects().len(), sizes.len());
    // With it the device goes on.
    fresh.found();
    let running = again(words.clone());
    assert_eq!(running.error_kind().as_deref(), Some("node-running"), "{}", running.stderr);
    fresh.ok(["profile", "add", "onedrive", "--provider", "onedrive"].into_iter().chain(last.sets()));
    let added = fresh.object(["location", "add", "cloud", "onedrive:///Larder again", "--profile", "onedrive"]);
    assert_eq!(added["state"], "connected", "{added:#}");
}

/// Two gateways of a server without conditional writes store at the same time, each files of its own, whose names all belong to
/// one page of the snapshot.
#[test]
fn what_two_gateways_stored_at_once_comes_back() {
    const FILES: usize = 20;
    let world = World::new();
    let [gate, second, fresh] = ["gate", "second", "fresh"].map(|name| world.machine(name));
    let words = found(&gate);
    second.join(&gate.invite());
    let dav = WebDav::start();
    let address = dav.endpoint().replace("http://", "webdav://");
    let credential = format!("username={}\npassword={}\n", dav.user(), dav.password());
    gate.ok(["profile", "add", "dav", "--provider", "webdav"]);
    gate.command(["credential", "set", "dav"]).stdin(credential.clone()).run().expect(0);
    let added = gate.object(["location", "add", "cloud", &address, "--profile", "dav"]);
    second.knows_location("cloud");
    second.command(["credential", "set", "dav"]).stdin(credential.clone()).run().expect(0);
    second.ok(["location", "test", "cloud"]);

    let id: LocationId = json::text(&added, "id").parse().unwrap();
    let names = (0..).map(|number: u64| RelPath::new(format!("{number}.txt")).unwrap());
    let names: Vec<RelPath> = names.filter(|name| page_of(&id, name) == 7).take(2 * FILES).collect();
    let mut hashes = Vec::new();
    let running = [(&gate, &names[..FILES]), (&second, &names[FILES..])].map(|(node, names)| {
        let folder = node.folder(node.name());
        for name in names {
            let (name, seed) = (name.as_str(), hashes.len() as u64);
            hashes.push((name, data::file(&folder.join(name), seed, 1000)));
        }
        node.add(node.name(), &folder);
        (node, format!("{}:", node.name()))
    });
    let running = running.map(|(node, all)| node.start(["ensure", &all, "--at", "cloud"]));
    for running in running {
        running.wait().expect(0);
    }
    assert_eq!(fs::read_dir(dav.files().join(".larder/snapshot")).unwrap().count(), 2, "each has a desk");
    for node in [&gate, &second] {
        node.down();
        fs::remove_dir_all(node.home()).unwrap();
    }
    let out = fresh.path("back");
    let args = ["catalog", "rebuild", "--from", &address, "--recovery", "-", "--to", out.to_str().unwrap()];
    let restored = fresh.command(args).stdin(format!("{words}\n{credential}")).run().expect(0);
    assert_eq!(restored.objects().len(), hashes.len(), "{restored:?}");
    for (path, hash) in &hashes {
        assert_eq!(&data::hash(&out.join(path)), hash, "{path}");
    }
}
