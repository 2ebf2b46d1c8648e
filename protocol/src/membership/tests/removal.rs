//! Removals, changes of role, and who wins.

use super::*;

fn remove(log: &mut MembershipLog, by: u8, target: u8) {
    log.remove(&key(by), device(target), Cuts::default()).unwrap();
}

fn merge(logs: &[&MembershipLog]) -> MembershipLog {
    let mut merged = MembershipLog::empty(logs[0].group());
    for op in logs.iter().rev().flat_map(|log| log.ops()) {
        merged.insert(op.clone()).unwrap();
    }
    merged
}

fn members(log: &MembershipLog) -> Vec<u8> {
    (1..20).filter(|number| log.role(&device(*number)).is_some()).collect()
}

/// A group of admins whom the founder, device 1, admitted in order of number.
fn admins(numbers: std::ops::RangeInclusive<u8>) -> MembershipLog {
    let mut log = found();
    for number in numbers.skip(1) {
        log.admit(&key(1), &admit(number, Role::Admin)).unwrap();
    }
    log
}

#[test]
fn a_senior_admin_wins_over_a_junior_one_whatever_both_say() {
    let base = admins(1..=3);
    let (mut a, mut b) = (base.clone(), base);
    remove(&mut a, 2, 3);
    remove(&mut b, 3, 2);
    remove(&mut b, 3, 1);
    let merged = merge(&[&a, &b]);
    assert_eq!(members(&merged), [1, 2]);
    assert_eq!(merged.roster(), merge(&[&b, &a]).roster());
    assert_eq!(merged.roster().former(&device(3)).unwrap().removed_by.len(), 1);
}

#[test]
fn who_is_junior_votes_and_half_is_no_majority() {
    let mut log = admins(1..=4);
    remove(&mut log, 3, 1);
    assert_eq!(members(&log), [1, 2, 3, 4]);
    assert_eq!(log.roster().votes(&device(1)).collect::<Vec<_>>(), [&device(3)]);
    remove(&mut log, 4, 1);
    assert_eq!(members(&log), [1, 2, 3, 4]);
    remove(&mut log, 2, 1);
    assert_eq!(members(&log), [2, 3, 4]);
    assert_eq!(log.roster().votes(&device(1)).count(), 0);
    assert_eq!(log.roster().former(&device(1)).unwrap().removed_by.len(), 3);
}

/// The thief of the most senior device removes everybody else at once.
#[test]
fn a_majority_wins_over_a_senior_that_removes_it() {
    let base = admins(1..=3);
    let (mut thief, mut second, mut third) = (base.clone(), base.clone(), base);
    remove(&mut thief, 1, 2);
    remove(&mut thief, 1, 3);
    remove(&mut second, 2, 1);
    remove(&mut third, 3, 1);
    assert_eq!(members(&merge(&[&thief, &second])), [1]);
    let merged = merge(&[&thief, &second, &third]);
    assert_eq!(members(&merged), [2, 3]);
    assert_eq!(merged.roster().admins()[0].device, device(2));
}

/// An admin that admits its own crowd, before or after, has one voice.
#[test]
fn a_crowd_of_ones_own_is_no_majority() {
    let base = admins(1..=2);
    let mut crowd = base.clone();
    for number in 3..9 {
        crowd.admit(&key(2), &admit(number, Role::Admin)).unwrap();
    }
    for number in 2..9 {
        remove(&mut crowd, number, 1);
    }
    assert!(members(&crowd).contains(&1));
    let mut founder = base;
    remove(&mut founder, 1, 2);
    assert_eq!(members(&merge(&[&founder, &crowd])), [1]);
}

/// After it has lost to a majority, the removed device makes up admins of its own, as if they had been there before.
#[test]
fn who_was_voted_out_cannot_enlarge_the_electorate() {
    let base = admins(1..=3);
    let (mut thief, mut others) = (base.clone(), base);
    remove(&mut others, 2, 1);
    remove(&mut others, 3, 1);
    for number in 4..12 {
        thief.admit(&key(1), &admit(number, Role::Admin)).unwrap();
    }
    assert_eq!(members(&merge(&[&thief, &others])), [2, 3]);
}

