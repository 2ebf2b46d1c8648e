//! `larder log` says what this device did.

use larder_tests::{World, data, json};
use serde_json::Value;

fn has(lines: &[Value], action: &str, about: &str) -> bool {
    lines.iter().any(|line| line["action"] == action && line.to_string().contains(about))
}

#[test]
fn admissions_and_movements_are_on_record() {
    let world = World::new();
    let [laptop, desktop] = world.group(["laptop", "desktop"]);
    let photos = laptop.folder("photos");
    let beach = data::file(&photos.join("beach.jpg"), 1, 1000);
    let other = data::file(&photos.join("other.jpg"), 2, 1000);
    laptop.add("photos", &photos);
    for content in [&beach, &other] {
        desktop.knows(content);
        desktop.ok(["get", content]);
    }
    let joined = json::text(&desktop.object(["status"]), "device_id").to_owned();
    assert!(has(&laptop.objects(["log"]), "admit", &joined));

    let lines = desktop.objects(["log"]);
    for (position, line) in lines.iter().enumerate() {
        json::has_fields(line, &["seq", "time", "action", "subject", "result"]);
        json::is_time(line, "time");
        assert_eq!(json::number(line, "seq"), position as u64, "no line is missing");
    }
    assert!(has(&lines, "get", &beach) && has(&lines, "get", &other), "{lines:#?}");

    let about = desktop.objects(["log", &beach]);
    assert!(has(&about, "get", &beach) && !has(&about, "get", &other), "{about:#?}");

    // What is on record stays on record.
    desktop.kill();
    desktop.up();
    assert_eq!(desktop.objects(["log"])[..lines.len()], lines);
}

#[test]
fn a_changed_line_shows() {
    let world = World::new();
    let laptop = world.machine("laptop");
    laptop.found();
    for name in ["one", "two", "three"] {
        laptop.ok(["location", "add", name, laptop.folder(name).to_str().unwrap()]);
    }
    let sound = laptop.object(["log", "--verify"]);
    assert_eq!(json::number(&sound, "lines"), laptop.objects(["log"]).len() as u64);
    assert_eq!(json::text(&sound, "head").len(), 64);

    let file = data::files(laptop.home()).into_iter().find(|file| file.ends_with("audit.jsonl")).unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replacen("\"two\"", "\"TWO\"", 1)).unwrap();
    laptop.fails(1, "audit-broken", ["log", "--verify"]);
    let without: Vec<_> =
        text.lines().filter(|line| !line.contains("\"two\"")).map(|line| format!("{line}\n")).collect();
    std::fs::write(&file, without.concat()).unwrap();
    laptop.fails(1, "audit-broken", ["log", "--verify"]);
}
