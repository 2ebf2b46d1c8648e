//! Sealed locations: encrypted chunks that whoever holds the disk cannot read, and every member of the group can.

use larder_tests::{Node, World, cluster, data, data::Sample, json};
use std::{fs, path::Path};

/// Files of one, several and no chunk.
fn samples(folder: &Path) -> Vec<Sample> {
    let sizes = [("tax/letter-to-office.pdf", 70_000), ("film-of-summer.mp4", 9_000_000), ("empty-note.txt", 0)];
    let file = |(seed, (path, size)): (usize, &(&str, u64))| {
        let hash = data::file(&folder.join(path), 1 + seed as u64, *size);
        Sample { path: (*path).to_owned(), hash, size: *size }
    };
    sizes.iter().enumerate().map(file).collect()
}

/// What must not show on the disk of a sealed location.
fn needles(folder: &Path, samples: &[Sample]) -> Vec<Vec<u8>> {
    let mut needles = Vec::new();
    for sample in samples {
        needles.extend(sample.path.split('/').map(|part| part.as_bytes().to_vec()));
        needles.push(sample.hash.as_bytes().to_vec());
        needles.push(sample.hash.to_uppercase().into_bytes());
        needles.push(sample.hash.as_bytes()[..16].to_vec());
        let binary = (0..64).step_by(2).map(|at| u8::from_str_radix(&sample.hash[at..at + 2], 16).unwrap());
        needles.push(binary.collect());
        if sample.size > 0 {
            for at in [0, sample.size / 3, sample.size - 24] {
                needles.push(data::range(&folder.join(&sample.path), at, 24));
            }
        }
    }
    // A few bytes occur by chance in megabytes of ciphertext.
    needles.retain(|needle| needle.len() >= 6);
    needles
}

fn sealed_copy(answer: &serde_json::Value, location: &str) -> Option<serde_json::Value> {
    json::list(answer, "replicas").iter().find(|copy| copy["location"] == location).cloned()
}

#[test]
fn another_device_keeps_what_it_cannot_show() {
    let world = World::new();
    let [laptop, nas, desktop] = world.group(["laptop", "nas", "desktop"]);
    let documents = laptop.folder("documents");
    let samples = samples(&documents);
    laptop.add("documents", &documents);
    let disk = nas.folder("disk");
    nas.add_sealed("vault", &disk);
    laptop.knows_location("vault");

    let ensured = laptop.objects(["ensure", "documents:", "--at", "vault"]);
    assert_eq!(ensured.len(), samples.len(), "{ensured:#?}");
    for sample in &samples {
        let copy = sealed_copy(&laptop.object(["where", &sample.hash]), "vault").expect("durable when it returned");
        assert_eq!(
            (&copy["encrypted"], &copy["chunked"], &copy["state"]),
            (&true.into(), &true.into(), &"present".into())
        );
        assert_eq!(copy["devices"], serde_json::json!(["nas"]));
    }
    assert_eq!(data::search(&disk, &needles(&documents, &samples)), None);
    let again = laptop.objects(["ensure", "documents:film-of-summer.mp4", "--at", "vault"]);
    assert_eq!(again[0]["already"], true, "{again:#?}");

    laptop.down();
    for sample in &samples {
        desktop.eventually_where(&sample.hash, |answer| {
            sealed_copy(answer, "vault").is_some_and(|copy| copy["reachable"] == true)
        });
        let target = desktop.path(&format!("{}.out", sample.hash));
        let got = desktop.object(["get", &sample.hash, "-o", target.to_str().unwrap()]);
        assert_eq!(data::hash(&target), sample.hash);
        let names: Vec<_> = json::list(&got, "sources").iter().map(|source| json::text(source, "name")).collect();
        assert!(sample.size == 0 || names == ["nas"], "{got:#}");
    }
    // A range from the middle of the chunks, over their border.
    let film = &samples[1];
    let read = desktop.bare_command(["cat", &film.hash, "--range", "4100000-4299999"]).run().expect(0);
    assert!(read.stdout == data::range(&documents.join(&film.path), 4_100_000, 200_000));
    assert_eq!(data::search(&disk, &needles(&documents, &samples)), None, "also after it was read");
}

