//! Whatever honest and hostile devices say, in whatever order it arrives.

use super::*;
use std::collections::{BTreeMap, BTreeSet};

const DEVICES: u8 = 6;

#[derive(Debug, Clone)]
enum Step {
    /// A device says something on top of all that it holds.
    Say(u8, Word),
    /// A device says something as if it knew only what it has said itself.
    BackDate(u8, Word),
    /// A device hears all that another one holds.
    Hear(u8, u8),
    /// Somebody types the words in at a device: who is removed, who decides.
    Recover(u8, u8, u8),
    /// A device signs something else under its last number.
    Fork(u8, Word),
}

#[derive(Debug, Clone)]
enum Word {
    Admit(u8, Role),
    Remove(u8),
    SetRole(u8, Role),
    Rotate(u8),
    Unknown,
}

fn roles() -> impl Strategy<Value = Role> {
    prop_oneof![3 => Just(Role::Admin), 1 => Just(Role::Writer), 1 => Just(Role::Reader), 1 => Just(Role::Vault)]
}

fn words() -> impl Strategy<Value = Word> {
    let device = 1..=DEVICES;
    prop_oneof![
        4 => (device.clone(), roles()).prop_map(|(device, role)| Word::Admit(device, role)),
        5 => device.clone().prop_map(Word::Remove),
        2 => (device, roles()).prop_map(|(device, role)| Word::SetRole(device, role)),
        1 => any::<u8>().prop_map(Word::Rotate),
        1 => Just(Word::Unknown),
    ]
}

fn steps(len: usize) -> impl Strategy<Value = Vec<Step>> {
    let device = 1..=DEVICES;
    let step = prop_oneof![
        5 => (device.clone(), words()).prop_map(|(by, word)| Step::Say(by, word)),
        2 => (device.clone(), words()).prop_map(|(by, word)| Step::BackDate(by, word)),
        3 => (device.clone(), device).prop_map(|(by, from)| Step::Hear(by, from)),
    ];
    prop::collection::vec(step, 0..len)
}

fn rare_steps() -> impl Strategy<Value = Vec<Step>> {
    let device = 1..=DEVICES;
    let step = prop_oneof![
        (device.clone(), device.clone(), device.clone()).prop_map(|(at, gone, admin)| Step::Recover(at, gone, admin)),
        (device, words()).prop_map(|(by, word)| Step::Fork(by, word)),
    ];
    prop::collection::vec(step, 0..3)
}

fn body(log: &MembershipLog, word: &Word) -> (u16, Vec<u8>) {
    match word {
        Word::Admit(number, role) => (MembershipOp::ADMIT, codec::encode(&admit(*number, *role)).unwrap()),
        Word::Remove(number) => {
            let remove = Remove { device: device(*number), cuts: Cuts::default() };
            (MembershipOp::REMOVE, codec::encode(&remove).unwrap())
        }
        Word::SetRole(number, role) => {
            let set = SetRole { device: device(*number), role: *role, cuts: Cuts::default() };
            (MembershipOp::SET_ROLE, codec::encode(&set).unwrap())
        }
        Word::Rotate(secret) => {
            let readers: Vec<_> = log.roster().readers().map(|member| (member.device, member.wrapping)).collect();
            let random = RotateRandomness { secret: [*secret; 32], seed: [*secret; 32] };
            let rotate = Rotate::new(readers, &wrapping(9).public(), [(EPOCH, SECRET)], &random).unwrap();
            (MembershipOp::ROTATE, codec::encode(&rotate).unwrap())
        }
        Word::Unknown => (900, Vec::new()),
    }
}

