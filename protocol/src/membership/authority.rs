//! Which operations count, decided from the set of operations alone.
//!
//! Precedence: recovery key, then a majority of the admins, then seniority. An admin's seniority is its way from the
//! founder: first by length, then by the order in which each admin on the way admitted. Whoever may take an admin's
//! rights is senior to it, so admins are decided from the most senior down, and nobody's operations are looked at before
//! everything that could void them is settled. A removal voids what the removed device said and the remover did not
//! know; what merely builds on it is not touched, so that nobody can void a stranger's operation with its own.
//!
//! A majority is more than half of the admins that the *removed* device itself is known to have seen, by the oldest of
//! the votes. Otherwise an admin could admit a crowd of its own making, or back-date one, and outvote its senior.

use super::{
    Role,
    graph::{Body, Graph, Index},
};
use crate::id::DeviceId;
use std::collections::{BTreeMap, BTreeSet};

/// How senior an admin is: less is more.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seniority {
    /// Whom the recovery key names comes before the founder.
    from_founder: bool,
    steps_len: usize,
    steps: Vec<u64>,
}

impl Seniority {
    fn founder() -> Self {
        Self { from_founder: true, steps_len: 0, steps: Vec::new() }
    }

    fn recovered(graph: &Graph, at: Index) -> Self {
        let node = &graph.nodes[at];
        let mut id = [0; 8];
        id.copy_from_slice(&node.id.as_bytes()[..8]);
        Self { from_founder: false, steps_len: 0, steps: vec![node.seq, u64::from_be_bytes(id)] }
    }

    fn below(&self, seq: u64) -> Self {
        let steps = self.steps.iter().copied().chain([seq]).collect();
        Self { steps_len: self.steps_len + 1, steps, ..*self }
    }
}

/// By what right a device is removed, the strongest first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Right {
    Recovery,
    Majority,
    Seniority(Seniority),
}

/// A removal in effect.
#[derive(Debug, Clone)]
pub(super) struct Removal {
    pub(super) right: Right,
    /// The operations that say so: one, or the votes.
    pub(super) by: Vec<Index>,
    /// The last of the device's operations that still counts.
    last: Option<u64>,
}

/// A vote by somebody who might cast it.
struct Vote {
    target: DeviceId,
    /// The last operation of the target that the voter knew.
    seen: Option<u64>,
    /// The admins that the target had seen by then, and itself.
    electors: BTreeSet<DeviceId>,
}

/// What a set of operations amounts to.
#[derive(Default)]
pub(super) struct Outcome {
    /// Operations that count.
    pub(super) counted: BTreeSet<Index>,
    /// Operations that admit a device, the most authoritative first.
    pub(super) admissions: BTreeMap<DeviceId, Vec<(Seniority, Index)>>,
    /// What made a device an admin, the most senior first.
    pub(super) grants: BTreeMap<DeviceId, Vec<(Seniority, Index)>>,
    /// Changes of role.
    pub(super) changes: BTreeMap<DeviceId, Vec<(Index, Role)>>,
    /// Removals in effect.
    pub(super) removals: BTreeMap<DeviceId, Vec<Removal>>,
    /// Votes that have no effect so far.
    pub(super) votes: BTreeMap<DeviceId, Vec<Index>>,
}

/// Decides over all operations.
pub(super) fn decide(graph: &Graph) -> Outcome {
    let votes = votes(graph);
    let outcome = Evaluation::run(graph, None, &votes);
    // Admins that have all voted one another out leave nobody; then seniority alone decides.
    if outcome.has_admin(graph) || !outcome.by_majority() {
        return outcome;
    }
    let without = Evaluation::run(graph, None, &BTreeMap::new());
    if without.has_admin(graph) { without } else { outcome }
}

/// Operations that make a device an admin if their authors may say so, which is not asked here.
fn claims(graph: &Graph) -> BTreeMap<DeviceId, Vec<Index>> {
    let mut claims: BTreeMap<DeviceId, Vec<Index>> = BTreeMap::new();
    for (at, node) in graph.nodes.iter().enumerate().filter(|(_, node)| node.sound) {
        let admin = match &node.body {
            Body::Create(create) => Some(create.founder.device),
            Body::Recover(recover) if graph.is_recovery(at) => Some(recover.admin.member.device),
            Body::Admit(admit) if admit.role == Role::Admin => Some(admit.member.device),
            Body::SetRole(set) if set.role == Role::Admin => Some(set.device),
            _ => None,
        };
        let rightful = at == 0 || graph.is_recovery(at) || claims.contains_key(&node.author);
        if let (Some(device), true) = (admin, rightful) {
            claims.entry(device).or_default().push(at);
        }
    }
    claims
}

