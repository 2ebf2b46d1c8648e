//! A folder of many small files is indexed, found and fetched as a whole.

use larder_tests::{World, cluster, data, eventually, json};

/// The number with `LARDER_FULL=1`; a fifth of it otherwise, because debug binaries are slow.
fn count() -> u64 {
    if std::env::var_os("LARDER_FULL").is_some() { 10_000 } else { 2_000 }
}

#[test]
fn a_folder_of_small_files_arrives_whole() {
    let world = World::new();
    let [laptop, desktop] = world.group(["laptop", "desktop"]);
    let folder = laptop.folder("many");
    let mut samples = data::small_files(&folder, 1, count());
    let summary = laptop.add("many", &folder);
    assert_eq!((json::number(&summary, "scanned"), json::number(&summary, "added")), (count(), count()));

    eventually("all files are known on the other machine", || {
        let status = desktop.object(["status"]);
        let files = status["locations"][0]["files"].as_u64();
        if files == Some(count()) { Ok(()) } else { Err(files) }
    });
    let target = desktop.path("arrived");
    let got = desktop.objects(["get", "many:", "-o", target.to_str().unwrap()]);
    assert_eq!(got.len() as u64, count());
    let given = |field| got.iter().map(|one| json::number(one, field)).sum::<u64>();
    assert_eq!(given("bytes"), samples.iter().map(|sample| sample.size).sum::<u64>());
    samples.sort();
    assert!(data::tree(&target) == samples, "some file differs");
    cluster::agree(&[laptop, desktop]);
}
