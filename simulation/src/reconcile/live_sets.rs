//! Scheme of the design: each replica keeps what is live, a vector, and a cloud of what it holds above its claim. A session
//! tells what is live at the sender; what the sender accounts for and does not hold is dead.
//!
//! The design told it only to whoever is below the sender's frontier of collected deletes. That brings a file back in one
//! of some 60,000 histories, hence the rule that it is told in every session.

use super::{
    Rule,
    model::{Op, Ops, REPLICAS_MAX, Set, Store, Vector, join, one},
};

/// A live operation as one replica knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Live {
    op: u8,
    /// Its context, and that of everything it replaced here.
    context: Vector,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Replica {
    /// In ascending order of number.
    live: Vec<Live>,
    vector: Vector,
    /// Greatest delete collected, per author.
    frontier: Vector,
    /// Held, or replaced here, above the vector.
    cloud: Set,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Session {
    to: usize,
    from: Replica,
    /// Whether the live set is told.
    tells_live: bool,
    records: Vec<Live>,
}

/// Replicas under the scheme of vector, cloud and live sets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct LiveSets {
    ops: Ops,
    relaxed: Option<Rule>,
    replicas: Vec<Replica>,
    sessions: Vec<Session>,
}

impl LiveSets {
    pub(super) fn new(replicas: usize, relaxed: Option<Rule>) -> Self {
        let nothing = vec![Replica::default(); replicas];
        Self { ops: Ops::new(replicas), relaxed, replicas: nothing, sessions: Vec::new() }
    }

    fn apply(&mut self, at: usize, mut record: Live) {
        let ops = &self.ops;
        let op = ops.get(record.op);
        let (author, seq) = (op.author, op.seq);
        let same_key = |live: &Live| ops.get(live.op).key == op.key;
        let live = &mut self.replicas[at].live;
        if live.iter().any(|live| same_key(live) && (live.op == record.op || live.context[author] >= seq)) {
            return;
        }
        live.retain(|old| {
            let replaced = same_key(old) && record.context[ops.get(old.op).author] >= ops.get(old.op).seq;
            if replaced {
                join(&mut record.context, &old.context);
            }
            !replaced
        });
        let place = live.partition_point(|live| live.op < record.op);
        live.insert(place, record);
    }

    /// Takes a record that the vector does not account for; it stays in the cloud until a session commits.
    fn take(&mut self, at: usize, record: Live) {
        let op = self.ops.get(record.op);
        if op.seq > self.replicas[at].vector[op.author] && self.replicas[at].cloud & one(record.op) == 0 {
            self.apply(at, record);
            self.replicas[at].cloud |= one(record.op);
        }
    }

    fn advance(&mut self, at: usize, vector: &Vector) {
        join(&mut self.replicas[at].vector, vector);
        self.replicas[at].cloud &= !self.ops.accounted(&self.replicas[at].vector);
    }

    /// Forgets what the sender accounts for and no longer holds live.
    fn forget(&mut self, to: usize, from: &Replica) {
        let ops = &self.ops;
        self.replicas[to].live.retain(|live| {
            let op = ops.get(live.op);
            op.seq > from.vector[op.author] || from.live.iter().any(|at_sender| at_sender.op == live.op)
        });
    }
}

impl Store for LiveSets {
    fn ops(&self) -> &Ops {
        &self.ops
    }

    fn vector(&self, at: usize) -> &Vector {
        &self.replicas[at].vector
    }

    fn heads(&self, at: usize, key: u8) -> Set {
        let of_key = self.replicas[at].live.iter().filter(|live| self.ops.get(live.op).key == key);
        of_key.fold(0, |set, live| set | one(live.op))
    }