/// The votes that count as such: cast by an admin, as far as it knew, against another. A device's first vote against
/// another stands for all. What cannot have an effect, or comes after the first votes of an author, is left out, because
/// each costs an evaluation of its own.
fn votes(graph: &Graph) -> BTreeMap<Index, Vote> {
    const OF_ONE_AUTHOR_MAX: u8 = 16;
    let claims = claims(graph);
    let claimed = |device: &DeviceId| claims.get(device).into_iter().flatten().copied();
    let sound = || graph.nodes.iter().enumerate().filter(|(_, node)| node.sound);
    let places: BTreeMap<(DeviceId, u64), Index> = sound().map(|(at, node)| ((node.author, node.seq), at)).collect();
    // The last operation of the target that a voter knew.
    let shown_by = |at: Index, target: &DeviceId| {
        graph.last_known(at, target).and_then(|seq| places.get(&(*target, seq)).copied())
    };
    let shown = |by: Option<Index>, grant: Index| by.is_some_and(|by| by == grant || graph.knows(by, grant));

    let mut first: BTreeMap<DeviceId, BTreeMap<DeviceId, Index>> = BTreeMap::new();
    let mut cast: BTreeMap<DeviceId, u8> = BTreeMap::new();
    for (at, node) in sound() {
        let Body::Remove(remove) = &node.body else { continue };
        let (voter, target) = (node.author, remove.device);
        let by = shown_by(at, &target);
        let seen = claimed(&voter).any(|grant| {
            shown(by, grant) || claimed(&target).any(|own| graph.knows(at, own) && shown(Some(own), grant))
        });
        let new = !first.get(&target).is_some_and(|by| by.contains_key(&voter));
        let count = cast.entry(voter).or_default();
        if voter != target && seen && new && *count < OF_ONE_AUTHOR_MAX {
            *count += 1;
            first.entry(target).or_default().insert(voter, at);
        }
    }
    let joined = first.into_iter().filter(|(_, by)| by.len() > 1);
    let mut cast: Vec<(Index, DeviceId)> =
        joined.flat_map(|(target, by)| by.into_values().map(move |at| (at, target))).collect();
    cast.sort_unstable();
    let mut votes = BTreeMap::new();
    for (at, target) in cast {
        // Predecessors come first, so the votes that this view holds are there already.
        let mut view = graph.closure([at]);
        view.remove(&at);
        let outcome = Evaluation::run(graph, Some(&view), &votes);
        let own = outcome.grants.get(&target).and_then(|grants| grants.iter().min()).map(|(_, own)| *own);
        if own.is_none() || !outcome.is_admin(graph, &graph.nodes[at].author) || outcome.removals.contains_key(&target)
        {
            continue;
        }
        let by = shown_by(at, &target);
        let mut electors: BTreeSet<DeviceId> = outcome
            .grants
            .iter()
            .filter(|(device, grants)| {
                let shown = grants.iter().any(|(_, grant)| shown(by, *grant) || shown(own, *grant));
                outcome.is_admin(graph, device) && shown
            })
            .map(|(device, _)| *device)
            .collect();
        electors.insert(target);
        votes.insert(at, Vote { target, seen: graph.last_known(at, &target), electors });
    }
    votes
}

/// One evaluation of a set of operations that holds the predecessors of each.
struct Evaluation<'a> {
    graph: &'a Graph,
    view: Option<&'a BTreeSet<Index>>,
    by_author: BTreeMap<DeviceId, Vec<Index>>,
    outcome: Outcome,
    /// Grants whose holder's operations are not decided yet.
    open: BTreeSet<(Seniority, Index, DeviceId)>,
    /// Promotions of devices whose admission is not decided yet.
    promotions: BTreeMap<DeviceId, Vec<(Seniority, Index)>>,
}

impl<'a> Evaluation<'a> {
    fn run(graph: &'a Graph, view: Option<&'a BTreeSet<Index>>, votes: &BTreeMap<Index, Vote>) -> Outcome {
        let mut by_author: BTreeMap<DeviceId, Vec<Index>> = BTreeMap::new();
        let seen = |at: &Index| view.is_none_or(|view| view.contains(at));
        for at in (0..graph.nodes.len()).filter(|at| graph.nodes[*at].sound).filter(seen) {
            by_author.entry(graph.nodes[at].author).or_default().push(at);
        }
        for ops in by_author.values_mut() {
            ops.sort_by_key(|at| (graph.nodes[*at].seq, graph.nodes[*at].id));
        }
        let (open, promotions) = (BTreeSet::new(), BTreeMap::new());
        let mut this = Self { graph, view, by_author, outcome: Outcome::default(), open, promotions };
        this.found();
        this.recover();
        this.outvote(votes);
        while let Some((seniority, grant, admin)) = this.open.pop_first() {
            for at in this.by_author.get(&admin).cloned().unwrap_or_default() {
                if this.may(&admin, at, grant) {
                    this.apply(&admin, at, &seniority);
                }
            }
        }
        this.outcome
    }

