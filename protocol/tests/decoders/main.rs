//! What comes from outside is decoded to a canonical value or refused with a typed error: without a panic, and with memory
//! in proportion to what came.
//!
//! `testdata/corpus/TYPE/` holds a few inputs for every wire type, by the first word of their names: `ok` must decode,
//! `refused` must not, `found` is what a fuzzer once broke something with and may be either. They seed the fuzz targets too.
//! After a change of a format that is meant, `cargo test -p larder-protocol --test decoders -- --ignored` writes them anew.

mod samples;

use larder_protocol::{
    control,
    id::{ContentId, EpochId},
    log::{SealedBatch, SignedBatch},
    membership::{MembershipLog, RecoveryKey, SignedOp},
    pairing::Ticket,
    path::RelPath,
    record::Record,
    seal::{EpochSecret, Manifest, SnapshotPage, open_chunk, plain_chunk_id},
    sync::Gossip,
    wire::{TYPES, WireType},
};
use peak_alloc::PeakAlloc;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Mutations of each decoder's inputs.
const MUTATIONS: usize = 20_000;
/// Bytes of memory at once for each byte of input: decoded values are larger than their encodings, vectors grow by doubling,
/// and the check for the canonical form encodes again.
const MEMORY_FACTOR: usize = 16;
/// And this much whatever the input: error texts, and what the test harness allocates meanwhile.
const MEMORY_BYTES: usize = 16 * 1024;

/// The allocator counts for the whole process, so that one test at a time may look.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Steele and others, "Fast splittable pseudorandom number generators", 2014: the same numbers for ever.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap()
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next().to_le_bytes()[0]).collect()
    }

    /// One of the inputs, damaged.
    fn mutate(&mut self, inputs: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = inputs[self.below(inputs.len())].clone();
        let at = self.below(bytes.len() + 1);
        match self.below(8) {
            0 | 1 => {
                for _ in 0..=self.below(4) {
                    let at = self.below(bytes.len());
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= 1 << self.below(8);
                    }
                }
            }
            2 => bytes.truncate(at),
            3 => {
                let len = 1 + self.below(64);
                bytes.extend(self.bytes(len));
            }
            4 => {
                let other = &inputs[self.below(inputs.len())];
                let from = self.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            // Lengths: the marks of 16, 32 and 64-bit integers with values from the ends of their ranges.
            5 | 6 => {
                let value =
                    [0, 1, 250, 251, 1 << 15, 1 << 16, 1 << 31, 1 << 32, u64::MAX >> 1, u64::MAX][self.below(10)];
                let mark = 251 + u8::try_from(self.below(3)).unwrap();
                let len = 2 << (mark - 251);
                let end = if self.below(2) == 0 { at } else { bytes.len().min(at + 1) };
                bytes.splice(at..end, [&[mark][..], &value.to_le_bytes()[..len]].concat());
            }
            _ => {
                let len = self.below(300);
                bytes = self.bytes(len);
            }
        }
        bytes
    }
}

/// Runs a decoder over one input and looks at its memory.
fn within_memory<T>(name: &str, input: &[u8], decode: impl FnOnce(&[u8]) -> T) -> T {
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    let result = decode(input);
    let taken = ALLOCATOR.peak_usage().saturating_sub(before);
    let allowed = MEMORY_FACTOR * input.len() + MEMORY_BYTES;
    assert!(taken <= allowed, "{name} took {taken} bytes for {} bytes: {}", input.len(), hex(input));
    result
}

fn hex(bytes: &[u8]) -> String {
    larder_protocol::id::to_hex(&bytes[..bytes.len().min(2_000)])
}

fn corpus(wire: &WireType) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/corpus").join(wire.name)
}

/// Names and bytes of a type's corpus, in order.
fn files(wire: &WireType) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(corpus(wire))
        .unwrap_or_else(|error| panic!("{}: {error}", corpus(wire).display()))
        .map(|file| file.unwrap())
        .map(|file| (file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap()))
        .collect();
    files.sort();
    files
}

