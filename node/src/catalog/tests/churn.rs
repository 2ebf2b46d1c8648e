//! Random devices that write, delete, hand drives on, compact, meet and are rebuilt, against what their users meant:
//! nothing that was deleted comes back, nothing that was said is lost, and who has heard the same shows the same.

use super::{
    checkpoints::{EAGER, at, sync, sync_until},
    *,
};
use proptest::prelude::*;
use std::collections::BTreeMap;

const DEVICES: usize = 4;
const PATHS: u8 = 6;
const PLACES: usize = 3;

#[derive(Debug, Clone)]
enum Step {
    /// Says a few things of a place: (path, a file or its end).
    Say(usize, Vec<(u8, Option<u8>)>),
    /// Carries a place to another device.
    Carry(usize, usize),
    Compact(usize),
    Meet(usize, usize, usize),
    /// The last batch of a device reaches another one by gossip.
    Hear(usize, usize),
    Rebuild(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let device = || 0..DEVICES;
    let said = prop::collection::vec((0..PATHS, prop::option::weighted(0.6, 0..200u8)), 1..5);
    let step = prop_oneof![
        8 => (0..PLACES, said).prop_map(|(place, said)| Step::Say(place, said)),
        1 => (0..PLACES, device()).prop_map(|(place, to)| Step::Carry(place, to)),
        3 => device().prop_map(Step::Compact),
        3 => (device(), device(), prop_oneof![2 => Just(usize::MAX), 1 => 3..14usize]).prop_map(|(a, b, cut)| Step::Meet(a, b, cut)),
        2 => (device(), device()).prop_map(|(a, b)| Step::Hear(a, b)),
        1 => device().prop_map(Step::Rebuild),
    ];
    prop::collection::vec(step, 1..60)
}

struct Machine {
    catalog: Option<Catalog>,
    log: LogMemory,
    number: u8,
}

impl Machine {
    fn new(number: u8) -> Self {
        let mut machine = Self { catalog: None, log: LogMemory::new(), number };
        machine.open();
        machine
    }

    fn open(&mut self) {
        self.catalog = None;
        let backend = Box::new(redb::backends::InMemoryBackend::new());
        let (catalog, report) =
            Catalog::open_with_backend(backend, Arc::new(self.log.clone()), identity(self.number), options()).unwrap();
        assert_eq!((report.cut_bytes, report.damaged_logs.len()), (0, 0), "{report:?}");
        self.catalog = Some(catalog);
    }

    fn catalog(&self) -> &Catalog {
        self.catalog.as_ref().unwrap()
    }
}

fn name(place: usize) -> u8 {
    u8::try_from(place).unwrap() + 10
}

fn run(steps: Vec<Step>) {
    let mut machines: Vec<Machine> = (1..=DEVICES).map(|number| Machine::new(u8::try_from(number).unwrap())).collect();
    // Where each place is, and under which mount.
    let mut places: Vec<(usize, u64)> = (0..PLACES).map(|place| (place % DEVICES, 1)).collect();
    let mut meant: BTreeMap<(usize, u8), Option<u8>> = BTreeMap::new();
    let mut clock = 0;
    let mut now = || {
        clock += 1;
        at(clock)
    };
    for (place, (home, epoch)) in places.iter().enumerate() {
        machines[*home].catalog().append(vec![location(name(place), *epoch)], Vec::new(), now()).unwrap();
    }
    for step in steps {
        match step {
            Step::Say(place, said) => {
                let (home, epoch) = places[place];
                let records = said.iter().map(|(path, value)| {
                    meant.insert((place, *path), *value);
                    entry(name(place), epoch, &format!("p/{path}"), value.map_or_else(gone, file))
                });
                machines[home].catalog().append(records.collect(), Vec::new(), now()).unwrap();
            }
            Step::Carry(place, to) => {
                let epoch = places[place].1 + 1;
                places[place] = (to, epoch);
                machines[to].catalog().append(vec![location(name(place), epoch)], Vec::new(), now()).unwrap();
            }
            Step::Compact(device) => {
                machines[device].catalog().compact_logs(EAGER, now()).unwrap();
            }
            Step::Meet(a, b, cut) if a != b => {
                let ends = [machines[a].catalog(), machines[b].catalog()];
                sync_until(ends, now(), cut);
            }
            Step::Hear(from, to) if from != to => {
                let read = machines[from].catalog().read().unwrap();
                let author = larder_protocol::log::Author { device: device(machines[from].number), incarnation: 0 };
                let until = read.vector().unwrap().get(&author);
                let gap = larder_protocol::log::Gap { author, from: until.saturating_sub(1), until };
                let (batches, _) = read.load(&gap, 1).unwrap();
                // A gap is fine: a session would close it.
                let _ = machines[to].catalog().hold(batches.into_iter().rev().take(1).collect(), now());
            }
            Step::Rebuild(device) => {
                let digest = machines[device].catalog().read().unwrap().digest().unwrap();
                machines[device].open();
                assert_eq!(machines[device].catalog().read().unwrap().digest().unwrap(), digest, "built anew");
            }
            _ => {}
        }
        for (a, b) in (0..DEVICES).flat_map(|a| (0..a).map(move |b| (a, b))) {
            let [one, two] = [a, b].map(|it| machines[it].catalog().read().unwrap());
            let (x, y) = (one.summary().unwrap(), two.summary().unwrap());
            if x.vector == y.vector && x.held.is_empty() && y.held.is_empty() {
                assert_eq!(one.digest().unwrap(), two.digest().unwrap(), "equal vectors, equal digests: {a} {b}");
            }
        }
    }
    for _ in 0..2 {
        for (a, b) in (0..DEVICES).flat_map(|a| (0..DEVICES).map(move |b| (a, b))).filter(|(a, b)| a != b) {
            let ends = [machines[a].catalog(), machines[b].catalog()];
            sync(ends, now());
        }
    }
    let all = |machines: &[Machine]| {
        for machine in machines {
            let read = machine.catalog().read().unwrap();
            for place in 0..PLACES {
                for number in 0..PATHS {
                    let stands = read.entry(&location_id(name(place)), &path(&format!("p/{number}"))).unwrap();
                    let shown = stands.map(|known| known.value).filter(|value| matches!(value, EntryValue::File(_)));
                    let meant = meant.get(&(place, number)).copied().flatten().map(file);
                    assert_eq!(shown, meant, "device {}, place {place}, path {number}", machine.number);
                }
            }
            let first = machines[0].catalog().read().unwrap();
            assert_eq!(read.digest().unwrap(), first.digest().unwrap());
            let (counts, others) = (read.counts().unwrap(), first.counts().unwrap());
            assert_eq!((counts.files, counts.contents), (others.files, others.contents));
        }
    };
    all(&machines);
    machines.iter_mut().for_each(Machine::open);
    all(&machines);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn nothing_comes_back_and_nothing_is_lost(steps in steps()) {
        run(steps);
    }
}
