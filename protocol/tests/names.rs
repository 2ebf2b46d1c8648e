//! Names from hostile peers: the corpus in `testdata/hostile-names.txt`, as [`RelPath`] and as a part of a statement.

use larder_protocol::{
    codec,
    id::LocationId,
    path::RelPath,
    record::{Entry, EntryValue, GoneReason},
};
use std::{collections::BTreeSet, fs};

/// Whether a name must be carried, and the name.
fn corpus() -> Vec<(bool, String)> {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/hostile-names.txt")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let names = lines.map(|line| match line.split_once(' ').unwrap() {
        ("carry", name) => (true, unescape(name)),
        ("refuse", name) => (false, unescape(name)),
        _ => panic!("{line}"),
    });
    names.collect()
}

fn unescape(text: &str) -> String {
    let (mut name, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('\\') {
        name += &rest[..at];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('\\') {
            (name, rest) = (name + "\\", after);
        } else {
            let (digits, after) = rest.strip_prefix("u{").unwrap().split_once('}').unwrap();
            name.push(char::from_u32(u32::from_str_radix(digits, 16).unwrap()).unwrap());
            rest = after;
        }
    }
    name + rest
}

#[test]
fn every_hostile_name_is_refused_or_carried_exactly() {
    let corpus = corpus();
    assert!(corpus.len() >= 400);
    let mut bytes = BTreeSet::new();
    for (carried, name) in &corpus {
        let path = RelPath::new(name.as_str());
        assert_eq!(path.is_ok(), *carried, "{name:?}: {path:?}");
        let Ok(path) = path else { continue };
        assert_eq!(path.as_str(), name);
        let raw = path.to_bytes();
        assert!(
            raw.split(|byte| *byte == b'/').all(|part| !part.is_empty() && part != b"." && part != b".."),
            "{name:?}"
        );
        assert!(!raw.contains(&0) && !raw.starts_with(b"/"), "{name:?}");
        assert_eq!(RelPath::from_bytes(&raw).as_ref(), Ok(&path), "{name:?}");
        assert!(bytes.insert(raw), "{name:?} is another name's bytes");
    }
}

/// The same where names come from: inside a statement, whose bytes a peer may choose as it likes.
#[test]
fn statements_with_refused_names_do_not_decode() {
    let entry = |path: &str| Entry {
        location: LocationId::new([1; 16]),
        mount_epoch: 0,
        path: RelPath::new(path).unwrap(),
        value: EntryValue::Gone(GoneReason::Missing),
    };
    let whole = codec::encode(&entry("PLACE")).unwrap();
    let at = whole.windows(5).position(|window| window == b"PLACE").unwrap();
    for (carried, name) in corpus() {
        // A name with another length prefix; up to 250 bytes that is one byte.
        let Ok(len) = u8::try_from(name.len()) else { continue };
        if len > 250 {
            continue;
        }
        let bytes = [&whole[..at - 1], &[len], name.as_bytes(), &whole[at + 5..]].concat();
        let decoded = codec::decode::<Entry>(&bytes);
        assert_eq!(decoded.is_ok(), carried, "{name:?}: {decoded:?}");
        if let Ok(decoded) = decoded {
            assert_eq!(decoded, entry(&name));
        }
    }
    // Bytes that are no text at all.
    for noise in [&[0xff, 0xfe][..], &[0xc0, 0xaf], &[0xed, 0xa0, 0x80], &[b'a', 0x80]] {
        let len = u8::try_from(noise.len()).unwrap();
        let bytes = [&whole[..at - 1], &[len], noise, &whole[at + 5..]].concat();
        assert!(codec::decode::<Entry>(&bytes).is_err(), "{noise:x?}");
    }
}