/// What the removed device said counts as far as a majority had heard it when it voted, not as far as one of them had.
#[test]
fn the_cut_of_a_majority_is_what_all_of_it_knew() {
    let base = admins(1..=3);
    let (mut second, mut third) = (base.clone(), base);
    remove(&mut second, 2, 1);
    third.admit(&key(1), &admit(4, Role::Writer)).unwrap();
    remove(&mut third, 3, 1);
    assert_eq!(members(&merge(&[&second, &third])), [2, 3]);
    remove(&mut third, 2, 1);
    assert_eq!(members(&third), [2, 3, 4]);
}

#[test]
fn admins_that_all_vote_one_another_out_keep_the_most_senior() {
    let base = admins(1..=3);
    let logs: Vec<_> = [(1, [2, 3]), (2, [1, 3]), (3, [1, 2])]
        .into_iter()
        .map(|(by, targets)| {
            let mut log = base.clone();
            for target in targets {
                let body = codec::encode(&Remove { device: device(target), cuts: Cuts::default() }).unwrap();
                let last = log.ops().map(SignedOp::id).zip(log.ops()).filter_map(|(id, op)| {
                    op.verify().ok().filter(|op| op.author == device(by)).map(|op| (op.seq, id))
                });
                let (seq, own) = last.max().map_or((0, None), |(seq, id)| (seq + 1, Some(id)));
                let heads = base.heads().into_iter().chain(own).collect::<std::collections::BTreeSet<_>>();
                log.insert(signed(&log, by, seq, heads.into_iter().collect(), MembershipOp::REMOVE, &body)).unwrap();
            }
            log
        })
        .collect();
    let merged = merge(&logs.iter().collect::<Vec<_>>());
    assert!(!merged.roster().admins().is_empty());
}

#[test]
fn what_the_remover_knew_stands_and_the_rest_is_void() {
    let mut log = admins(1..=2);
    log.admit(&key(2), &admit(3, Role::Writer)).unwrap();
    let mut removed = log.clone();
    remove(&mut log, 1, 2);
    removed.admit(&key(2), &admit(4, Role::Writer)).unwrap();
    // Somebody who has not heard of the removal builds on what is void.
    removed.admit(&key(1), &admit(5, Role::Writer)).unwrap_or_else(|_| unreachable!("the founder is an admin here"));
    let first = log.clone();
    assert_eq!(members(&first), [1, 3]);
    let mut late = first.clone();
    let body = codec::encode(&admit(6, Role::Admin)).unwrap();
    late.insert(signed(&late, 2, 1, late.heads(), MembershipOp::ADMIT, &body)).unwrap();
    assert_eq!(members(&late), [1, 3]);
    assert_eq!(log.admit(&key(1), &admit(2, Role::Writer)), Err(MembershipError::Removed));
    assert_eq!(log.set_role(&key(1), device(2), Role::Writer, Cuts::default()), Err(MembershipError::Removed));
}

#[test]
fn what_builds_on_a_void_operation_still_counts() {
    let base = admins(1..=3);
    let (mut remover, mut other) = (base.clone(), base);
    remove(&mut remover, 1, 3);
    other.admit(&key(3), &admit(4, Role::Writer)).unwrap();
    other.admit(&key(2), &admit(5, Role::Writer)).unwrap();
    assert_eq!(members(&merge(&[&remover, &other])), [1, 2, 5]);
}

#[test]
fn the_cut_says_how_much_of_a_catalog_log_counts() {
    let mut log = admins(1..=2);
    log.admit(&key(1), &admit(3, Role::Writer)).unwrap();
    let author = |number, incarnation| crate::log::Author { device: device(number), incarnation };
    assert_eq!(log.roster().cut(&author(3, 0)), None);
    assert!(log.roster().permits(&author(3, 0), 1_000_000, 5));
    let cuts = Cuts::new(vec![(0, 10), (2, 5)]).unwrap();
    let mut concurrent = log.clone();
    log.remove(&key(1), device(3), cuts).unwrap();
    concurrent.remove(&key(2), device(3), Cuts::new(vec![(0, u64::MAX)]).unwrap()).unwrap();
    let roster = merge(&[&log, &concurrent]).roster();
    let cut = |incarnation| roster.cut(&author(3, incarnation));
    assert_eq!((cut(0), cut(1), cut(2)), (Some(10), Some(0), Some(5)), "the most senior remover's");
    assert!(roster.permits(&author(3, 0), 9, 5) && !roster.permits(&author(3, 0), 10, 5));
    assert!(!roster.permits(&author(3, 0), 10, 1) && !roster.permits(&author(9, 0), 0, 1));
}