#[test]
fn a_drive_of_ones_own_is_sealed_and_read_again() {
    let world = World::new();
    let laptop = world.machine("laptop");
    laptop.found();
    let documents = laptop.folder("documents");
    let samples = samples(&documents);
    laptop.add("documents", &documents);
    let usb = laptop.folder("usb");
    laptop.add_sealed("usb", &usb);
    assert_eq!(laptop.object(["location", "show", "usb"])["profile"], "sealed");
    assert_eq!(laptop.objects(["ensure", "documents:", "--at", "usb"]).len(), samples.len());
    assert_eq!(data::search(&usb, &needles(&documents, &samples)), None);

    // What has a name there keeps it.
    data::file(&documents.join("another.bin"), 77, 3000);
    laptop.object(["index", "documents"]);
    let film = &samples[1];
    laptop.fails(6, "occupied", ["ensure", "documents:another.bin", "--at", "usb", "--as", &film.path]);
    assert_eq!(
        laptop.ok(["cat", &format!("usb:{}", film.path), "--range", "0-99"]).stdout,
        data::range(&documents.join(&film.path), 0, 100)
    );

    // The signature says which location this is, and nothing of what is inside.
    let signature = fs::read_to_string(usb.join(".larder/location.json")).unwrap();
    assert!(!signature.contains("usb") && !signature.contains("documents"), "{signature}");

    fs::remove_dir_all(&documents).unwrap();
    let target = laptop.path("back.mp4");
    let got = laptop.object(["get", &film.hash, "-o", target.to_str().unwrap()]);
    assert_eq!(data::hash(&target), film.hash);
    let source = &json::list(&got, "sources")[0];
    assert_eq!((&source["kind"], &source["name"]), (&"location".into(), &"usb".into()), "{got:#}");
}

#[test]
fn ensure_at_a_raw_location_writes_the_users_file() {
    let world = World::new();
    let [laptop, desktop] = world.group(["laptop", "desktop"]);
    let documents = laptop.folder("documents");
    let samples = samples(&documents);
    laptop.add("documents", &documents);
    let copies = desktop.folder("copies");
    desktop.ok(["location", "add", "copies", copies.to_str().unwrap()]);
    laptop.knows_location("copies");

    assert_eq!(laptop.objects(["ensure", "documents:", "--at", "copies"]).len(), samples.len());
    assert_eq!(data::tree(&copies), data::tree(&documents));
    let late = data::file(&documents.join("late.pdf"), 9, 1000);
    laptop.object(["index", "documents"]);
    laptop.ok(["ensure", &late, "--at", "copies", "--as", "else/where.pdf"]);
    assert_eq!(data::hash(&copies.join("else/where.pdf")), late);

    // Another content already there is left alone.
    let taken = copies.join("taken.txt");
    fs::write(&taken, "mine").unwrap();
    let later = data::file(&documents.join("later.pdf"), 10, 1000);
    laptop.object(["index", "documents"]);
    laptop.fails(6, "occupied", ["ensure", &later, "--at", "copies", "--as", "taken.txt"]);
    assert_eq!(fs::read(&taken).unwrap(), b"mine");
}

#[test]
fn a_device_that_is_off_does_it_when_it_returns() {
    let world = World::new();
    let [laptop, nas] = world.group(["laptop", "nas"]);
    let documents = laptop.folder("documents");
    let samples = samples(&documents);
    laptop.add("documents", &documents);
    nas.add_sealed("vault", &nas.folder("disk"));
    laptop.knows_location("vault");
    nas.down();
    laptop.sees(&nas, false);

    let letter = &samples[0];
    let queued = laptop.run(["ensure", &letter.hash, "--at", "vault"]).expect(3);
    assert_eq!(queued.object()["queued"], true, "{queued:?}");
    assert!(sealed_copy(&laptop.object(["where", &letter.hash]), "vault").is_none());

    nas.up();
    done_at(&laptop, &letter.hash, "vault");
    cluster::agree(&[laptop, nas]);
}

fn done_at(node: &Node, content: &str, location: &str) {
    node.eventually_where(content, |answer| {
        sealed_copy(answer, location).is_some_and(|copy| copy["state"] == "present")
    });
}
