//! The demo, as a person runs it first.

use larder_tests::{World, data, process::ProcessHandle};
use std::time::Duration;

/// It runs three nodes on what may be a busy machine.
const DEADLINE: Duration = Duration::from_secs(240);

fn leaves_nothing(world: &World) {
    let left: Vec<_> = std::fs::read_dir(world.folder("tmp")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
    let root = world.root().into_os_string().into_encoded_bytes();
    let ours = |args: &[&[u8]]| args.iter().any(|arg| arg.starts_with(&root));
    assert!(ProcessHandle::find(ours).is_empty(), "a node of the demo still runs");
}

#[test]
fn it_proves_what_it_says_and_cleans_up() {
    let world = World::new();
    let demo = world.larder(["demo"]).deadline(DEADLINE).run().expect(0);
    assert!(demo.text().contains("Proved"), "{demo:?}");
    leaves_nothing(&world);
}

#[test]
fn it_takes_files_of_ones_own_and_leaves_them_alone() {
    let world = World::new();
    let mine = world.folder("mine");
    data::file(&mine.join("first.txt"), 1, 10_000);
    data::file(&mine.join("deep/second.bin"), 2, 5_000_000);
    data::file(&mine.join("deep/third.bin"), 3, 70_000);
    data::file(&mine.join("fourth of mine.jpg"), 4, 200_000);
    let before = data::tree(&mine);
    let demo = world.larder(["demo", "--data", mine.to_str().unwrap()]).deadline(DEADLINE).run().expect(0);
    assert!(demo.text().contains("Proved"), "{demo:?}");
    assert_eq!(data::tree(&mine), before);
    assert_eq!(data::files(&mine).len(), 4, "nothing was added to it");
    leaves_nothing(&world);
}
