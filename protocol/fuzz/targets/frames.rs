//! A peer's frames, one after another, in a session: each is `length(u16 LE) bytes`, or the whole input is one.

#![no_main]

use larder_protocol::{
    codec::{decode, encode},
    id::{DeviceId, GroupId},
    log::{Author, SealedBatch},
    sync::{Effect, Frame, Input, Local, Session},
    time::{Now, Timestamp},
};
use libfuzzer_sys::fuzz_target;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

fn local() -> Local {
    let author = |device| Author { device: DeviceId::new([device; 32]), incarnation: 0 };
    Local {
        group: GroupId::new([1; 32]),
        epoch: None,
        vector: [(author(1), 5), (author(2), 3)].into_iter().collect(),
        held: BTreeMap::from([(author(1), (5, 7))]),
        tips: BTreeMap::from([(author(1), [7; 32])]),
        membership: BTreeSet::new(),
        membership_hash: [0; 32],
    }
}

/// Carries out what a session wants, and checks that it wants little and nothing after its end.
fn hear(session: &mut Session, said: Input) {
    let now = Now { mono_ns: 1, wall: Timestamp(0) };
    let mut inputs = VecDeque::from([said]);
    let mut effects = 0;
    while let Some(input) = inputs.pop_front() {
        let over = session.is_over();
        session.handle(now, input);
        while let Some(effect) = session.poll() {
            assert!(!over, "nothing follows the end");
            effects += 1;
            match effect {
                Effect::Send(frame) => drop(encode(&frame).expect("any frame can be encoded")),
                Effect::LoadMembership(_) => inputs.push_back(Input::Membership(Vec::new())),
                Effect::CommitMembership(_) => inputs.push_back(Input::MembershipCommitted),
                Effect::Load(gap, _) => {
                    let batch: SealedBatch = decode(&[0; 41]).expect("an empty batch");
                    inputs.push_back(Input::Loaded { batches: vec![batch], next_seq: gap.from + 1 });
                }
                Effect::Compare(_) => inputs.push_back(Input::Compared(Vec::new())),
                Effect::Locate(_) => inputs.push_back(Input::Located(Vec::new())),
                Effect::Commit(_) => inputs.push_back(Input::Committed),
                Effect::Account(_) => inputs.push_back(Input::Accounted),
                Effect::Finished(_) | Effect::Failed(_) => {}
            }
        }
    }
    assert!(effects <= 32, "{effects} effects of one frame");
}

fuzz_target!(|input: &[u8]| {
    if let Ok(frame) = decode::<Frame>(input) {
        assert_eq!(encode(&frame).as_deref(), Ok(input));
    }
    for membership in [[0; 32], [9; 32]] {
        let mut session = Session::new(local());
        session.start(Now { mono_ns: 0, wall: Timestamp(0) });
        let hello = Frame::Hello { group: local().group, epoch: None, catalog: [7; 32], membership };
        hear(&mut session, Input::Frame(hello));
        let mut rest = input;
        while let Some((len, after)) = rest.split_first_chunk::<2>() {
            let (bytes, after) = after.split_at(after.len().min(usize::from(u16::from_le_bytes(*len))));
            rest = after;
            if let Ok(frame) = Frame::read(bytes) {
                hear(&mut session, frame.map_or(Input::UnknownFrame, Input::Frame));
            }
        }
    }
});