    fn write(&mut self, at: usize, key: u8, delete: bool) -> Option<u8> {
        let (mut context, mut seen, mut any) = ([0; REPLICAS_MAX], 0, false);
        for live in &self.replicas[at].live {
            let op = self.ops.get(live.op);
            if op.key == key {
                join(&mut context, &live.context);
                context[op.author] = context[op.author].max(op.seq);
                seen |= op.seen | one(live.op);
                any |= !op.delete;
            }
        }
        if delete && !any {
            return None;
        }
        let op = self.ops.push(at, |seq| Op { author: at, seq, key, delete, context, seen, left: 0 })?;
        self.replicas[at].vector[at] = self.ops.get(op).seq;
        self.apply(at, Live { op, context });
        Some(op)
    }

    fn hear(&mut self, at: usize, op: u8) {
        let said = self.ops.get(op);
        let (author, seq, context) = (said.author, said.seq, said.context);
        let contiguous = self.replicas[at].vector[author] + 1 == seq;
        self.take(at, Live { op, context });
        if self.relaxed == Some(Rule::Gossip) && contiguous {
            let mut vector = self.replicas[at].vector;
            vector[author] = seq;
            self.advance(at, &vector);
        }
    }

    fn begin(&mut self, to: usize, from: usize) {
        let (receiver, sender) = (&self.replicas[to], &self.replicas[from]);
        let below = (0..REPLICAS_MAX).any(|author| receiver.vector[author] < sender.frontier[author]);
        let lacks = |live: &&Live| {
            let op = self.ops.get(live.op);
            op.seq > receiver.vector[op.author] && receiver.cloud & one(live.op) == 0
        };
        let session = Session {
            to,
            tells_live: match self.relaxed {
                Some(Rule::LiveSet) => false,
                Some(Rule::EverySession) => below,
                _ => true,
            },
            records: sender.live.iter().filter(lacks).copied().collect(),
            from: sender.clone(),
        };
        self.sessions.push(session);
    }

    fn sessions(&self) -> usize {
        self.sessions.len()
    }

    fn feed(&mut self, session: usize, count: usize) {
        let count = count.min(self.sessions[session].records.len());
        let records: Vec<Live> = self.sessions[session].records.drain(..count).collect();
        let to = self.sessions[session].to;
        if self.relaxed == Some(Rule::Commit) && self.sessions[session].tells_live {
            let from = self.sessions[session].from.clone();
            self.forget(to, &from);
        }
        for record in records {
            self.take(to, record);
            if self.relaxed == Some(Rule::Commit) {
                let mut vector = self.replicas[to].vector;
                let op = self.ops.get(record.op);
                vector[op.author] = vector[op.author].max(op.seq);
                self.advance(to, &vector);
            }
        }
    }

    fn abort(&mut self, session: usize) {
        self.sessions.remove(session);
    }

    fn commit(&mut self, session: usize) {
        self.feed(session, usize::MAX);
        let session = self.sessions.remove(session);
        if session.tells_live {
            self.forget(session.to, &session.from);
        }
        self.advance(session.to, &session.from.vector);
        join(&mut self.replicas[session.to].frontier, &session.from.frontier);
    }

    fn collectable(&self, at: usize) -> Set {
        let replica = &self.replicas[at];
        let covered = |context: &Vector| (0..REPLICAS_MAX).all(|author| context[author] <= replica.vector[author]);
        let dead = replica.live.iter().filter(|live| {
            let op = self.ops.get(live.op);
            let own = op.seq <= replica.vector[op.author];
            op.delete && (self.relaxed == Some(Rule::Covered) || (own && covered(&live.context)))
        });
        dead.fold(0, |set, live| set | one(live.op))
    }

    fn collect(&mut self, at: usize, chosen: Set) -> Option<u8> {
        let (replica, ops) = (&mut self.replicas[at], &self.ops);
        replica.live.retain(|live| {
            let collected = chosen & one(live.op) != 0;
            if collected {
                let op = ops.get(live.op);
                replica.frontier[op.author] = replica.frontier[op.author].max(op.seq);
            }
            !collected
        });
        None
    }
}
