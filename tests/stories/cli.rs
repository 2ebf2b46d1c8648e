//! The command line itself: help, exit codes, errors as objects, homes in odd places.

use larder_tests::{Node, Settings, World, data, json};
use std::path::Path;

/// What `--help` lists: no more than what works.
const VERBS: [&str; 24] = [
    "init",
    "up",
    "down",
    "status",
    "invite",
    "join",
    "device",
    "location",
    "provider",
    "profile",
    "credential",
    "connect",
    "index",
    "find",
    "where",
    "get",
    "ensure",
    "put",
    "cat",
    "url",
    "log",
    "catalog",
    "doctor",
    "demo",
];

/// The names in the "Commands:" part of a help text.
fn listed(help: &str) -> Vec<String> {
    let commands = help.lines().skip_while(|line| !line.starts_with("Commands:")).skip(1);
    let names = commands.take_while(|line| !line.is_empty()).filter(|line| line.starts_with("  "));
    names.filter_map(|line| Some(line[2..].split_whitespace().next()?.to_owned())).collect()
}

#[test]
fn help_lists_what_works() {
    let world = World::new();
    let help = world.larder(["--help"]).run().expect(0).text();
    assert_eq!(listed(&help), VERBS);
    for verb in VERBS {
        let help = world.larder([verb, "--help"]).run().expect(0).text();
        assert!(help.contains("Usage: larder"), "{help}");
        for below in listed(&help).into_iter().filter(|name| name != "help") {
            world.larder([verb, &below, "--help"]).run().expect(0);
        }
    }
    let version = world.larder(["--version"]).run().expect(0).text();
    assert!(version.starts_with("larder "), "{version}");
    for option in ["--home", "--json", "--quiet", "--verbose", "--progress"] {
        assert!(help.contains(option), "{option} is not in the help");
    }
}

#[test]
fn exit_codes_tell_what_went_wrong() {
    let world = World::new();
    let laptop = world.machine("laptop");
    for args in [&["status"][..], &["up"], &["down"], &["find", "x"], &["invite"], &["catalog", "digest"]] {
        laptop.fails(10, "not-initialised", args);
    }
    laptop.ok(["init", "--name", "laptop"]);
    for args in [&["status"][..], &["down"], &["find", "x"], &["invite"], &["index"], &["get", "x:y"], &["log"]] {
        laptop.fails(11, "node-not-running", args);
    }
    laptop.fails(6, "already-initialised", ["init", "--name", "again"]);
    for args in [&["nonsense"][..], &["get"], &["invite", "--ttl", "3d"], &["cat", "x", "--range", "2-1"], &[]] {
        assert_eq!(laptop.bare_command(args).run().code(), Some(2), "{args:?}");
    }
    laptop.up();
    laptop.fails(6, "node-running", ["up"]);
    laptop.down();
    laptop.fails(11, "node-not-running", ["down"]);
}

#[test]
fn an_error_is_an_object_or_a_sentence() {
    let world = World::new();
    let laptop = world.machine("laptop");
    let as_object = laptop.run(["status"]).expect(10);
    assert!(as_object.stdout.is_empty());
    let lines: Vec<_> = as_object.stderr.lines().collect();
    assert_eq!(lines.len(), 1, "{as_object:?}");
    let error = &as_object.errors()[0];
    json::has_fields(error, &["kind", "subject", "message", "hint", "retry"]);
    assert!(json::text(error, "hint").contains("larder init"));

    let in_words = laptop.bare_command(["status"]).run().expect(10);
    assert!(in_words.stdout.is_empty() && in_words.stderr.starts_with("larder: "), "{in_words:?}");
    assert!(in_words.stderr.contains("larder init"), "{in_words:?}");
}

