//! What is written, who saw what, and the shape that a store under test has.

use std::hash::Hash;

/// Replicas of one group: 2 to 6.
pub(super) const REPLICAS_MAX: usize = 6;
/// Writes of one history, all replicas together; as many as a [`Set`] has bits.
const WRITES_MAX: usize = 128;

/// Count of operations accounted for, per author.
pub(super) type Vector = [u8; REPLICAS_MAX];

/// A set of operations, one bit for each number.
pub(super) type Set = u128;

/// The set of one operation.
pub(super) const fn one(op: u8) -> Set {
    1 << op
}

/// The numbers in a set, ascending: authors in order, each one's operations in order.
pub(super) fn numbers(mut set: Set) -> impl Iterator<Item = u8> {
    std::iter::from_fn(move || {
        let op = u8::try_from(set.trailing_zeros()).ok().filter(|op| usize::from(*op) < WRITES_MAX)?;
        set &= set - 1;
        Some(op)
    })
}

/// A written value or delete of a key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Op {
    pub(super) author: usize,
    /// From 1.
    pub(super) seq: u8,
    pub(super) key: u8,
    pub(super) delete: bool,
    /// Per author the last operation on this key that it replaces. Its own place is not in it.
    pub(super) context: Vector,
    /// What its writer had ever been shown of the key, directly or through others: the truth to compare with.
    pub(super) seen: Set,
    /// Of a checkpoint: the operations of its author before it that are left.
    pub(super) left: Set,
}

/// Stands for the key of a checkpoint, which has none.
pub(super) const CHECKPOINT: u8 = u8::MAX;

/// Everything that was ever written. An operation's number follows from author and seq, so that two orders of events
/// that lead to one state are one state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Ops {
    per_author: usize,
    logs: Vec<Vec<Op>>,
}

impl Ops {
    pub(super) fn new(replicas: usize) -> Self {
        Self { per_author: WRITES_MAX / replicas, logs: vec![Vec::new(); replicas] }
    }

    pub(super) fn replicas(&self) -> usize {
        self.logs.len()
    }

    pub(super) fn get(&self, op: u8) -> &Op {
        let op = usize::from(op);
        &self.logs[op / self.per_author][op % self.per_author]
    }

    /// The number of an author's operation; `seq` counts from 1.
    pub(super) fn number(&self, author: usize, seq: u8) -> u8 {
        u8::try_from(author * self.per_author + usize::from(seq) - 1).unwrap_or(u8::MAX)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (u8, &Op)> {
        self.logs.iter().flatten().map(|op| (self.number(op.author, op.seq), op))
    }

    /// Those of an author that a vector accounts for.
    pub(super) fn accounted(&self, vector: &Vector) -> Set {
        let log = |author: usize| ((1u128 << vector[author]) - 1) << (author * self.per_author);
        (0..self.replicas()).fold(0, |set, author| set | if vector[author] == 0 { 0 } else { log(author) })
    }

    /// Appends to an author's log; `None` when it is full.
    pub(super) fn push(&mut self, author: usize, op: impl FnOnce(u8) -> Op) -> Option<u8> {
        let seq = u8::try_from(self.logs[author].len() + 1).ok().filter(|seq| usize::from(*seq) <= self.per_author)?;
        self.logs[author].push(op(seq));
        Some(self.number(author, seq))
    }

    /// Those on a key.
    pub(super) fn of_key(&self, key: u8) -> Set {
        self.all().filter(|(_, op)| op.key == key).fold(0, |set, (op, _)| set | one(op))
    }
}

/// The greater of each count.
pub(super) fn join(into: &mut Vector, other: &Vector) {
    for (count, other) in into.iter_mut().zip(other) {
        *count = (*count).max(*other);
    }
}

/// Replicas that write, gossip, reconcile and collect, by one scheme.
///
/// Sessions are numbered by their place among those under way; `to` learns from `from`.
pub(super) trait Store: Clone + Eq + Hash {
    fn ops(&self) -> &Ops;
    fn vector(&self, at: usize) -> &Vector;
    /// Operations on a key that nothing known here replaces, deletes among them.
    fn heads(&self, at: usize, key: u8) -> Set;
    /// Writes a key; `None` when there is nothing to delete or no room.
    fn write(&mut self, at: usize, key: u8, delete: bool) -> Option<u8>;
    /// Gossip brings an operation.
    fn hear(&mut self, at: usize, op: u8);
    fn begin(&mut self, to: usize, from: usize);
    fn sessions(&self) -> usize;
    /// Brings the next so many records of a session.
    fn feed(&mut self, session: usize, count: usize);
    fn abort(&mut self, session: usize);
    fn commit(&mut self, session: usize);
    /// What this replica could collect now.
    fn collectable(&self, at: usize) -> Set;
    /// Collects some of it; gives the operation that tells others, if the scheme has one.
    fn collect(&mut self, at: usize, chosen: Set) -> Option<u8>;
}