/// Valid encodings, and what is nearly one.
fn written(wire: &WireType) -> Vec<(String, Vec<u8>)> {
    let samples = samples::of(wire.name);
    let last = samples.last().unwrap_or_else(|| panic!("no sample of {}", wire.name)).clone();
    let ok = samples.into_iter().enumerate().map(|(number, bytes)| (format!("ok-{number}"), bytes));
    let cut = last[..last.len() - 1].to_vec();
    let trailing = [&last[..], &[0]].concat();
    let long = [&[253][..], &[255; 8]].concat();
    ok.chain([
        ("refused-cut".to_owned(), cut),
        ("refused-trailing".to_owned(), trailing),
        ("refused-length".to_owned(), long),
    ])
    .collect()
}

#[test]
#[ignore = "writes testdata/corpus"]
fn write_the_corpus() {
    for wire in TYPES {
        fs::create_dir_all(corpus(wire)).unwrap();
        for (name, bytes) in written(wire) {
            fs::write(corpus(wire).join(name), bytes).unwrap();
        }
    }
}

/// Bytes on the wire never change unnoticed: today's code writes what is checked in.
#[test]
fn the_corpus_is_what_is_written_today() {
    for wire in TYPES {
        let files = files(wire);
        let found = files.iter().filter(|(name, _)| !name.starts_with("found")).cloned();
        let found: Vec<_> = found.map(|(name, bytes)| (name, hex(&bytes))).collect();
        let mut written: Vec<_> = written(wire).into_iter().map(|(name, bytes)| (name, hex(&bytes))).collect();
        written.sort();
        assert_eq!(found, written, "{}", wire.name);
    }
}

#[test]
fn the_corpus_is_decoded_or_refused() {
    let _alone = alone();
    for wire in TYPES {
        for (name, bytes) in files(wire) {
            let result = within_memory(wire.name, &bytes, |bytes| wire.recode(bytes));
            match name.split('-').next() {
                Some("ok") => assert_eq!(result.as_ref(), Ok(&bytes), "{}/{name}", wire.name),
                Some("refused") => assert!(result.is_err(), "{}/{name}", wire.name),
                _ => assert!(result.is_err() || result.as_ref() == Ok(&bytes), "{}/{name}", wire.name),
            }
        }
    }
}

#[test]
fn what_is_damaged_is_canonical_or_refused() {
    let _alone = alone();
    for (number, wire) in TYPES.iter().enumerate() {
        let inputs: Vec<_> = files(wire).into_iter().map(|(_, bytes)| bytes).collect();
        let mut rng = SplitMix(number as u64);
        let mut accepted = 0;
        for _ in 0..MUTATIONS {
            let input = rng.mutate(&inputs);
            if let Ok(again) = within_memory(wire.name, &input, |bytes| wire.recode(bytes)) {
                assert_eq!(hex(&again), hex(&input), "{}: a value has one encoding", wire.name);
                accepted += 1;
            }
        }
        assert!(accepted > 0, "{}: no mutation reaches behind the decoder", wire.name);
    }
}

/// Nothing is looked at that is longer than the type allows, and a list that fills the limit costs in proportion.
#[test]
fn the_longest_inputs_cost_in_proportion() {
    let _alone = alone();
    for wire in TYPES {
        let over = vec![0; wire.bytes_max + 1];
        let refused = within_memory(wire.name, &[], |_| wire.recode(&over));
        assert!(refused.is_err(), "{}", wire.name);
        for fill in [0, 1, 250] {
            let len = wire.bytes_max.min(1 << 20);
            let filled = [samples::of(wire.name)[0].as_slice(), &vec![fill; len]].concat();
            let _ = within_memory(wire.name, &filled[..len], |bytes| wire.recode(bytes));
        }
    }
    // The most elements in the fewest bytes.
    let wire = larder_protocol::wire::named("Frame").unwrap();
    let batch = [&[0; 40][..], &[0]].concat();
    let frame = [&[4, 251, 0, 4][..], &batch.repeat(1024)].concat();
    assert!(within_memory(wire.name, &frame, |bytes| wire.recode(bytes)).is_ok(), "1024 empty batches");
}

