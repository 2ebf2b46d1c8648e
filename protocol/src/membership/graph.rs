//! The operations as a graph: what builds on what, and how much of each author's operations each one knew.

use super::{Admit, Create, MembershipOp, Recover, Remove, Rotate, SetRole};
use crate::{
    codec,
    id::{DeviceId, GroupId, MembershipOpId},
};
use std::collections::{BTreeMap, BTreeSet};

/// What an operation says.
pub(super) enum Body {
    Create(Box<Create>),
    Admit(Box<Admit>),
    Remove(Remove),
    SetRole(SetRole),
    Rotate(Box<Rotate>),
    Recover(Box<Recover>),
    /// A kind of a later version, or bytes that are none of this one's.
    Unknown,
}

impl Body {
    fn decode(op: &MembershipOp) -> Self {
        fn body<T: codec::Wire>(op: &MembershipOp, make: impl FnOnce(T) -> Body) -> Body {
            codec::decode(&op.body).map_or(Body::Unknown, make)
        }
        match op.kind {
            MembershipOp::CREATE => body(op, |create| Self::Create(Box::new(create))),
            MembershipOp::ADMIT => body(op, |admit| Self::Admit(Box::new(admit))),
            MembershipOp::REMOVE => body(op, Self::Remove),
            MembershipOp::SET_ROLE => body(op, Self::SetRole),
            MembershipOp::ROTATE => body(op, |rotate| Self::Rotate(Box::new(rotate))),
            MembershipOp::RECOVER => body(op, |recover| Self::Recover(Box::new(recover))),
            _ => Self::Unknown,
        }
    }
}

/// Place of an operation in [`Graph::nodes`].
pub(super) type Index = usize;

/// How much an operation knew: for each author the number of the last operation, without a gap.
#[derive(Debug, Clone, Default)]
struct Knowledge {
    seqs: BTreeMap<DeviceId, u64>,
    /// Recoveries one by one: two of them may have one number, since the words may be typed in on two devices.
    recoveries: BTreeSet<Index>,
}

/// An operation all of whose predecessors are here.
pub(super) struct Node {
    pub(super) id: MembershipOpId,
    pub(super) author: DeviceId,
    pub(super) seq: u64,
    /// Longest way from the founding operation.
    pub(super) depth: u64,
    pub(super) body: Body,
    pub(super) previous: Vec<Index>,
    /// Whether it continues its author's operations without gap or fork. Others never count.
    pub(super) sound: bool,
    recovery: bool,
    knows: Knowledge,
}

/// All operations whose predecessors are here, predecessors first.
pub(super) struct Graph {
    pub(super) nodes: Vec<Node>,
    places: BTreeMap<MembershipOpId, Index>,
    /// The first number that an author used twice.
    pub(super) forks: BTreeMap<DeviceId, u64>,
    /// Public key that signs recoveries.
    pub(super) recovery: Option<DeviceId>,
}

impl Graph {
    pub(super) fn new(group: GroupId, all: &BTreeMap<MembershipOpId, &MembershipOp>) -> Self {
        let root = MembershipOpId::new(*group.as_bytes());
        let recovery = all.get(&root).and_then(|op| match Body::decode(op) {
            Body::Create(create) => Some(DeviceId::new(create.recovery_signing)),
            _ => None,
        });
        let mut forks: BTreeMap<DeviceId, u64> = BTreeMap::new();
        let mut numbers = BTreeSet::new();
        for op in all.values().filter(|op| Some(op.author) != recovery) {
            if !numbers.insert((op.author, op.seq)) {
                let first = forks.entry(op.author).or_insert(op.seq);
                *first = op.seq.min(*first);
            }
        }
        let mut graph = Self { nodes: Vec::with_capacity(all.len()), places: BTreeMap::new(), forks, recovery };
        for (depth, id) in by_depth(root, all) {
            graph.push(id, all[&id], depth);
        }
        graph
    }