#[test]
fn what_was_decided_as_an_admin_stands_and_nothing_else() {
    let mut log = admins(1..=3);
    log.admit(&key(1), &admit(4, Role::Writer)).unwrap();
    let decides = |log: &MembershipLog, number, seq| {
        log.roster().decides(&crate::log::Author { device: device(number), incarnation: 0 }, seq)
    };
    assert!(decides(&log, 1, 9) && decides(&log, 2, 9) && !decides(&log, 4, 0) && !decides(&log, 9, 0));
    let cuts = || Cuts::new(vec![(0, 5)]).unwrap();
    log.set_role(&key(1), device(2), Role::Writer, cuts()).unwrap();
    assert!(decides(&log, 2, 4) && !decides(&log, 2, 5));
    // What it wrote as a writer decides nothing afterwards.
    log.set_role(&key(1), device(2), Role::Reader, Cuts::new(vec![(0, 8)]).unwrap()).unwrap();
    assert!(decides(&log, 2, 4) && !decides(&log, 2, 7));
    log.remove(&key(1), device(3), cuts()).unwrap();
    log.remove(&key(1), device(4), cuts()).unwrap();
    assert!(decides(&log, 3, 4) && !decides(&log, 3, 5) && !decides(&log, 4, 0));
}

#[test]
fn who_may_not_write_any_more_keeps_what_it_wrote() {
    let mut log = admins(1..=2);
    log.admit(&key(2), &admit(3, Role::Writer)).unwrap();
    let author = crate::log::Author { device: device(3), incarnation: 0 };
    log.set_role(&key(1), device(3), Role::Reader, Cuts::new(vec![(0, 7)]).unwrap()).unwrap();
    let roster = log.roster();
    assert!(roster.permits(&author, 6, 5) && !roster.permits(&author, 7, 5) && roster.permits(&author, 7, 1));
    assert_eq!(roster.cut(&author), None);
    assert!(!roster.needs_rotation());
    log.set_role(&key(1), device(3), Role::Vault, Cuts::default()).unwrap();
    assert_eq!(log.roster().exposed_to(), [device(3)].into());
    log.set_role(&key(1), device(3), Role::Writer, Cuts::default()).unwrap();
    assert!(log.roster().permits(&author, 7, 5) && !log.roster().needs_rotation());
}

#[test]
fn roles_are_changed_by_who_is_senior() {
    let mut log = admins(1..=3);
    for (by, target) in [(2, 1), (3, 2), (2, 2)] {
        let refused = log.set_role(&key(by), device(target), Role::Reader, Cuts::default());
        assert_eq!(refused, Err(MembershipError::NotAllowed), "{by} {target}");
    }
    assert_eq!(log.remove(&key(1), device(1), Cuts::default()), Err(MembershipError::NotAllowed));
    log.set_role(&key(2), device(3), Role::Reader, Cuts::default()).unwrap();
    assert_eq!(log.admit(&key(3), &admit(4, Role::Reader)), Err(MembershipError::NotAllowed));
    log.set_role(&key(2), device(3), Role::Admin, Cuts::default()).unwrap();
    log.admit(&key(3), &admit(4, Role::Reader)).unwrap();
    assert_eq!(members(&log), [1, 2, 3, 4]);
}

#[test]
fn what_was_known_before_a_demotion_stands() {
    let mut log = admins(1..=2);
    let mut late = log.clone();
    log.admit(&key(2), &admit(3, Role::Writer)).unwrap();
    log.set_role(&key(1), device(2), Role::Reader, Cuts::default()).unwrap();
    assert_eq!(members(&log), [1, 2, 3]);
    late.set_role(&key(1), device(2), Role::Reader, Cuts::default()).unwrap();
    let mut unheard = admins(1..=2);
    unheard.admit(&key(2), &admit(3, Role::Writer)).unwrap();
    assert_eq!(members(&merge(&[&late, &unheard])), [1, 2]);
}