/// What a device says, as it stands in its log; also what it may not say. Never forks.
fn say(log: &mut MembershipLog, by: u8, word: &Word, back_dated: bool) {
    let own = log.ops().filter_map(|op| op.verify().ok().map(|it| (op.id(), it)));
    let own = own.filter(|(_, op)| op.author == device(by)).max_by_key(|(_, op)| op.seq);
    let last = own.as_ref().map(|(id, _)| *id);
    let seq = own.as_ref().map_or(0, |(_, op)| op.seq + 1);
    let roster = log.roster();
    let mut previous: BTreeSet<MembershipOpId> = last.into_iter().collect();
    if back_dated {
        // It must know what made it a member, or nothing that it says would count.
        previous.extend(roster.member(&device(by)).map(|member| member.admitted_by));
    }
    if !back_dated || previous.is_empty() {
        previous.extend(log.heads());
    }
    let (kind, body) = body(log, word);
    log.insert(signed(log, by, seq, previous.into_iter().collect(), kind, &body)).unwrap();
}

/// What everybody knows at first: each device, but the last two, is let in by one of those before it.
fn bases() -> impl Strategy<Value = Vec<(prop::sample::Index, Role)>> {
    prop::collection::vec((any::<prop::sample::Index>(), roles()), usize::from(DEVICES) - 3)
}

fn base(invited: &[(prop::sample::Index, Role)]) -> MembershipLog {
    let mut log = found();
    for (number, (by, role)) in (2u8..).zip(invited) {
        let by = u8::try_from(by.index(usize::from(number) - 1)).unwrap() + 1;
        if log.admit(&key(by), &admit(number, *role)).is_err() {
            log.admit(&key(1), &admit(number, *role)).unwrap();
        }
    }
    log
}

fn play(base: &MembershipLog, steps: &[Step]) -> MembershipLog {
    let mut logs: BTreeMap<u8, MembershipLog> = (1..=DEVICES).map(|number| (number, base.clone())).collect();
    let hear = |logs: &mut BTreeMap<u8, MembershipLog>, by: u8, from: u8| {
        let ops: Vec<_> = logs[&from].ops().cloned().collect();
        let log = logs.get_mut(&by).unwrap();
        for op in ops {
            log.insert(op).unwrap();
        }
    };
    for step in steps {
        match step {
            Step::Say(by, word) => say(logs.get_mut(by).unwrap(), *by, word, false),
            Step::BackDate(by, word) => say(logs.get_mut(by).unwrap(), *by, word, true),
            Step::Hear(by, from) => hear(&mut logs, *by, *from),
            Step::Recover(at, gone, admin) => {
                let gone = Remove { device: device(*gone), cuts: Cuts::default() };
                let random = RotateRandomness { secret: [*admin; 32], seed: [*at; 32] };
                let words = RecoveryKey::from_entropy([9; 32]);
                let log = logs.get_mut(at).unwrap();
                // Refused when it makes no sense, which is fine.
                let _ = log.recover(&words, vec![gone], Successor::Member(device(*admin)), &random);
            }
            Step::Fork(by, word) => {
                let log = logs.get_mut(by).unwrap();
                let own = log.ops().filter_map(|op| op.verify().ok()).filter(|op| op.author == device(*by));
                if let Some(last) = own.max_by_key(|op| op.seq).filter(|op| op.group.is_some()) {
                    let (kind, body) = body(log, word);
                    let fork = signed(log, *by, last.seq, last.previous.to_vec(), kind, &body);
                    log.insert(fork).unwrap();
                }
            }
        }
    }
    for from in 2..=DEVICES {
        hear(&mut logs, 1, from);
    }
    logs.remove(&1).unwrap()
}

fn past(log: &MembershipLog, of: MembershipOpId) -> BTreeSet<MembershipOpId> {
    let (mut open, mut past) = (vec![of], BTreeSet::new());
    while let Some(id) = open.pop() {
        if past.insert(id) {
            open.extend(log.get(&id).unwrap().verify().unwrap().previous.iter());
        }
    }
    past
}