/// A decoder that is no wire type: of text, of JSON, or behind a signature or a seal.
struct Other {
    name: &'static str,
    inputs: Vec<Vec<u8>>,
    decode: fn(&[u8]),
}

fn json<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    if let Ok(value) = serde_json::from_slice::<T>(bytes) {
        let again = serde_json::to_vec(&value).unwrap();
        assert_eq!(serde_json::from_slice::<T>(&again).unwrap(), value);
    }
}

fn secret(_: &EpochId) -> Option<EpochSecret> {
    Some(EpochSecret::new([9; 32]))
}

fn others() -> Vec<Other> {
    let text = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    let epoch = EpochId::new([2; 16]);
    let object = |sealed: bool| {
        let manifest = Manifest { epoch: sealed.then_some(epoch), ..samples::manifest() };
        manifest.close(&samples::key(), secret(&epoch).as_ref(), [1; 24]).unwrap()
    };
    let page = samples::page().close(&samples::key(), epoch, &EpochSecret::new([9; 32]), [1; 24]).unwrap();
    let chunk = larder_protocol::seal::seal_chunk(
        epoch,
        &EpochSecret::new([9; 32]),
        b"text",
        larder_protocol::seal::ChunkSize::new(1 << 20).unwrap(),
    )
    .unwrap();
    vec![
        Other {
            name: "Ticket::from_text",
            inputs: text(&[&samples::ticket().to_text()]),
            decode: |bytes| {
                if let Ok(ticket) = Ticket::from_text(&String::from_utf8_lossy(bytes)) {
                    assert_eq!(Ticket::from_text(&ticket.to_text()), Ok(ticket));
                }
            },
        },
        Other {
            name: "RecoveryKey::from_words",
            inputs: text(&[&RecoveryKey::from_entropy([7; 32]).words()]),
            decode: |bytes| {
                let _ = RecoveryKey::from_words(&String::from_utf8_lossy(bytes));
            },
        },
        Other {
            name: "RelPath",
            inputs: text(&["2024/été/beach.jpg", "a/\u{ef80}\u{efff}/b", "../x", "a//b"]),
            decode: |bytes| {
                if let Ok(path) = RelPath::from_bytes(bytes) {
                    assert_eq!(path.to_bytes(), bytes);
                }
                if let Ok(path) = RelPath::new(String::from_utf8_lossy(bytes)) {
                    assert_eq!(RelPath::from_bytes(&path.to_bytes()).as_ref(), Ok(&path));
                }
            },
        },
        Other {
            name: "ContentId",
            inputs: text(&[&ContentId::new([4; 32]).to_string()]),
            decode: |bytes| {
                let _ = String::from_utf8_lossy(bytes).parse::<ContentId>();
            },
        },
        Other {
            name: "Manifest::open",
            inputs: vec![object(false), object(true)],
            decode: |bytes| {
                let _ = Manifest::open(bytes, secret);
            },
        },
        Other {
            name: "SnapshotPage::open",
            inputs: vec![page],
            decode: |bytes| {
                let _ = SnapshotPage::open(bytes, secret);
            },
        },
        Other {
            name: "open_chunk",
            inputs: vec![chunk.stored[..larder_protocol::seal::HEADER_BYTES].to_vec()],
            decode: |bytes| {
                let plain = plain_chunk_id(&EpochSecret::new([9; 32]), b"text");
                let _ = open_chunk(secret, bytes, &plain, 4, 1 << 20);
            },
        },
        Other {
            name: "SignedBatch::verify",
            inputs: samples::of("SignedBatch"),
            decode: |bytes| {
                if let Ok(signed) = larder_protocol::codec::decode::<SignedBatch>(bytes) {
                    let _ = signed.verify(&samples::GROUP);
                }
            },
        },
        Other {
            name: "SealedBatch::open",
            inputs: samples::of("SealedBatch"),
            decode: |bytes| {
                if let Ok(sealed) = larder_protocol::codec::decode::<SealedBatch>(bytes) {
                    let _ = sealed.open(&[18; 32]);
                }
            },
        },
        Other {
            name: "MembershipLog::insert",
            inputs: samples::of("SignedOp"),
            decode: |bytes| {
                if let Ok(op) = larder_protocol::codec::decode::<SignedOp>(bytes) {
                    let _ = MembershipLog::empty(samples::GROUP).insert(op);
                }
            },
        },
        Other {
            name: "Record::decode",
            inputs: ["Device", "Location", "Profile", "Entry", "Want"].into_iter().flat_map(samples::of).collect(),
            decode: |bytes| {
                for kind in 0..12 {
                    if let Ok(Some(record)) = Record::decode(kind, bytes) {
                        assert_eq!((record.kind(), record.encode().unwrap().as_slice()), (kind, bytes));
                    }
                }
            },
        },
        Other {
            name: "Gossip::message_id",
            inputs: samples::of("Gossip"),
            decode: |bytes| {
                Gossip::message_id(bytes);
            },
        },
        Other {
            name: "control requests",
            inputs: text(&[
                r#"{"ttl_seconds":600,"role":"writer"}"#,
                r#"{"name":"photos","path":"/p","profile":null,"purposes":["inbox"],"read_only":true}"#,
                r#"{"query":"beach","location":null,"type":"image","reachable":true,"limit":18446744073709551615}"#,
                r#"{"references":["a/","b"],"output":"/o","output_is_file":false,"force":true}"#,
                r#"{"reference":"a","first":0,"last":9}"#,
                r#"{"location":"photos","mode":"full","accept_loss":true}"#,
            ]),
            decode: |bytes| {
                json::<control::OpenInvite>(bytes);
                json::<control::InviteRequest>(bytes);
                json::<control::AddLocation>(bytes);
                json::<control::NamedRequest>(bytes);
                json::<control::IndexRequest>(bytes);
                json::<control::FindQuery>(bytes);
                json::<control::WhereQuery>(bytes);
                json::<control::GetRequest>(bytes);
                json::<control::EnsureRequest>(bytes);
                json::<control::CatQuery>(bytes);
                json::<control::LogQuery>(bytes);
            },
        },
    ]
}