/// While one admin promotes, its senior demotes: what leaves less wins, and everybody agrees.
#[test]
fn concurrent_changes_of_role_leave_the_lesser() {
    let mut base = admins(1..=2);
    base.admit(&key(1), &admit(3, Role::Writer)).unwrap();
    let (mut up, mut down) = (base.clone(), base);
    down.set_role(&key(1), device(3), Role::Vault, Cuts::default()).unwrap();
    up.set_role(&key(2), device(3), Role::Admin, Cuts::default()).unwrap();
    up.admit(&key(3), &admit(4, Role::Writer)).unwrap();
    let merged = merge(&[&up, &down]);
    assert_eq!(merged.role(&device(3)), Some(Role::Vault));
    assert_eq!(merged.role(&device(4)), None);
}

#[test]
fn the_words_take_the_group_back_from_its_founder() {
    let base = admins(1..=2);
    let recovery = RecoveryKey::from_entropy([9; 32]);
    let random = RotateRandomness { secret: [21; 32], seed: [22; 32] };
    let gone = |number| Remove { device: device(number), cuts: Cuts::default() };
    let mut taken = base.clone();
    let mut new = admit(5, Role::Writer);
    new.epochs = crate::bounded::List::default();
    taken.recover(&recovery, vec![gone(1), gone(2)], Successor::Device(Box::new(new)), &random).unwrap();
    assert_eq!(members(&taken), [5]);
    assert_eq!(taken.role(&device(5)), Some(Role::Admin));
    let ring = taken.roster().key_ring(&device(5), &wrapping(5)).unwrap();
    assert_eq!(ring.current().1.as_bytes(), &[21; 32]);
    assert_eq!(ring.get(&EPOCH).unwrap().as_bytes(), &SECRET, "history goes with it");
    let mut thief = base;
    thief.admit(&key(1), &admit(6, Role::Admin)).unwrap();
    remove(&mut thief, 1, 5);
    remove(&mut thief, 1, 2);
    let merged = merge(&[&taken, &thief]);
    assert_eq!(members(&merged), [5]);
    assert!(!merged.roster().needs_rotation());
    let wrong = RecoveryKey::from_entropy([8; 32]);
    let mut log = taken.clone();
    for (key, removed, admin, error) in [
        (&wrong, vec![], 5, MembershipError::NotAllowed),
        (&recovery, vec![], 1, MembershipError::NotAllowed),
        (&recovery, vec![gone(5)], 5, MembershipError::NotAllowed),
    ] {
        assert_eq!(log.recover(key, removed, Successor::Member(device(admin)), &random), Err(error));
    }
    let removed = Successor::Device(Box::new(admit(1, Role::Admin)));
    assert_eq!(log.recover(&recovery, vec![], removed, &random), Err(MembershipError::Removed));
}

/// The words are typed in on two devices that do not hear of each other: both recoveries have number 0, and that is no
/// fork.
#[test]
fn two_recoveries_at_once_both_count() {
    let base = admins(1..=4);
    let recovery = RecoveryKey::from_entropy([9; 32]);
    let (mut a, mut b) = (base.clone(), base);
    let gone = |number| vec![Remove { device: device(number), cuts: Cuts::default() }];
    a.recover(&recovery, gone(1), Successor::Member(device(2)), &RotateRandomness { secret: [1; 32], seed: [1; 32] })
        .unwrap();
    b.recover(&recovery, gone(4), Successor::Member(device(3)), &RotateRandomness { secret: [2; 32], seed: [2; 32] })
        .unwrap();
    let mut merged = merge(&[&a, &b]);
    assert_eq!(merged.roster(), merge(&[&b, &a]).roster());
    assert_eq!(members(&merged), [2, 3]);
    assert!(merged.roster().quarantined().is_empty());
    assert!(merged.roster().needs_rotation(), "each of the new epochs went to a device that the other removed");
    merged.rotate(&key(2), &wrapping(2), &RotateRandomness { secret: [3; 32], seed: [3; 32] }).unwrap();
    assert!(!merged.roster().needs_rotation());
    merged
        .recover(&recovery, gone(2), Successor::Member(device(3)), &RotateRandomness { secret: [4; 32], seed: [4; 32] })
        .unwrap();
    assert_eq!(members(&merged), [3]);
}