    fn push(&mut self, id: MembershipOpId, op: &MembershipOp, depth: u64) {
        let mut previous: Vec<Index> = op.previous.iter().map(|id| self.places[id]).collect();
        previous.sort_unstable();
        previous.dedup();
        let mut knows = Knowledge::default();
        for at in &previous {
            let node = &self.nodes[*at];
            knows.recoveries.extend(&node.knows.recoveries);
            for (author, seq) in &node.knows.seqs {
                let known = knows.seqs.entry(*author).or_insert(*seq);
                *known = (*seq).max(*known);
            }
            if node.recovery {
                knows.recoveries.insert(*at);
            } else if node.sound {
                let known = knows.seqs.entry(node.author).or_insert(node.seq);
                *known = node.seq.max(*known);
            }
        }
        let recovery = Some(op.author) == self.recovery;
        let continues = knows.seqs.get(&op.author).copied() == op.seq.checked_sub(1);
        let forked = self.forks.get(&op.author).is_some_and(|first| op.seq >= *first);
        self.places.insert(id, self.nodes.len());
        self.nodes.push(Node {
            id,
            author: op.author,
            seq: op.seq,
            depth,
            body: Body::decode(op),
            previous,
            sound: recovery || (continues && !forked),
            recovery,
            knows,
        });
    }

    /// Whether `later` builds on `earlier`, at whatever distance. `earlier` must be sound.
    pub(super) fn knows(&self, later: Index, earlier: Index) -> bool {
        let (later, node) = (&self.nodes[later], &self.nodes[earlier]);
        if node.recovery {
            later.knows.recoveries.contains(&earlier)
        } else {
            later.knows.seqs.get(&node.author).is_some_and(|seq| *seq >= node.seq)
        }
    }

    /// Number of the last operation of a device that this one builds on.
    pub(super) fn last_known(&self, later: Index, author: &DeviceId) -> Option<u64> {
        self.nodes[later].knows.seqs.get(author).copied()
    }

    /// Whether an operation is signed by the recovery key.
    pub(super) fn is_recovery(&self, at: Index) -> bool {
        self.nodes[at].recovery
    }

    /// The operations that these build on, and these.
    pub(super) fn closure(&self, of: impl IntoIterator<Item = Index>) -> BTreeSet<Index> {
        let (mut open, mut closed) = (of.into_iter().collect::<Vec<_>>(), BTreeSet::new());
        while let Some(at) = open.pop() {
            if closed.insert(at) {
                open.extend(&self.nodes[at].previous);
            }
        }
        closed
    }
}

/// Operations whose predecessors are here down to the founding one, by their longest way from it and by id.
fn by_depth(root: MembershipOpId, all: &BTreeMap<MembershipOpId, &MembershipOp>) -> Vec<(u64, MembershipOpId)> {
    let mut missing: BTreeMap<MembershipOpId, usize> = BTreeMap::new();
    let mut followers: BTreeMap<MembershipOpId, Vec<MembershipOpId>> = BTreeMap::new();
    for (id, op) in all {
        let previous: BTreeSet<_> = op.previous.iter().collect();
        missing.insert(*id, previous.len());
        for before in previous {
            followers.entry(*before).or_default().push(*id);
        }
    }
    let mut depths: BTreeMap<MembershipOpId, u64> = BTreeMap::new();
    let mut ready: Vec<(u64, MembershipOpId)> = Vec::new();
    if all.get(&root).is_some_and(|op| op.kind == MembershipOp::CREATE && op.previous.is_empty()) {
        depths.insert(root, 0);
        ready.push((0, root));
    }
    let mut done = Vec::with_capacity(all.len());
    while let Some((depth, id)) = ready.pop() {
        done.push((depth, id));
        for follower in followers.get(&id).into_iter().flatten() {
            let deepest = depths.entry(*follower).or_insert(depth + 1);
            *deepest = (*deepest).max(depth + 1);
            let left = missing.get_mut(follower).expect("every follower is one of all");
            *left -= 1;
            if *left == 0 {
                ready.push((*deepest, *follower));
            }
        }
    }
    done.sort_unstable();
    done
}