#[test]
fn other_decoders_bear_damage_too() {
    let _alone = alone();
    for (number, other) in others().into_iter().enumerate() {
        let mut rng = SplitMix(1_000 + number as u64);
        for input in &other.inputs {
            within_memory(other.name, input, other.decode);
        }
        for _ in 0..MUTATIONS {
            let input = rng.mutate(&other.inputs);
            within_memory(other.name, &input, other.decode);
        }
    }
}

/// Every `impl Wire for` in the sources, those of tests left out, is in the table.
#[test]
fn the_table_is_whole() {
    fn look(folder: &Path, found: &mut BTreeSet<String>) {
        for file in fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            if path.is_dir() {
                look(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
                let mut rest = code.split("Wire for ").skip(1).collect::<Vec<_>>();
                rest.retain(|rest| !rest.starts_with('`'));
                found.extend(
                    rest.iter()
                        .map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap().to_owned()),
                );
            }
        }
    }
    let mut found = BTreeSet::new();
    look(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    let listed: BTreeSet<_> = TYPES.iter().map(|wire| wire.name.to_owned()).collect();
    assert_eq!(listed.len(), TYPES.len(), "each name once");
    assert_eq!(found, listed, "larder_protocol::wire::TYPES lists every wire type");
    let folders = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/corpus")).unwrap();
    let folders: BTreeSet<_> = folders.map(|folder| folder.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(folders, listed, "and each has a corpus");
}
