//! Measures how a new or returning device catches up, targets P13 and P14, and prints a table.
//!
//! Two real catalogs in one process, each with its own thread, talk through the real session machine and a bounded pipe.
//! `cargo bench -p larder-node --bench sync -- [RECORDS]` (default 1,000,000). Inputs come from a fixed seed.

mod common;

use common::{
    GROUP, LOCATION, RECORDS_PER_CALL, content, disk_bytes, head, identity, location, mix, now, options, path, row,
    rss_mb,
};
use larder_node::catalog::Catalog;
use larder_protocol::{
    codec,
    record::{Entry, EntryValue, File, Record},
    sync::{Effect, Frame, Input, Local, Session},
    time::{Now, Timestamp},
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs,
    path::Path,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

/// Records that a device missed.
const MISSED: u64 = 1_000;
/// Frames in the pipe, as the node has it.
const FRAMES_MAX: usize = 4;
fn entry(file: u64) -> Record {
    // Sizes and times spread as in real trees.
    let modified = Timestamp(1_500_000_000_000_000_000 + (mix(file) % 200_000_000) as i64 * 1_000_000_007);
    let size = mix(file ^ 0x77) % (1 << (10 + mix(file) % 16));
    let value = EntryValue::File(File { content: content(file), size, modified, verified: now() });
    Entry { location: LOCATION, mount_epoch: 0, path: path(file), value }.into()
}

fn open(dir: &Path, device: u8) -> Catalog {
    Catalog::open(dir, identity(device), options()).expect("the catalog opens").0
}

/// Processor time that this process has used (`self`), or this thread (`thread-self`): steadier than a clock on a busy
/// machine.
fn cpu_seconds(whose: &str) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{whose}/stat")).unwrap_or_default();
    // User and system time, in hundredths of a second.
    let ticks = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    ticks.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn session(catalog: &Catalog) -> Session {
    let summary = catalog.read().and_then(|read| read.summary()).expect("a summary");
    let held = summary.held.into_iter().map(|(author, held)| (author, (held.start, held.end))).collect();
    let local = Local {
        group: GROUP,
        epoch: None,
        vector: summary.vector,
        held,
        tips: summary.tips,
        membership: BTreeSet::new(),
        membership_hash: [0; 32],
    };
    Session::new(local)
}

/// Does what a session wants of its node; `None` for what needs no answer.
fn answer(catalog: &Catalog, effect: Effect, spent: &mut Spent) -> Option<Input> {
    let start = Instant::now();
    match effect {
        Effect::Load(gap, bytes_max) => {
            let (batches, next_seq) = catalog.read().and_then(|read| read.load(&gap, bytes_max)).expect("loads");
            spent.loading += start.elapsed();
            Some(Input::Loaded { batches, next_seq })
        }
        Effect::Commit(batches) => {
            catalog.hold(batches, now()).expect("holds");
            spent.holding += start.elapsed();
            Some(Input::Committed)
        }
        // One log, which both know alike.
        Effect::Compare(_) => Some(Input::Compared(Vec::new())),
        Effect::Account(counts) => {
            catalog.account(counts).expect("accounts");
            Some(Input::Accounted)
        }
        Effect::Failed(violation) => panic!("{violation}"),
        _ => None,
    }
}

#[derive(Debug, Default)]
struct Spent {
    loading: Duration,
    holding: Duration,
    bytes: usize,
    cpu_s: f64,
}

fn mono(start: Instant) -> Now {
    Now { mono_ns: start.elapsed().as_nanos() as u64, wall: now() }
}

/// One end of a session in its own thread, as the node runs it.
fn run(catalog: &Catalog, send: &SyncSender<Vec<u8>>, receive: &Receiver<Vec<u8>>) -> Spent {
    let start = Instant::now();
    let mut spent = Spent::default();
    let mut session = session(catalog);
    session.start(mono(start));
    loop {
        while let Some(effect) = session.poll() {
            match effect {
                Effect::Send(frame) => {
                    let bytes = codec::encode(&frame).expect("encodes");
                    spent.bytes += bytes.len() + 4;
                    let _ = send.send(bytes);
                }
                Effect::Finished(_) => {
                    spent.cpu_s = cpu_seconds("thread-self");
                    return spent;
                }
                effect => {
                    if let Some(input) = answer(catalog, effect, &mut spent) {
                        session.handle(mono(start), input);
                    }
                }
            }
        }
        let bytes = receive.recv().expect("the other end is there");
        let frame = Frame::read(&bytes).expect("decodes").expect("known");
        session.handle(mono(start), Input::Frame(frame));
    }
}

/// A new device catches up; prints how long that takes.
fn catch_up(source: &Catalog, sink: &Catalog, records: u64) {
    let (to_sink, from_source) = sync_channel(FRAMES_MAX);
    let (to_source, from_sink) = sync_channel(FRAMES_MAX);
    let done = AtomicBool::new(false);
    let (start, cpu) = (Instant::now(), cpu_seconds("self"));
    let (serving, taking, (seen, looking), complete) = thread::scope(|scope| {
        let serving = scope.spawn(move || run(source, &to_sink, &from_sink));
        // Looks as a person would who waits for the names.
        let looking = scope.spawn(|| {
            let mut seen = BTreeMap::new();
            let marks = [1, 10, 50, 100].map(|percent| records * percent / 100);
            while seen.len() < marks.len() && !done.load(Ordering::Relaxed) {
                let files = sink.read().and_then(|read| read.counts()).map_or(0, |counts| counts.files);
                for mark in marks.into_iter().filter(|mark| files >= *mark) {
                    seen.entry(mark).or_insert_with(|| start.elapsed());
                }
                thread::park_timeout(Duration::from_millis(5));
            }
            (seen, cpu_seconds("thread-self"))
        });
        let taking = run(sink, &to_source, &from_source);
        let complete = start.elapsed();
        let serving = serving.join().expect("serves");
        // The last look comes after the end.
        let all = sink.read().and_then(|read| read.counts()).map_or(0, |counts| counts.files);
        assert_eq!(all, records, "everything came");
        let until = Instant::now() + Duration::from_secs(1);
        while !looking.is_finished() && Instant::now() < until {
            thread::yield_now();
        }
        done.store(true, Ordering::Relaxed);
        (serving, taking, looking.join().expect("looks"), complete)
    });
    for (mark, at) in seen {
        row(&format!("{mark} names can be browsed after"), format!("{:.2} s", at.as_secs_f64()));
    }
    row("complete after", format!("{:.2} s", complete.as_secs_f64()));
    let cpu = cpu_seconds("self") - cpu - looking;
    row("  processor time: new device, the other one", format!("{:.1} s, {:.1} s", cpu - serving.cpu_s, serving.cpu_s));
    row("  taking batches (check, segments, rows)", format!("{:.2} s", taking.holding.as_secs_f64()));
    row("  reading batches at the other end", format!("{:.2} s", serving.loading.as_secs_f64()));
    let bytes = (serving.bytes + taking.bytes) as f64;
    row("bytes on the wire", format!("{:.1} MB, {:.1} B a record", bytes / 1e6, bytes / records as f64));
    row("resident, both devices", format!("{:.0} MB", rss_mb()));
}

/// A device that missed something catches up over a link on which each frame takes one step; prints the steps.
fn missed(source: &Catalog, sink: &Catalog) {
    let start = Instant::now();
    let catalogs = [source, sink];
    let mut ends = [session(source), session(sink).expecting_news()];
    let mut wires: [VecDeque<Frame>; 2] = Default::default();
    let (mut bytes, mut steps, mut durable) = (0, 0u32, 0u32);
    // The other end begins when it hears of the session.
    ends[1].start(mono(start));
    let mut spent = Spent::default();
    loop {
        for side in 0..2 {
            while let Some(effect) = ends[side].poll() {
                match effect {
                    Effect::Send(frame) => {
                        bytes += codec::encode(&frame).expect("encodes").len() + 4;
                        wires[1 - side].push_back(frame);
                    }
                    Effect::Finished(_) => {}
                    effect => {
                        if matches!(effect, Effect::Commit(_)) {
                            durable = steps;
                        }
                        if let Some(input) = answer(catalogs[side], effect, &mut spent) {
                            ends[side].handle(mono(start), input);
                        }
                    }
                }
            }
        }
        if wires.iter().all(VecDeque::is_empty) {
            break;
        }
        steps += 1;
        if steps == 1 {
            ends[0].start(mono(start));
        }
        for side in 0..2 {
            for frame in std::mem::take(&mut wires[side]) {
                ends[side].handle(mono(start), Input::Frame(frame));
            }
        }
    }
    row(&format!("{MISSED} missed: bytes both ways"), format!("{:.1} KB", bytes as f64 / 1e3));
    row("  one-way trips until they are here, until the end", format!("{durable}, {steps}"));
    row("  time", format!("{:.1} ms", start.elapsed().as_secs_f64() * 1e3));
}

fn main() {
    let records: u64 = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(1_000_000);
    let dirs = [0, 1].map(|_| tempfile::tempdir().expect("a temp folder"));
    let source = open(dirs[0].path(), 1);
    source.append(vec![location()], Vec::new(), now()).expect("appends");
    let say = |from: u64, until: u64| {
        let mut at = from;
        while at < until {
            let end = (at + RECORDS_PER_CALL).min(until);
            source.append((at..end).map(entry).collect(), Vec::new(), now()).expect("appends");
            at = end;
        }
    };
    head(&format!("log of {records} records"));
    let start = Instant::now();
    say(0, records);
    row("said", format!("{:.0} /s", records as f64 / start.elapsed().as_secs_f64()));
    let sink = open(dirs[1].path(), 2);
    catch_up(&source, &sink, records);
    say(records, records + MISSED);
    missed(&source, &sink);
    let digests = [&source, &sink].map(|catalog| catalog.read().and_then(|read| read.digest()).ok());
    assert!(digests[0].is_some() && digests[0] == digests[1], "both know the same");
    drop((source, sink));
    for (name, dir) in [("source", &dirs[0]), ("new device", &dirs[1])] {
        let (log, rows) = (disk_bytes(&dir.path().join("log")), disk_bytes(&dir.path().join("catalog.redb")));
        let per = |bytes: u64| bytes as f64 / records as f64;
        row(&format!("on disk, {name}: log, database"), format!("{:.0} B, {:.0} B a record", per(log), per(rows)));
    }
}