    fn found(&mut self) {
        let Some(Body::Create(create)) = self.graph.nodes.first().map(|node| &node.body) else { return };
        if create.founder.device == self.graph.nodes[0].author && self.view.is_none_or(|view| view.contains(&0)) {
            self.outcome.counted.insert(0);
            self.admit(create.founder.device, 0, Seniority::founder(), true);
        }
    }

    fn recover(&mut self) {
        let recoveries = self.graph.recovery.and_then(|key| self.by_author.get(&key)).cloned().unwrap_or_default();
        for at in recoveries {
            let Body::Recover(recover) = &self.graph.nodes[at].body else { continue };
            let seniority = Seniority::recovered(self.graph, at);
            self.outcome.counted.insert(at);
            for remove in recover.remove.iter() {
                self.remove(remove.device, Right::Recovery, vec![at], self.graph.last_known(at, &remove.device));
            }
            let admin = recover.admin.member.device;
            self.outcome.changes.entry(admin).or_default().push((at, Role::Admin));
            self.admit(admin, at, seniority, true);
        }
    }

    /// Removes those against whom a majority has voted, in ascending order of id. The votes of who is removed stand as
    /// far as those knew them who removed it.
    fn outvote(&mut self, votes: &BTreeMap<Index, Vote>) {
        let mut targets: BTreeMap<DeviceId, Vec<(Index, &Vote)>> = BTreeMap::new();
        for (at, vote) in votes.iter().filter(|(at, _)| self.view.is_none_or(|view| view.contains(at))) {
            targets.entry(vote.target).or_default().push((*at, vote));
        }
        for (target, votes) in targets {
            let standing: Vec<_> = votes.into_iter().filter(|(at, _)| self.stands(*at)).collect();
            let mut best: Option<(Option<u64>, Vec<Index>)> = None;
            for (_, oldest) in &standing {
                let cast = standing.iter().filter(|(at, vote)| {
                    vote.seen >= oldest.seen && oldest.electors.contains(&self.graph.nodes[*at].author)
                });
                let cast: Vec<Index> = cast.map(|(at, _)| *at).collect();
                let better = best.as_ref().is_none_or(|(seen, _)| oldest.seen > *seen);
                if 2 * cast.len() > oldest.electors.len() && better {
                    best = Some((oldest.seen, cast));
                }
            }
            if let Some((seen, cast)) = best {
                self.remove(target, Right::Majority, cast, seen);
            }
        }
    }

    /// Whether no removal of its author in effect voids an operation.
    fn stands(&self, at: Index) -> bool {
        let node = &self.graph.nodes[at];
        let removals = self.outcome.removals.get(&node.author).into_iter().flatten();
        removals.into_iter().all(|removal| removal.last.is_some_and(|last| node.seq <= last))
    }

    /// Whether an admin may say something by a grant.
    fn may(&self, admin: &DeviceId, at: Index, grant: Index) -> bool {
        let graph = self.graph;
        !self.outcome.counted.contains(&at)
            && graph.knows(at, grant)
            && self.stands(at)
            && self
                .outcome
                .demotions(graph, admin)
                .all(|demotion| graph.knows(grant, demotion) || graph.knows(demotion, at))
    }

    /// Whether a device is an admin whose rights somebody of this seniority cannot take, as far as `at` knew.
    fn outranks(&self, device: &DeviceId, seniority: &Seniority, at: Index) -> bool {
        let graph = self.graph;
        self.outcome.grants.get(device).into_iter().flatten().any(|(granted, grant)| {
            let mut demotions = self.outcome.demotions(graph, device);
            granted < seniority && !demotions.any(|lost| !graph.knows(*grant, lost) && graph.knows(at, lost))
        })
    }

    fn apply(&mut self, author: &DeviceId, at: Index, seniority: &Seniority) {
        let graph = self.graph;
        let node = &graph.nodes[at];
        let below = || seniority.below(node.seq);
        match &node.body {
            Body::Admit(admit) => {
                let first = !self.outcome.admissions.contains_key(&admit.member.device);
                self.admit(admit.member.device, at, below(), first && admit.role == Role::Admin);
            }
            Body::Remove(remove) if remove.device == *author => return,
            Body::Remove(remove) if self.outranks(&remove.device, seniority, at) => {
                self.outcome.votes.entry(remove.device).or_default().push(at);
            }
            Body::Remove(remove) => {
                let last = graph.last_known(at, &remove.device);
                self.remove(remove.device, Right::Seniority(seniority.clone()), vec![at], last);
            }
            Body::SetRole(set) if set.device == *author || self.outranks(&set.device, seniority, at) => return,
            Body::SetRole(set) => {
                self.outcome.changes.entry(set.device).or_default().push((at, set.role));
                if set.role == Role::Admin {
                    self.promotions.entry(set.device).or_default().push((below(), at));
                    self.promote(&set.device);
                }
            }
            Body::Rotate(_) | Body::Unknown => {}
            Body::Create(_) | Body::Recover(_) => return,
        }
        self.outcome.counted.insert(at);
    }

