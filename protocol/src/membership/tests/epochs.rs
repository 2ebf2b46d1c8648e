//! Who opens which epoch, and which is current.

use super::*;

fn random(number: u8) -> RotateRandomness {
    RotateRandomness { secret: [100 + number; 32], seed: [200 + number; 32] }
}

fn epoch(number: u8) -> EpochId {
    epoch_of(&[100 + number; 32])
}

fn group() -> MembershipLog {
    let mut log = found();
    log.admit(&key(1), &admit(2, Role::Admin)).unwrap();
    log.admit(&key(1), &admit(3, Role::Reader)).unwrap();
    let mut vault = admit(4, Role::Vault);
    vault.epochs = crate::bounded::List::default();
    log.admit(&key(1), &vault).unwrap();
    log
}

#[test]
fn a_rotation_reaches_every_reader_and_nobody_else() {
    let mut log = group();
    assert!(!log.roster().needs_rotation());
    log.remove(&key(1), device(3), Cuts::default()).unwrap();
    assert_eq!(log.roster().exposed_to(), [device(3)].into());
    log.rotate(&key(1), &wrapping(1), &random(1)).unwrap();
    let roster = log.roster();
    assert!(!roster.needs_rotation());
    assert_eq!(roster.current_epoch(), Some(epoch(1)));
    for number in [1, 2] {
        let ring = roster.key_ring(&device(number), &wrapping(number)).unwrap();
        assert_eq!((ring.current().0, ring.current().1.as_bytes()), (epoch(1), &[101; 32]));
        assert_eq!(ring.get(&EPOCH).unwrap().as_bytes(), &SECRET);
    }
    let removed = roster.key_ring(&device(3), &wrapping(3)).unwrap();
    assert!(removed.get(&epoch(1)).is_none() && removed.get(&EPOCH).is_some());
    assert!(roster.key_ring(&device(4), &wrapping(4)).is_none(), "a vault holds no key");
    let recovery = RecoveryKey::from_entropy([9; 32]);
    let ring = roster.recovery_ring(&recovery).unwrap();
    assert_eq!(ring.current().0, epoch(1));
    assert_eq!(ring.iter().count(), 2);
}

#[test]
fn only_admins_rotate() {
    let mut log = group();
    assert_eq!(log.rotate(&key(3), &wrapping(3), &random(1)), Err(MembershipError::NotAllowed));
}

/// One admin removes a reader and rotates; another, that has not heard of it, rotates too and hands its secret to the
/// removed one. Whichever has the greater id, the first one's is current.
#[test]
fn of_concurrent_rotations_the_one_that_no_outsider_holds_is_current() {
    for number in 1..6 {
        let (mut a, mut b) = (group(), group());
        a.remove(&key(1), device(3), Cuts::default()).unwrap();
        a.rotate(&key(1), &wrapping(1), &random(number)).unwrap();
        b.rotate(&key(2), &wrapping(2), &random(20)).unwrap();
        b.rotate(&key(2), &wrapping(2), &random(21)).unwrap();
        for op in b.ops() {
            a.insert(op.clone()).unwrap();
        }
        let roster = a.roster();
        assert_eq!(roster.current_epoch(), Some(epoch(number)));
        assert_eq!(roster.key_ring(&device(2), &wrapping(2)).unwrap().iter().count(), 4, "all stay readable");
        assert!(!roster.needs_rotation());
    }
}

#[test]
fn equal_rotations_are_chosen_the_same_everywhere_and_a_new_reader_asks_for_another() {
    let (mut a, mut b) = (group(), group());
    a.rotate(&key(1), &wrapping(1), &random(1)).unwrap();
    b.rotate(&key(2), &wrapping(2), &random(2)).unwrap();
    for op in b.ops() {
        a.insert(op.clone()).unwrap();
    }
    for op in a.clone().ops() {
        b.insert(op.clone()).unwrap();
    }
    assert_eq!(a.roster().current_epoch(), b.roster().current_epoch());
    assert_eq!(a.roster().current_epoch(), Some(epoch(1).max(epoch(2))));
    a.set_role(&key(1), device(4), Role::Reader, Cuts::default()).unwrap();
    assert_eq!(a.roster().lacking(), [device(4)].into());
    a.rotate(&key(1), &wrapping(1), &random(3)).unwrap();
    assert!(!a.roster().needs_rotation());
    let ring = a.roster().key_ring(&device(4), &wrapping(4)).unwrap();
    assert_eq!(ring.iter().count(), 4, "with the whole history");
}

/// A removed admin says that it hands the newest secret, which it does not hold, to somebody.
#[test]
fn a_removed_device_cannot_make_the_group_rotate() {
    let mut log = group();
    log.remove(&key(1), device(2), Cuts::default()).unwrap();
    log.rotate(&key(1), &wrapping(1), &random(1)).unwrap();
    let mut fake = admit(7, Role::Writer);
    let wrapped = WrappedSecret::wrap(&[1; 32], &wrapping(7).public(), [7; 32]).unwrap();
    fake.epochs = crate::bounded::List::new(vec![(epoch(1), wrapped)]).unwrap();
    let body = codec::encode(&fake).unwrap();
    log.insert(signed(&log, 2, 0, log.heads(), MembershipOp::ADMIT, &body)).unwrap();
    assert!(!log.roster().needs_rotation());
}

#[test]
fn an_epoch_names_its_secret() {
    let mut log = group();
    let rotate = Rotate::new([(device(2), wrapping(2).public())], &[9; 32], [], &random(1)).unwrap();
    let lie = Rotate { epoch: epoch(2), ..rotate };
    laws::check(&lie);
    let body = codec::encode(&lie).unwrap();
    log.insert(signed(&log, 1, 4, log.heads(), MembershipOp::ROTATE, &body)).unwrap();
    assert_eq!(log.roster().key_ring(&device(2), &wrapping(2)).unwrap().iter().count(), 1);
}

#[test]
fn bodies_have_one_encoding() {
    let cuts = Cuts::new(vec![(0, 3), (1, u64::MAX)]).unwrap();
    let remove = Remove { device: device(2), cuts: cuts.clone() };
    laws::check(&remove);
    laws::check(&SetRole { device: device(2), role: Role::Vault, cuts });
    let readers = [(device(2), wrapping(2).public())];
    let rotate = Rotate::new(readers, &wrapping(9).public(), [(EPOCH, SECRET)], &random(1)).unwrap();
    laws::check(&rotate);
    let recover =
        Recover { remove: crate::bounded::List::new(vec![remove]).unwrap(), admin: admit(3, Role::Admin), rotate };
    laws::check(&recover);
}

proptest! {
    #[test]
    fn a_sealed_secret_opens_only_under_its_own(newer: [u8; 32], other: [u8; 32], older: [u8; 16], secret: [u8; 32]) {
        prop_assume!(newer != other);
        let id = EpochId::new(older);
        let sealed = SealedSecret::seal(&newer, &id, &secret);
        prop_assert_eq!(*sealed.open(&newer, &id).unwrap(), secret);
        prop_assert_eq!(sealed.open(&other, &id), Err(WrapError));
        prop_assert_eq!(sealed.open(&newer, &epoch_of(&older.repeat(2).try_into().unwrap())), Err(WrapError));
    }
}
