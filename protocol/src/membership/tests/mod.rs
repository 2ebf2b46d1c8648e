//! What counts and what does not.

mod epochs;
mod properties;
mod removal;

use super::*;
use crate::{
    bounded::{Bytes, List},
    codec::{self, laws},
    id::{DeviceId, EpochId, MembershipOpId},
    record::Name,
};
use ed25519_dalek::SigningKey;
use proptest::prelude::*;

const EPOCH: EpochId = EpochId::new([5; 16]);
const SECRET: [u8; 32] = [6; 32];

fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

fn device(number: u8) -> DeviceId {
    DeviceId::new(key(number).verifying_key().to_bytes())
}

fn wrapping(number: u8) -> WrappingKey {
    WrappingKey::from_bytes([number ^ 0x40; 32])
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn found() -> MembershipLog {
    let random = CreateRandomness { group: [1; 32], ephemeral: [[2; 32], [3; 32]], nonces: [[4; 24], [5; 24]] };
    let recovery = RecoveryKey::from_entropy([9; 32]);
    MembershipLog::create(
        &key(1),
        wrapping(1).public(),
        &name("home"),
        &name("first"),
        &recovery,
        EPOCH,
        &SECRET,
        &random,
    )
    .unwrap()
}

fn admit(number: u8, role: Role) -> Admit {
    let wrapped = WrappedSecret::wrap(&SECRET, &wrapping(number).public(), [number; 32]).unwrap();
    Admit {
        member: Enrolment::sign(wrapping(number).public(), &key(number)),
        name: SealedName::seal(&name("other"), EPOCH, &SECRET, [number; 24]),
        role,
        epochs: crate::bounded::List::new(vec![(EPOCH, wrapped)]).unwrap(),
    }
}

#[test]
fn founder_and_recovery_key_hold_the_first_secret() {
    let roster = found().roster();
    let founder = roster.member(&device(1)).unwrap();
    assert_eq!(founder.role, Role::Admin);
    assert_eq!(*founder.epochs[&EPOCH].open(&wrapping(1)).unwrap(), SECRET);
    let secret = |epoch: &EpochId| (*epoch == EPOCH).then_some(SECRET);
    assert_eq!(roster.name().unwrap().open(secret).unwrap().as_str(), "home");
    assert_eq!(founder.name.open(|_| Some([0; 32])), None);
    let recovery = RecoveryKey::from_entropy([9; 32]);
    assert_eq!(roster.recovery_wrapping(), Some(recovery.wrapping().public()));
}

#[test]
fn only_admins_admit() {
    let mut log = found();
    log.admit(&key(1), &admit(2, Role::Writer)).unwrap();
    for nobody in [2, 7] {
        assert_eq!(log.admit(&key(nobody), &admit(3, Role::Admin)), Err(MembershipError::NotAllowed));
    }
    assert_eq!(log.ops().count(), 2);
    let body = codec::encode(&admit(3, Role::Admin)).unwrap();
    for nobody in [2, 7] {
        log.insert(signed(&log, nobody, 0, log.heads(), MembershipOp::ADMIT, &body)).unwrap();
    }
    let roster = log.roster();
    let devices: Vec<_> = roster.members().map(|member| member.device).collect();
    assert_eq!(devices.len(), 2);
    assert_eq!(roster.member(&device(2)).unwrap().role, Role::Writer);
    assert!(roster.member(&device(3)).is_none());
    assert_eq!(*roster.member(&device(2)).unwrap().epochs[&EPOCH].open(&wrapping(2)).unwrap(), SECRET);
}

#[test]
fn forgeries_and_other_groups_are_refused() {
    let mut log = found();
    let mut stolen = admit(2, Role::Writer);
    stolen.member.wrapping = wrapping(3).public();
    assert_eq!(log.admit(&key(1), &stolen), Err(MembershipError::Enrolment));
    let signed = log.admit(&key(1), &admit(2, Role::Writer)).unwrap();
    let bytes = codec::encode(&signed).unwrap();
    laws::check(&signed);
    for at in [10, bytes.len() / 2, bytes.len() - 1] {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        if let Ok(changed) = codec::decode::<SignedOp>(&changed) {
            assert!(changed.verify().is_err(), "byte {at}");
        }
    }
    let mut other = MembershipLog::empty(crate::id::GroupId::new([1; 32]));
    assert_eq!(other.insert(signed), Err(MembershipError::Group));
}

#[test]
fn two_operations_with_one_number_quarantine_their_author() {
    let (mut a, mut b) = (found(), found());
    let first = a.admit(&key(1), &admit(2, Role::Writer)).unwrap();
    let second = b.admit(&key(1), &admit(3, Role::Writer)).unwrap();
    assert_eq!(a.insert(second).unwrap(), Inserted::Fork { author: device(1), seq: 1 });
    assert_eq!(b.insert(first).unwrap(), Inserted::Fork { author: device(1), seq: 1 });
    assert_eq!(a.roster(), b.roster());
    assert!(a.roster().member(&device(1)).is_none());
    assert_eq!(a.hash(), b.hash());
}

/// A device that had signed two histories was no member any more, and went on admitting others.
#[test]
fn a_quarantined_admin_admits_nobody() {
    let mut log = found();
    log.admit(&key(1), &admit(2, Role::Admin)).unwrap();
    let heads = log.heads();
    for member in [3, 4] {
        let body = codec::encode(&admit(member, Role::Reader)).unwrap();
        log.insert(signed(&log, 2, 0, heads.clone(), MembershipOp::ADMIT, &body)).unwrap();
    }
    assert!(log.roster().quarantined().contains(&device(2)));
    assert_eq!(log.admit(&key(2), &admit(5, Role::Admin)), Err(MembershipError::NotAllowed));
    let members: Vec<_> = log.roster().members().map(|member| member.device).collect();
    assert_eq!(members, [device(1)]);
}

/// An admin could name the founding operation as all that it knew, and so make its word on a device the senior one.
#[test]
fn an_admission_is_no_older_than_its_author() {
    let mut log = found();
    let founded = log.heads();
    log.admit(&key(1), &admit(2, Role::Admin)).unwrap();
    log.admit(&key(2), &admit(3, Role::Admin)).unwrap();
    log.admit(&key(1), &admit(4, Role::Admin)).unwrap();
    let body = codec::encode(&admit(4, Role::Reader)).unwrap();
    log.insert(signed(&log, 3, 0, founded, MembershipOp::ADMIT, &body)).unwrap();
    assert_eq!(log.role(&device(4)), Some(Role::Admin));
}

fn signed(
    log: &MembershipLog,
    author: u8,
    seq: u64,
    previous: Vec<MembershipOpId>,
    kind: u16,
    body: &[u8],
) -> SignedOp {
    let op = MembershipOp {
        group: Some(log.group()),
        author: device(author),
        seq,
        previous: List::new(previous).unwrap(),
        kind,
        body: Bytes::new(body.to_vec()).unwrap(),
    };
    SignedOp::sign(&op, &key(author)).unwrap()
}

/// An operation that does not count is kept and becomes a head. When admissions built on every head, one such
/// operation by a reader, or by a key that is nobody's, kept every later admission of every admin from counting.
#[test]
fn nobody_can_keep_later_admissions_from_counting() {
    let body = codec::encode(&admit(6, Role::Writer)).unwrap();
    for (author, previous, kind) in [(2, None, MembershipOp::ADMIT), (77, Some(MembershipOpId::new([9; 32])), 900)] {
        let mut log = found();
        log.admit(&key(1), &admit(2, Role::Reader)).unwrap();
        let previous = previous.map_or_else(|| log.heads(), |id| vec![id]);
        let bogus = signed(&log, author, 0, previous, kind, &body);
        assert_eq!(log.insert(bogus.clone()), Ok(Inserted::New));
        log.admit(&key(1), &admit(3, Role::Writer)).unwrap();
        let roster = log.roster();
        assert!(roster.member(&device(3)).is_some() && roster.member(&device(6)).is_none());
        assert!(!roster.counts(&bogus.id()));
    }
}

/// Without predecessors that nobody has, and without a place among its author's operations, nothing counts.
#[test]
fn an_operation_with_a_gap_does_not_count() {
    let mut log = found();
    log.admit(&key(1), &admit(2, Role::Admin)).unwrap();
    let body = codec::encode(&admit(3, Role::Writer)).unwrap();
    let skipped = signed(&log, 2, 1, log.heads(), MembershipOp::ADMIT, &body);
    let apart = signed(&log, 1, 2, vec![MembershipOpId::new(*log.group().as_bytes())], MembershipOp::ADMIT, &body);
    for op in [skipped, apart] {
        log.insert(op.clone()).unwrap();
        assert!(!log.roster().counts(&op.id()));
    }
    assert!(log.role(&device(3)).is_none());
}

/// A kind of a later version changes nothing, and what builds on it counts.
#[test]
fn unknown_kinds_are_links() {
    let mut log = found();
    let later = signed(&log, 1, 1, log.heads(), 900, b"later");
    log.insert(later.clone()).unwrap();
    assert!(log.roster().counts(&later.id()));
    log.admit(&key(1), &admit(2, Role::Writer)).unwrap();
    assert_eq!(log.role(&device(2)), Some(Role::Writer));
    assert_eq!(log.heads().len(), 1);
}

/// The log took 65,536 operations of whomever, so that one stranger's key could fill it, and no removal went in.
#[test]
fn nobody_can_fill_the_log() {
    let mut log = found();
    log.admit(&key(1), &admit(2, Role::Reader)).unwrap();
    for author in [77, 2] {
        let mut previous = vec![MembershipOpId::new(*log.group().as_bytes())];
        let mut seq = 0;
        let refused = loop {
            let op = signed(&log, author, seq, previous, 900, &[0; 32_000]);
            previous = vec![op.id()];
            seq += 1;
            if let Err(error) = log.insert(op) {
                break error;
            }
        };
        assert_eq!(refused, MembershipError::Full);
    }
    log.admit(&key(1), &admit(3, Role::Writer)).unwrap();
    log.remove(&key(1), device(2), Cuts::default()).unwrap();
    let again = MembershipLog::restore(log.group(), log.ops().cloned()).unwrap();
    assert_eq!(again.roster(), log.roster());
}

proptest! {
    #[test]
    fn random_bytes_are_no_operation(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        laws::check_random::<SignedOp>(&bytes);
        laws::check_random::<MembershipOp>(&bytes);
        laws::check_random::<Create>(&bytes);
        laws::check_random::<Admit>(&bytes);
        laws::check_random::<Remove>(&bytes);
        laws::check_random::<SetRole>(&bytes);
        laws::check_random::<Rotate>(&bytes);
        laws::check_random::<Recover>(&bytes);
    }
}