    fn admit(&mut self, device: DeviceId, at: Index, seniority: Seniority, admin: bool) {
        self.outcome.admissions.entry(device).or_default().push((seniority.clone(), at));
        if admin {
            self.grant(device, at, seniority);
        }
        self.promote(&device);
    }

    /// Makes a device an admin by the promotions that know its admission. It is no more senior than who let it in, so
    /// that its admission is always decided first.
    fn promote(&mut self, device: &DeviceId) {
        let mut waiting = self.promotions.remove(device).unwrap_or_default();
        let known = |(_, at): &(Seniority, Index)| self.outcome.admission_known(self.graph, device, *at);
        let due: Vec<_> = waiting.extract_if(.., |promotion| known(promotion)).collect();
        for (seniority, at) in due {
            let admissions = self.outcome.admissions.get(device).into_iter().flatten();
            let admitted = admissions.into_iter().filter(|(_, by)| self.graph.knows(at, *by)).map(|(by, _)| by).min();
            let seniority =
                admitted.map_or_else(|| seniority.clone(), |admitted| seniority.clone().max(admitted.clone()));
            self.grant(*device, at, seniority);
        }
        self.promotions.insert(*device, waiting);
    }

    fn grant(&mut self, device: DeviceId, at: Index, seniority: Seniority) {
        self.outcome.grants.entry(device).or_default().push((seniority.clone(), at));
        self.open.insert((seniority, at, device));
    }

    fn remove(&mut self, device: DeviceId, right: Right, by: Vec<Index>, last: Option<u64>) {
        self.outcome.removals.entry(device).or_default().push(Removal { right, by, last });
    }
}

impl Outcome {
    /// Whether an operation builds on an admission of a device.
    fn admission_known(&self, graph: &Graph, device: &DeviceId, at: Index) -> bool {
        let admissions = self.admissions.get(device).into_iter().flatten();
        admissions.into_iter().any(|(_, admission)| *admission == at || graph.knows(at, *admission))
    }

    /// Changes of a device's role by who knew that it was a member.
    fn changes<'a>(&'a self, graph: &'a Graph, device: &'a DeviceId) -> impl Iterator<Item = (Index, Role)> + 'a {
        let changes = self.changes.get(device).into_iter().flatten().copied();
        changes.filter(move |(at, _)| self.admission_known(graph, device, *at))
    }

    /// Changes that leave a device something else than an admin.
    pub(super) fn demotions<'a>(&'a self, graph: &'a Graph, device: &'a DeviceId) -> impl Iterator<Item = Index> + 'a {
        self.changes(graph, device).filter(|(_, role)| *role != Role::Admin).map(|(at, _)| at)
    }

    /// The role of a device, removed or not, and the operation that gave it: of changes that did not know one another the
    /// one that leaves least.
    pub(super) fn role(&self, graph: &Graph, device: &DeviceId) -> Option<(Role, Index)> {
        let (_, admission) = self.admissions.get(device)?.first()?;
        let admitted = match &graph.nodes[*admission].body {
            Body::Create(_) | Body::Recover(_) => Role::Admin,
            Body::Admit(admit) => admit.role,
            _ => return None,
        };
        let last = |at: Index| !self.changes(graph, device).any(|(later, _)| graph.knows(later, at));
        let changes = self.changes(graph, device).filter(|(at, _)| last(*at));
        let changed = changes.max_by_key(|(at, role)| (*role, graph.nodes[*at].id));
        Some(changed.map_or((admitted, *admission), |(at, role)| (role, at)))
    }

    /// Whether a device is a member that decides.
    pub(super) fn is_admin(&self, graph: &Graph, device: &DeviceId) -> bool {
        !self.removals.contains_key(device) && self.role(graph, device).is_some_and(|(role, _)| role == Role::Admin)
    }

    fn has_admin(&self, graph: &Graph) -> bool {
        self.admissions.keys().any(|device| self.is_admin(graph, device))
    }

    fn by_majority(&self) -> bool {
        self.removals.values().flatten().any(|removal| removal.right == Right::Majority)
    }
}