#[test]
fn words_for_people_go_to_the_right_place() {
    let world = World::new();
    let laptop = world.machine("laptop");
    // No word that may be among the recovery words.
    let init = laptop.command(["init", "--name", "machine-1"]).run().expect(0);
    json::has_fields(&init.object(), &["device_id", "group_id"]);
    // Off a terminal nothing is asked; the recovery words are shown once, on stderr alone.
    let words = init.stderr.lines().filter(|line| line.starts_with("    ")).flat_map(str::split_whitespace);
    let words: Vec<_> = words.collect();
    assert_eq!(words.len(), 24, "{}", init.stderr);
    assert!(words.iter().all(|word| !init.text().contains(&format!("\"{word}\""))));
    let first_three = words[..3].join(" ");
    assert_eq!(data::search(laptop.home(), &[first_three.into_bytes()]), None, "and are kept nowhere");

    laptop.up();
    for (args, colour) in [(&["status"][..], ""), (&["device", "list"], "1"), (&["location", "list"], "1")] {
        let run = laptop.bare_command(args).env("NO_COLOR", colour).env("TERM", "xterm-256color").run().expect(0);
        assert!(!run.stdout.contains(&0x1b) && !run.stderr.contains('\x1b'), "{run:?}");
    }
    assert!(laptop.bare_command(["find", "nothing"]).run().expect(0).stdout.is_empty());
    assert!(laptop.bare_command(["find", "nothing", "-q"]).run().expect(0).stderr.is_empty());
}

#[test]
fn recovery_words_go_to_a_file_on_request() {
    let world = World::new();
    let laptop = world.machine("laptop");
    let file = laptop.path("words.txt");
    let init = laptop.ok(["init", "--name", "laptop", "--recovery-out", file.to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(&file).unwrap().split_whitespace().count(), 24);
    assert!(init.stderr.is_empty(), "{init:?}");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
}

/// A home whose path is longer than any Unix socket's may be.
#[test]
fn a_long_home_works() {
    let world = World::new();
    let root = world.folder("long");
    let long = root.join("a-rather-long-name-for-a-folder/".repeat(7)).join("home");
    let node = Node::at("long", &root, &long, Settings::default());
    node.found();
    let folder = node.folder("files");
    let hash = data::file(&folder.join("x.txt"), 1, 100);
    node.add("files", &folder);
    node.finds("x.txt", &hash);
    node.down();
}

/// Without `--home`: the XDG folders; with `LARDER_HOME`: that folder. Either way nothing else is touched.
#[test]
fn homes_by_environment() {
    let world = World::new();
    let user = world.folder("nobody");
    let config = user.join(".config/larder");
    std::fs::create_dir_all(&config).unwrap();
    std::fs::write(config.join("config.toml"), "[network]\nlisten = [\"127.0.0.1:0\"]\nmdns = false\n").unwrap();
    world.larder(["init", "--name", "xdg", "--json"]).run().expect(0);
    assert!(user.join(".local/share/larder").is_dir());
    let strangers = std::fs::read_dir(&user).unwrap().map(|entry| entry.unwrap().file_name());
    let mut strangers: Vec<_> = strangers.collect();
    strangers.sort();
    strangers.retain(|name| ![".config", ".local", ".cache"].iter().any(|known| Path::new(known) == Path::new(name)));
    assert!(strangers.is_empty(), "{strangers:?}");

    let elsewhere = world.folder("elsewhere").join("home");
    world.larder(["init", "--name", "env", "--json"]).env("LARDER_HOME", &elsewhere).run().expect(0);
    assert!(elsewhere.join("config.toml").is_file());
    let error = world.larder(["status", "--json"]).env("LARDER_HOME", &elsewhere).run().expect(11);
    assert_eq!(error.error_kind().as_deref(), Some("node-not-running"));
}

/// Settings that make no sense are named, and nothing starts.
#[test]
fn settings_that_make_no_sense_are_named() {
    let world = World::new();
    let laptop = world.machine("laptop");
    laptop.ok(["init", "--name", "laptop"]);
    std::fs::write(laptop.home().join("config.toml"), "[network]\nmdsn = false\n").unwrap();
    let run = laptop.run(["up"]);
    assert!(run.code().is_some_and(|code| code != 0) && run.stderr.contains("mdsn"), "{run:?}");
    laptop.fails(11, "node-not-running", ["status"]);
}
