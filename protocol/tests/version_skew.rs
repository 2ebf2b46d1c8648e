//! A group in which one device runs an older version: what it does not know it keeps and passes on untouched.
//!
//! The old device is this version; the news are of kinds that this version does not know.

use ed25519_dalek::SigningKey;
use larder_protocol::{
    bounded::{Bytes, List},
    codec::{decode, encode},
    id::{DeviceId, EpochId, GroupId, MembershipOpId},
    log::{Author, Batch, Op, SealedBatch, SignedBatch, VersionVector, batch_hash, genesis_hash},
    membership::{CreateRandomness, Inserted, MembershipLog, MembershipOp, RecoveryKey, SignedOp},
    record::{Device, Record},
    sync::{Effect, Frame, Gossip, Input, Local, Session},
    time::{Hlc, Now, Timestamp},
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const EPOCH: EpochId = EpochId::new([2; 16]);
const LOG_KEY: [u8; 32] = [3; 32];
/// A kind of record, and of membership operation, of a later version.
const LATER: u16 = 60_000;

fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

fn device(number: u8) -> DeviceId {
    DeviceId::new(key(number).verifying_key().to_bytes())
}

fn now() -> Now {
    Now { mono_ns: 1, wall: Timestamp(0) }
}

/// A device's durable state, as its version understands it.
struct Node {
    members: MembershipLog,
    batches: BTreeMap<(Author, u64), SealedBatch>,
    stored: BTreeMap<Author, u64>,
    accounted: VersionVector,
    known: Vec<Record>,
    unknown: Vec<u16>,
}

impl Node {
    fn new(members: &MembershipLog) -> Self {
        let (batches, stored, accounted, known, unknown) = Default::default();
        Self { members: members.clone(), batches, stored, accounted, known, unknown }
    }

    fn hold(&mut self, sealed: SealedBatch) {
        let batch = sealed.open_whole(&LOG_KEY).unwrap().verify(&self.members.group()).unwrap();
        let stored = self.stored.entry(batch.author).or_default();
        assert_eq!(batch.first_seq, *stored, "contiguous");
        *stored = batch.next_seq();
        for op in batch.ops.iter() {
            match Record::decode(op.kind, &op.body).unwrap() {
                Some(record) => self.known.push(record),
                None => self.unknown.push(op.kind),
            }
        }
        self.batches.insert((batch.author, batch.first_seq), sealed);
    }

    fn local(&self) -> Local {
        let held = self.stored.iter().map(|(author, stored)| (*author, (self.accounted.get(author), *stored)));
        Local {
            group: self.members.group(),
            epoch: Some(EPOCH),
            vector: self.accounted.clone(),
            held: held.filter(|(_, (from, until))| from < until).collect(),
            tips: BTreeMap::new(),
            membership: self.members.ids().collect::<BTreeSet<MembershipOpId>>(),
            membership_hash: self.members.hash(),
        }
    }

    /// Carries out an effect; gives the answer, and the frame that goes to the peer.
    fn act(&mut self, effect: Effect) -> (Option<Input>, Option<Vec<u8>>) {
        let input = match effect {
            Effect::Send(frame) => return (None, Some(encode(&frame).unwrap())),
            Effect::LoadMembership(ids) => {
                Input::Membership(ids.iter().map(|id| self.members.get(id).unwrap().clone()).collect())
            }
            Effect::CommitMembership(ops) => {
                for op in ops {
                    self.members.insert(op).unwrap();
                }
                Input::MembershipCommitted
            }
            Effect::Load(gap, _) => {
                let range = (gap.author, gap.from)..(gap.author, gap.until);
                let batches = self.batches.range(range).map(|(_, batch)| batch.clone()).collect();
                Input::Loaded { batches, next_seq: gap.until }
            }
            Effect::Commit(batches) => {
                batches.into_iter().for_each(|batch| self.hold(batch));
                Input::Committed
            }
            Effect::Account(counts) => {
                for (author, count) in counts {
                    self.accounted.advance(author, count.min(self.stored.get(&author).copied().unwrap_or(0)));
                }
                Input::Accounted
            }
            Effect::Finished(_) => return (None, None),
            effect => panic!("{effect:?}"),
        };
        (Some(input), None)
    }
}

/// One session; before each of its frames, the first end says something of a later version.
fn session(first: &mut Node, second: &mut Node, hint: Option<&[u8]>) {
    let nodes = [first, second];
    let mut sessions = [0, 1].map(|side: usize| Session::new(nodes[side].local()));
    let mut wires: [VecDeque<Vec<u8>>; 2] = Default::default();
    sessions.iter_mut().for_each(|session| session.start(now()));
    while !sessions.iter().all(Session::is_over) {
        for side in 0..2 {
            while let Some(effect) = sessions[side].poll() {
                let (input, frame) = nodes[side].act(effect);
                if let Some(frame) = frame {
                    wires[1 - side].extend(hint.filter(|_| side == 0).map(<[u8]>::to_vec));
                    wires[1 - side].push_back(frame);
                }
                if let Some(input) = input {
                    sessions[side].handle(now(), input);
                }
            }
            if let Some(bytes) = wires[side].pop_front() {
                let input = Frame::read(&bytes).unwrap().map_or(Input::UnknownFrame, Input::Frame);
                sessions[side].handle(now(), input);
            }
        }
    }
}

fn group() -> MembershipLog {
    let random = CreateRandomness { group: [4; 32], ephemeral: [[5; 32], [6; 32]], nonces: [[7; 24], [8; 24]] };
    let name = |text| larder_protocol::record::Name::new(text).unwrap();
    let recovery = RecoveryKey::from_entropy([9; 32]);
    MembershipLog::create(&key(1), [10; 32], &name("home"), &name("new"), &recovery, EPOCH, &[11; 32], &random).unwrap()
}

/// A batch of one operation each: what this version knows, and what it does not, in turns.
fn news(group: GroupId) -> Vec<SealedBatch> {
    let author = Author { device: device(1), incarnation: 0 };
    let said = Device {
        name: larder_protocol::bounded::Text::new("new").unwrap(),
        control: List::default(),
        data: List::default(),
    };
    let known = (1, Record::from(said).encode().unwrap());
    let later = (LATER, b"\xff what only a later version reads \x00".to_vec());
    let mut previous = genesis_hash(&group, &author);
    [known.clone(), later.clone(), known, later]
        .into_iter()
        .enumerate()
        .map(|(seq, (kind, body))| {
            let op = Op { hlc: Hlc(seq as u64), kind, body: Bytes::new(body).unwrap() };
            let batch = Batch { group, author, first_seq: seq as u64, previous, ops: List::truncated([op]) };
            let signed = SignedBatch::sign(&batch, &key(1)).unwrap();
            previous = batch_hash(&signed);
            signed.pack().unwrap().seal(EPOCH, &LOG_KEY, [u8::try_from(seq).unwrap(); 24])
        })
        .collect()
}

#[test]
fn an_old_device_carries_records_of_later_kinds_between_new_ones() {
    let members = group();
    let [mut new, mut old, mut other] = [(); 3].map(|()| Node::new(&members));
    let author = Author { device: device(1), incarnation: 0 };
    news(members.group()).into_iter().for_each(|batch| new.hold(batch));
    new.accounted.advance(author, 4);

    session(&mut new, &mut old, None);
    assert_eq!((old.known.len(), old.unknown.as_slice()), (2, &[LATER, LATER][..]));
    assert_eq!(old.accounted.get(&author), 4, "what is not understood is counted too");
    session(&mut old, &mut other, None);
    assert_eq!(other.batches, new.batches, "the very bytes that were sealed");
    assert_eq!(other.accounted, new.accounted);
    let bodies = |node: &Node| -> Vec<Vec<u8>> {
        let open = |batch: &SealedBatch| batch.open_whole(&LOG_KEY).unwrap().decode().unwrap();
        node.batches.values().map(|batch| open(batch).ops[0].body.to_vec()).collect()
    };
    assert_eq!(bodies(&other)[1], b"\xff what only a later version reads \x00");
}

#[test]
fn an_old_device_carries_membership_operations_of_later_kinds() {
    let members = group();
    let op = MembershipOp {
        group: Some(members.group()),
        author: device(1),
        seq: 1,
        previous: List::truncated(members.heads()),
        kind: LATER,
        body: Bytes::new(b"removes somebody, in a way not yet known".to_vec()).unwrap(),
    };
    let later = SignedOp::sign(&op, &key(1)).unwrap();
    let mut newer = members.clone();
    assert_eq!(newer.insert(later.clone()), Ok(Inserted::New));
    let [mut new, mut old, mut other] = [&newer, &members, &members].map(Node::new);
    session(&mut new, &mut old, None);
    assert_eq!(old.members.get(&later.id()), Some(&later));
    assert!(old.members.role(&device(1)).is_some(), "what is not understood changes nothing that is");
    session(&mut old, &mut other, None);
    assert_eq!(other.members.get(&later.id()), Some(&later));
    assert_eq!(other.members.hash(), new.members.hash());
}

#[test]
fn frames_of_later_kinds_are_skipped() {
    let members = group();
    let [mut new, mut old] = [(); 2].map(|()| Node::new(&members));
    news(members.group()).into_iter().for_each(|batch| new.hold(batch));
    new.accounted.advance(Author { device: device(1), incarnation: 0 }, 4);
    session(&mut new, &mut old, Some(&[100, 1, 2, 3]));
    assert_eq!((old.batches, old.accounted), (new.batches, new.accounted));
}

#[test]
fn news_of_later_kinds_are_passed_on_once() {
    let later: &[u8] = &[2, 9, 9, 9];
    assert_eq!(Gossip::read(later), Ok(None));
    decode::<Gossip>(later).unwrap_err();
    assert_eq!(Gossip::message_id(later), Gossip::message_id(later));
    assert_ne!(Gossip::message_id(later), Gossip::message_id(&[2, 9, 9, 8]));
    let head = Gossip::Head { author: Author { device: device(1), incarnation: 0 }, next_seq: 3 };
    assert_eq!(Gossip::read(&encode(&head).unwrap()), Ok(Some(head)));
    Gossip::read(&[1, 9]).unwrap_err();
}