/// What holds for every set of operations.
fn check(log: &MembershipLog) {
    let roster = log.roster();
    let is = |op: &SignedOp| op.verify().unwrap().kind == MembershipOp::RECOVER;
    if roster.quarantined().is_empty() && !log.ops().any(is) {
        assert!(!roster.admins().is_empty(), "somebody decides");
    }
    let voted: BTreeSet<_> = roster.removed().flat_map(|former| former.removed_by.iter().copied()).collect();
    for former in roster.removed() {
        assert!(roster.member(&former.device).is_none());
        let [removal] = former.removed_by[..] else { continue };
        let known = past(log, removal);
        for op in log.ops() {
            let later = op.verify().unwrap().author == former.device && !known.contains(&op.id());
            if later && !voted.contains(&op.id()) {
                assert!(!roster.counts(&op.id()), "what a removed device says later never counts");
            }
        }
    }
    for member in roster.members() {
        assert_eq!(member.role == Role::Admin, member.seniority.is_some());
    }
    if let Some(admin) = roster.admins().first() {
        let number = (1..=DEVICES + 1).find(|number| device(*number) == admin.device).unwrap();
        let mut rotated = log.clone();
        // Unlike any secret that a step draws.
        let random = RotateRandomness { secret: std::array::from_fn(|at| at.to_le_bytes()[0]), seed: [251; 32] };
        rotated.rotate(&key(number), &wrapping(number), &random).expect("an admin rotates");
        let roster = rotated.roster();
        assert!(!roster.needs_rotation());
        for number in 1..=DEVICES + 1 {
            let ring = roster.key_ring(&device(number), &wrapping(number));
            let holds = ring.is_some_and(|ring| ring.get(&epoch_of(&random.secret)).is_some());
            let reads = roster.member(&device(number)).is_some_and(|member| member.role.may_read());
            assert_eq!(holds, reads, "readers hold the new secret, and nobody else");
        }
    }
    let mut welcomed = MembershipLog::empty(log.group());
    for op in log.counted() {
        welcomed.insert(op).unwrap();
    }
    let welcomed = welcomed.roster();
    assert_eq!(welcomed.hash(), roster.hash(), "a new member computes the same");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn equal_sets_mean_equal_members(
        invited in bases(),
        steps in steps(24),
        rare in rare_steps(),
        order in prop::collection::vec(any::<prop::sample::Index>(), 40),
    ) {
        let mut steps = steps;
        for (step, index) in rare.into_iter().zip(&order) {
            steps.insert(index.index(steps.len() + 1), step);
        }
        let log = play(&base(&invited), &steps);
        check(&log);
        let mut ops: Vec<_> = log.ops().cloned().collect();
        for (at, index) in order.iter().enumerate() {
            let len = ops.len();
            ops.swap(at % len, index.index(len));
        }
        let mut other = MembershipLog::empty(log.group());
        for op in ops {
            other.insert(op).unwrap();
        }
        prop_assert_eq!(other.hash(), log.hash());
        prop_assert_eq!(other.roster().hash(), log.roster().hash());
        prop_assert_eq!(other.roster(), log.roster());
    }

    /// A device that one admin has removed says whatever it likes, back-dated or not, with a crowd of its own making.
    #[test]
    fn a_removed_device_never_undoes_its_removal(
        invited in bases(),
        before in steps(14),
        after in prop::collection::vec((any::<bool>(), any::<bool>(), words()), 1..10),
        target in 2..=DEVICES - 2,
    ) {
        let honest = |step: &Step| !matches!(step, Step::Say(_, Word::Remove(_)) | Step::BackDate(..));
        let before: Vec<_> = before.into_iter().filter(honest).collect();
        let mut log = play(&base(&invited), &before);
        let mut hostile = log.clone();
        prop_assume!(log.role(&device(target)).is_some());
        prop_assume!(log.remove(&key(1), device(target), Cuts::default()).is_ok());
        prop_assume!(log.role(&device(target)).is_none());
        for (crowd, back_dated, word) in &after {
            if *crowd {
                say(&mut hostile, target, &Word::Admit(DEVICES + 1, Role::Admin), *back_dated);
                say(&mut hostile, DEVICES + 1, word, false);
            } else {
                say(&mut hostile, target, word, *back_dated);
            }
        }
        for op in hostile.ops() {
            log.insert(op.clone()).unwrap();
        }
        let roster = log.roster();
        check(&log);
        prop_assert!(roster.member(&device(target)).is_none());
        prop_assert!(roster.member(&device(DEVICES + 1)).is_none());
        prop_assert_eq!(roster.admins()[0].device, device(1));
    }
}
