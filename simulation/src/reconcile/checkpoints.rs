//! Scheme of the log: operations are signed and never change; an author's checkpoint, itself an operation of its log, says
//! which of its own operations before it are left.
//!
//! A replica keeps what it was given, less what the newest accounted checkpoint of each author leaves out. What a key
//! holds is what no held operation replaces. An author may leave out
//! 1. what a held operation replaces that is accounted for: its context holds the whole context of what it replaces;
//! 2. a delete, when everything in its context is declared dead by the checkpoint of its own author: those of others
//!    accounted for here, its own this very one.
//!
//! A session accounts for all authors together or for none, so a checkpoint never counts without those it rests on.

use super::{
    Rule,
    model::{CHECKPOINT, Op, Ops, REPLICAS_MAX, Set, Store, Vector, join, numbers, one},
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Replica {
    held: Set,
    vector: Vector,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Session {
    to: usize,
    from: Vector,
    records: Set,
}

/// Replicas under the scheme of author-signed checkpoints.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Checkpoints {
    ops: Ops,
    relaxed: Option<Rule>,
    replicas: Vec<Replica>,
    sessions: Vec<Session>,
}

impl Checkpoints {
    pub(super) fn new(replicas: usize, relaxed: Option<Rule>) -> Self {
        let nothing = vec![Replica::default(); replicas];
        Self { ops: Ops::new(replicas), relaxed, replicas: nothing, sessions: Vec::new() }
    }

    /// The log of an author up to and with a seq.
    fn log(&self, author: usize, up_to: u8) -> Set {
        let mut vector = [0; REPLICAS_MAX];
        vector[author] = up_to;
        self.ops.accounted(&vector)
    }

    /// What `by` replaces.
    fn replaced(&self, by: &Op) -> Set {
        self.ops.accounted(&by.context) & self.ops.of_key(by.key)
    }

    /// What the checkpoints that count here leave out.
    fn declared(&self, at: usize) -> Set {
        let Replica { held, vector } = &self.replicas[at];
        let counting = held & self.ops.accounted(vector) & self.ops.of_key(CHECKPOINT);
        numbers(counting).map(|op| self.ops.get(op)).fold(0, |dead, said| {
            if self.relaxed == Some(Rule::LiveSet) && said.author != at {
                return dead;
            }
            dead | (self.log(said.author, said.seq - 1) & !said.left)
        })
    }

    /// What an author may leave out of a checkpoint that leaves out nothing else than some of `among`.
    fn dead(&self, at: usize, among: Set) -> Set {
        let replica = &self.replicas[at];
        let accounted = self.ops.accounted(&replica.vector);
        let own_log = self.log(at, replica.vector[at]);
        let own = replica.held & own_log & among & !self.ops.of_key(CHECKPOINT);
        let declared = self.declared(at);
        let replaced = numbers(replica.held & accounted).fold(0, |set, by| set | self.replaced(self.ops.get(by)));
        let mut dead = own & replaced;
        // This very checkpoint declares what its author replaced of its own.
        let settled = declared | dead;
        for op in numbers(own & !dead).filter(|op| self.ops.get(*op).delete) {
            let said = self.ops.get(op);
            let may = match self.relaxed {
                Some(Rule::Covered) => true,
                Some(Rule::Declared) => (0..REPLICAS_MAX).all(|author| said.context[author] <= replica.vector[author]),
                Some(Rule::Descendant) => {
                    let others = numbers(replica.held & accounted & !one(op));
                    let elsewhere = others.fold(0, |set, other| set | self.replaced(self.ops.get(other)));
                    self.replaced(said) & !settled & !elsewhere == 0
                }
                _ => self.replaced(said) & !settled == 0,
            };
            if may {
                dead |= one(op);
            }
        }
        dead
    }

    fn forget(&mut self, at: usize) {
        let declared = self.declared(at);
        self.replicas[at].held &= !declared;
    }

    fn context(&self, at: usize, key: u8) -> (Vector, Set, bool) {
        let (mut context, mut seen, mut any) = ([0; REPLICAS_MAX], 0, false);
        for head in numbers(self.heads(at, key)) {
            let op = self.ops.get(head);
            join(&mut context, &op.context);
            context[op.author] = context[op.author].max(op.seq);
            seen |= op.seen | one(head);
            any |= !op.delete;
        }
        if self.relaxed == Some(Rule::WholeContext) {
            let declared = self.declared(at);
            for (author, count) in context.iter_mut().enumerate().filter(|(_, count)| **count > 0) {
                if self.log(author, *count) & self.ops.of_key(key) & !declared == 0 {
                    *count = 0;
                }
            }
        }
        (context, seen, any)
    }
}

impl Store for Checkpoints {
    fn ops(&self) -> &Ops {
        &self.ops
    }

    fn vector(&self, at: usize) -> &Vector {
        &self.replicas[at].vector
    }

    fn heads(&self, at: usize, key: u8) -> Set {
        let held = self.replicas[at].held & self.ops.of_key(key);
        numbers(held).fold(held, |heads, op| heads & !self.replaced(self.ops.get(op)))
    }

    fn write(&mut self, at: usize, key: u8, delete: bool) -> Option<u8> {
        let (context, seen, any) = self.context(at, key);
        if delete && !any {
            return None;
        }
        let op = self.ops.push(at, |seq| Op { author: at, seq, key, delete, context, seen, left: 0 })?;
        self.replicas[at].vector[at] = self.ops.get(op).seq;
        self.replicas[at].held |= one(op);
        Some(op)
    }

    fn hear(&mut self, at: usize, op: u8) {
        let said = self.ops.get(op);
        let replica = &mut self.replicas[at];
        if said.seq > replica.vector[said.author] {
            replica.held |= one(op);
            if self.relaxed == Some(Rule::Gossip) && replica.vector[said.author] + 1 == said.seq {
                replica.vector[said.author] = said.seq;
                self.forget(at);
            }
        }
    }

    fn begin(&mut self, to: usize, from: usize) {
        let (receiver, sender) = (&self.replicas[to], &self.replicas[from]);
        let records = sender.held & !receiver.held & !self.ops.accounted(&receiver.vector);
        self.sessions.push(Session { to, from: sender.vector, records });
    }

    fn sessions(&self) -> usize {
        self.sessions.len()
    }

    fn feed(&mut self, session: usize, count: usize) {
        let records = self.sessions[session].records;
        let now = numbers(records).take(count).fold(0, |set, op| set | one(op));
        let session = &mut self.sessions[session];
        session.records &= !now;
        let to = session.to;
        let replica = &mut self.replicas[to];
        replica.held |= now & !self.ops.accounted(&replica.vector);
        if self.relaxed == Some(Rule::Commit) {
            for op in numbers(now) {
                let op = self.ops.get(op);
                replica.vector[op.author] = replica.vector[op.author].max(op.seq);
            }
            self.forget(to);
        }
    }

    fn abort(&mut self, session: usize) {
        self.sessions.remove(session);
    }

    fn commit(&mut self, session: usize) {
        self.feed(session, usize::MAX);
        let Session { to, mut from, .. } = self.sessions.remove(session);
        if self.relaxed == Some(Rule::Together) {
            // Only one author's operations are accounted for: one that has news, in turn.
            let turn = usize::from(from.iter().fold(0u8, |sum, count| sum.wrapping_add(*count)));
            let author = turn % self.replicas.len();
            from = std::array::from_fn(|at| if at == author { from[at] } else { 0 });
        }
        join(&mut self.replicas[to].vector, &from);
        self.forget(to);
    }

    fn collectable(&self, at: usize) -> Set {
        self.dead(at, Set::MAX)
    }

    fn collect(&mut self, at: usize, chosen: Set) -> Option<u8> {
        let dead = self.dead(at, chosen);
        if dead == 0 {
            return None;
        }
        let own_log = self.log(at, self.replicas[at].vector[at]);
        let left = self.replicas[at].held & own_log & !dead & !self.ops.of_key(CHECKPOINT);
        let op = self.ops.push(at, |seq| Op {
            author: at,
            seq,
            key: CHECKPOINT,
            delete: true,
            context: [0; REPLICAS_MAX],
            seen: 0,
            left,
        })?;
        self.replicas[at].vector[at] = self.ops.get(op).seq;
        self.replicas[at].held |= one(op);
        self.forget(at);
        Some(op)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use larder_protocol::{
        id::{ContentId, DeviceId},
        log::Author,
        namespace::{Head, Register},
        record::{Context, FolderFile, FolderValue, Stamp},
        time::{Hlc, Timestamp},
    };

    fn author(number: usize) -> Author {
        Author { device: DeviceId::new([u8::try_from(number).unwrap(); 32]), incarnation: 0 }
    }

    fn context_of(counts: &Vector) -> Context {
        let counts = counts.iter().enumerate().filter(|(_, count)| **count > 0);
        Context::new(counts.map(|(of, count)| (author(of), u64::from(*count))).collect()).unwrap()
    }

    /// What the real register makes of the operations that a replica holds.
    fn register(store: &Checkpoints, at: usize, key: u8) -> Register {
        let mut register = Register::default();
        for op in numbers(store.replicas[at].held & store.ops.of_key(key)) {
            let said = store.ops.get(op);
            let file = FolderFile { content: ContentId::new([op; 32]), size: 0, modified: Timestamp(0) };
            let value = if said.delete { FolderValue::Deleted } else { FolderValue::File(file) };
            let stamp = Stamp { hlc: Hlc::from_parts(1, 0), author: author(said.author), seq: u64::from(said.seq) - 1 };
            register.merge(Head { stamp, context: context_of(&said.context), value });
        }
        register
    }

    #[test]
    fn the_model_agrees_with_the_register_that_nodes_use() {
        for seed in 0..40 {
            let (mut store, mut rng) = (Checkpoints::new(3, None), Rng::new(seed));
            for _ in 0..60 {
                let (at, other, key) = (rng.index(3), rng.index(3), u8::from(rng.chance(500)));
                match rng.below(4) {
                    0 => {
                        store.collect(at, Set::MAX);
                    }
                    1 if at != other => {
                        store.begin(at, other);
                        store.commit(0);
                    }
                    _ => {
                        let delete = rng.chance(300);
                        if let Some(op) = store.write(at, key, delete) {
                            store.hear(other, op);
                        }
                    }
                }
                let register = register(&store, at, key);
                let heads = register.heads().iter();
                let heads = heads.fold(0, |set, head| {
                    let of = usize::from(head.stamp.author.device.as_bytes()[0]);
                    set | one(store.ops.number(of, u8::try_from(head.stamp.seq + 1).unwrap()))
                });
                assert_eq!(heads, store.heads(at, key), "seed {seed}");
                assert_eq!(register.context(), context_of(&store.context(at, key).0), "seed {seed}");
            }
        }
    }
}
