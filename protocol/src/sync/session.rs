//! One session with one peer as a machine.
//!
//! Call order: [`start`](Session::start) once; then [`handle`](Session::handle) for each frame and for each answer to an
//! effect, [`poll`](Session::poll) until it gives nothing, again and again. [`next_wakeup`](Session::next_wakeup) says when
//! to send [`Input::Tick`].
//!
//! Answers may come late and in any order between kinds, but within one kind in the order of their effects. What waits here
//! is bounded by what the peer may say before it must wait; a caller that reads no frame while it owes an answer holds no
//! more than one frame.
//!
//! A peer is held to what it says: its summary is all that it may send, and at its end it must have sent it. A session that
//! breaks this, stands still or takes too long ends with a [`Violation`], and nothing is accounted for.

use super::frame::{BATCHES_MAX, DIVERGED_MAX, FRAME_BYTES_MAX, Frame, HELD_MAX, HeldRange, Locator, OPS_MAX};
use crate::{
    bounded::List,
    id::{EpochId, GroupId, MembershipOpId},
    log::{Author, BATCH_OPS_MAX, Gap, SealedBatch, VersionVector},
    membership::SignedOp,
    planted::{Plant, is_planted},
    time::Now,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Bytes of batches that are asked of the catalog for one frame. A frame is one commit at the receiver, and large commits are
/// what makes a new device fast.
const LOAD_BYTES: usize = 2 << 20;
/// Frames of batches that may be under way without an acknowledgement.
const WINDOW: u32 = 3;
/// Bytes of batches that an end may send before it hears an answer. A stream needs room for more, or two ends that both
/// send wait for each other.
pub const UNANSWERED_BYTES_MAX: usize = WINDOW as usize * LOAD_BYTES;
/// How long the peer may be silent.
const STALL_NS: u64 = 30_000_000_000;
/// How long a session may take, however busy it is; what came stays, and the next one goes on from there.
const SESSION_NS_MAX: u64 = 3_600_000_000_000;
/// Bytes of batches in one frame, so that any frame can be encoded.
const BATCHES_BYTES_MAX: usize = FRAME_BYTES_MAX - (64 << 10);
/// What a batch in a frame takes beside its sealed bytes, at most.
const BATCH_OVERHEAD_BYTES: usize = 64;
/// Frames of unknown kinds that are skipped in one session.
const UNKNOWN_MAX: u32 = 64;
/// Most operations that an author can have: sequence numbers have 40 bits.
const SEQ_MAX: u64 = 1 << 40;

/// What this device has when a session begins, or after its membership log has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// The group.
    pub group: GroupId,
    /// The epoch under which this device seals.
    pub epoch: Option<EpochId>,
    /// Accounted for.
    pub vector: VersionVector,
    /// Held above it.
    pub held: BTreeMap<Author, (u64, u64)>,
    /// Hash of the last batch of each log.
    pub tips: BTreeMap<Author, [u8; 32]>,
    /// The membership operations.
    pub membership: BTreeSet<MembershipOpId>,
    /// Their hash.
    pub membership_hash: [u8; 32],
}

impl Local {
    fn catalog_hash(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("larder 2026 catalog summary v1");
        hasher.update(&self.vector.hash());
        for (author, (from, until)) in &self.held {
            hasher.update(author.device.as_bytes()).update(&author.incarnation.to_le_bytes());
            hasher.update(&from.to_le_bytes()).update(&until.to_le_bytes());
        }
        // Authors follow from the vector, but for logs that are empty.
        for tip in self.tips.values() {
            hasher.update(tip);
        }
        *hasher.finalize().as_bytes()
    }

    /// What is here, held operations included, as the peer works it out from the summary.
    fn reach(&self) -> VersionVector {
        reach(&self.vector, self.held.iter().map(|(author, (from, until))| (*author, *from, *until)))
    }
}

/// A vector together with the held ranges that continue it.
fn reach(vector: &VersionVector, held: impl IntoIterator<Item = HeldRange>) -> VersionVector {
    let mut reach = vector.clone();
    for (author, from, until) in held {
        // Only what continues the vector counts: the rest would leave a gap.
        if from <= reach.get(&author) {
            reach.advance(author, until);
        }
    }
    reach
}

/// How many batches may come for so many operations: each brings something new, or is a checkpoint that comes ahead of its
/// place to prove a husk, and no husk needs more of them than it has operations.
fn most(ops: u64) -> u64 {
    ops.saturating_mul(2)
}

/// What happens to a session.
#[derive(Debug)]
pub enum Input {
    /// The peer said something.
    Frame(Frame),
    /// The peer said something of a kind that this version does not know: a hint between later versions, which one may do
    /// without. What must be understood needs another protocol name.
    UnknownFrame,
    /// Answer to [`Effect::LoadMembership`].
    Membership(Vec<SignedOp>),
    /// Answer to [`Effect::CommitMembership`].
    MembershipCommitted,
    /// Answer to [`Effect::Compare`].
    Compared(Vec<Locator>),
    /// Answer to [`Effect::Locate`].
    Located(Vec<Gap>),
    /// Answer to [`Effect::Load`].
    Loaded {
        /// The batches, in order.
        batches: Vec<SealedBatch>,
        /// Number after the last operation in them.
        next_seq: u64,
    },
    /// Answer to [`Effect::Commit`]: durable.
    Committed,
    /// Answer to [`Effect::Account`]: durable.
    Accounted,
    /// Time has passed.
    Tick,
}

/// What the node shall do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send this to the peer.
    Send(Frame),
    /// Give these membership operations.
    LoadMembership(Vec<MembershipOpId>),
    /// Keep these membership operations durably.
    CommitMembership(Vec<SignedOp>),
    /// Say which of these logs have another history here: of each the peer has so many operations, the last batch of
    /// which has this hash. Where no batch is here that could tell, it has not.
    Compare(Vec<(Author, u64, [u8; 32])>),
    /// Give what follows the last of a locator's points that is here too: of a log that the peer knows otherwise.
    Locate(Vec<Locator>),
    /// Give batches that fill this gap, about so many bytes of them and at most [`BATCHES_MAX`]; where there are husks,
    /// checkpoints that prove them come first.
    Load(Gap, usize),
    /// Hold these batches durably, contiguous for each author; [`Effect::Account`] follows when the session has ended well.
    Commit(Vec<SealedBatch>),
    /// Account for what is held, up to these counts.
    Account(BTreeMap<Author, u64>),
    /// The session is over, and went well.
    Finished(Report),
    /// The session is over; close the stream.
    Failed(Violation),
}

/// What a session did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    /// Frames of batches received.
    pub received: u64,
    /// Batches sent.
    pub sent: u64,
    /// Membership operations received.
    pub membership: u64,
    /// Nothing was missing on either side.
    pub equal: bool,
}

/// What a peer did that no honest one does, or that ends a session all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// It belongs to another group.
    #[error("the peer belongs to another group")]
    Group,
    /// A frame came out of turn.
    #[error("a frame came out of turn")]
    OutOfTurn,
    /// More came unacknowledged than was agreed.
    #[error("more came unacknowledged than was agreed")]
    Window,
    /// Something came that was not missing, or more than can be missing.
    #[error("more came than was missing")]
    Excess,
    /// The peer ended before it had sent what it claimed to have.
    #[error("less came than was claimed")]
    Withheld,
    /// A count, range or incarnation that cannot be, or a last word that is not the first.
    #[error("the peer makes an impossible claim")]
    Claim,
    /// It was silent for too long.
    #[error("the peer was silent for too long")]
    Silent,
    /// The session took longer than any may.
    #[error("the session took too long")]
    TooLong,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// Waits for the peer's hello.
    Hello,
    /// Compares membership logs.
    Membership,
    /// Waits for the peer's summary.
    Summary,
    /// Finds out which logs have two histories.
    Diverged,
    /// Sends and receives batches.
    Batches,
    /// Over.
    Done,
}

/// What the peer has said that it has.
#[derive(Debug, Default)]
struct Summary {
    vector: VersionVector,
    held: List<HeldRange, HELD_MAX>,
    tips: List<(Author, [u8; 32]), HELD_MAX>,
}

/// One session with one peer.
#[derive(Debug)]
pub struct Session {
    local: Local,
    stage: Stage,
    effects: VecDeque<Effect>,
    report: Report,
    started_ns: u64,
    heard_ns: u64,
    unknown: u32,
    /// The summary goes right behind the hello.
    expects_news: bool,
    summary_sent: bool,
    /// The peer's first summary was of what it had before membership operations were exchanged.
    summary_skipped: bool,
    /// Membership: what is still awaited from the peer once it has said what it has, and whether all of ours went.
    ops_awaited: Option<BTreeSet<MembershipOpId>>,
    ops_received: bool,
    ops_sent: bool,
    commits_pending: u32,
    sends_pending: VecDeque<Vec<MembershipOpId>>,
    /// A summary that came while membership operations were still being committed here.
    summary_early: Option<Summary>,
    /// What the peer has, held operations included.
    theirs: VersionVector,
    /// Logs with two histories, as this end found out, and the peer.
    diverged_here: Option<Vec<Locator>>,
    diverged_there: Option<Vec<Locator>>,
    /// Batches that came while this end still compared.
    early: Vec<List<SealedBatch, BATCHES_MAX>>,
    /// Logs that are left out of what is accounted for.
    diverged: BTreeSet<Author>,
    /// What follows the peer's locators is still being looked for.
    locating: bool,
    /// Batches out: gaps of the peer that are still to be filled, and frames that wait for an acknowledgement.
    gaps: VecDeque<Gap>,
    loading: bool,
    frames: VecDeque<Vec<SealedBatch>>,
    unacknowledged: u32,
    end_sent: bool,
    /// Batches in: what the peer vouches for, and how many batches may and must still come for it.
    vouched: VersionVector,
    batches_max: u64,
    batches_min: u64,
    end_received: bool,
    receiving: u32,
    accounting: bool,
}

impl Session {
    /// A session with what this device has now.
    pub fn new(mut local: Local) -> Self {
        // What a summary has no room for is as if it were not here; the peer must know all that it may be sent.
        if let Some(author) = local.held.keys().nth(HELD_MAX).copied() {
            drop(local.held.split_off(&author));
        }
        if let Some(author) = local.tips.keys().nth(HELD_MAX).copied() {
            drop(local.tips.split_off(&author));
        }
        Self {
            local,
            stage: Stage::Hello,
            effects: VecDeque::new(),
            report: Report::default(),
            started_ns: 0,
            heard_ns: 0,
            unknown: 0,
            expects_news: false,
            summary_sent: false,
            summary_skipped: false,
            ops_awaited: None,
            ops_received: false,
            ops_sent: false,
            commits_pending: 0,
            sends_pending: VecDeque::new(),
            summary_early: None,
            theirs: VersionVector::default(),
            diverged_here: None,
            diverged_there: None,
            early: Vec::new(),
            diverged: BTreeSet::new(),
            locating: false,
            gaps: VecDeque::new(),
            loading: false,
            frames: VecDeque::new(),
            unacknowledged: 0,
            end_sent: false,
            vouched: VersionVector::default(),
            batches_max: 0,
            batches_min: 0,
            end_received: false,
            receiving: 0,
            accounting: false,
        }
    }

    /// Lets the summary go right behind the hello: a round trip less for who has reason to think that something is missing,
    /// and some hundred bytes more if nothing is.
    #[must_use]
    pub fn expecting_news(mut self) -> Self {
        self.expects_news = true;
        self
    }

    /// Says hello.
    pub fn start(&mut self, now: Now) {
        self.started_ns = now.mono_ns;
        self.heard_ns = now.mono_ns;
        self.effects.push_back(Effect::Send(Frame::Hello {
            group: self.local.group,
            epoch: self.local.epoch,
            catalog: self.local.catalog_hash(),
            membership: self.local.membership_hash,
        }));
        if self.expects_news {
            self.send_summary();
        }
    }

    /// What to do next; `None` when all that can be done is to wait.
    pub fn poll(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When to send [`Input::Tick`], in monotonic nanoseconds.
    pub fn next_wakeup(&self) -> Option<u64> {
        let silent_ns = self.heard_ns.saturating_add(STALL_NS);
        (self.stage != Stage::Done).then(|| silent_ns.min(self.started_ns.saturating_add(SESSION_NS_MAX)))
    }

    /// Whether the session is over.
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Done
    }

    /// Handles what happened.
    pub fn handle(&mut self, now: Now, input: Input) {
        if self.stage == Stage::Done {
            return;
        }
        // Whoever says a little now and then never lets a tick be due.
        if now.mono_ns.saturating_sub(self.started_ns) >= SESSION_NS_MAX {
            return self.fail(Violation::TooLong);
        }
        if matches!(input, Input::UnknownFrame) {
            self.unknown += 1;
            if self.unknown > UNKNOWN_MAX {
                return self.fail(Violation::Excess);
            }
        }
        if matches!(input, Input::Tick | Input::UnknownFrame) {
            if now.mono_ns.saturating_sub(self.heard_ns) >= STALL_NS {
                self.fail(Violation::Silent);
            }
            return;
        }
        self.heard_ns = now.mono_ns;
        if let Err(violation) = self.step(input) {
            self.fail(violation);
        }
    }

    fn fail(&mut self, violation: Violation) {
        self.stage = Stage::Done;
        self.gaps.clear();
        self.frames.clear();
        self.sends_pending.clear();
        if is_planted(Plant::AccountsThoughBroken) {
            let counts = self.vouched.iter().map(|(author, count)| (*author, *count)).collect();
            self.effects.push_back(Effect::Account(counts));
        }
        self.effects.push_back(Effect::Failed(violation));
    }

    fn step(&mut self, input: Input) -> Result<(), Violation> {
        match (input, self.stage) {
            (Input::Frame(Frame::Hello { group, catalog, membership, .. }), Stage::Hello) => {
                if group != self.local.group {
                    return Err(Violation::Group);
                }
                let held = !self.local.held.is_empty();
                if membership != self.local.membership_hash {
                    self.stage = Stage::Membership;
                    // It is sent anew when both know the same members.
                    self.summary_sent = false;
                    let ids = List::truncated(self.local.membership.iter().copied());
                    self.effects.push_back(Effect::Send(Frame::MembershipIds(ids)));
                } else if catalog == self.local.catalog_hash() && !held {
                    self.report.equal = true;
                    self.finish();
                } else {
                    self.summarise();
                }
                Ok(())
            }
            (Input::Frame(Frame::MembershipIds(ids)), Stage::Membership) if self.ops_awaited.is_none() => {
                let theirs: BTreeSet<_> = ids.iter().copied().collect();
                let missing: Vec<_> = self.local.membership.difference(&theirs).copied().collect();
                self.ops_awaited = Some(theirs.difference(&self.local.membership).copied().collect());
                self.sends_pending = missing.chunks(OPS_MAX).map(<[_]>::to_vec).collect();
                self.send_membership();
                Ok(())
            }
            (Input::Membership(ops), Stage::Membership) => {
                let last = self.sends_pending.is_empty();
                self.effects.push_back(Effect::Send(Frame::MembershipOps { ops: List::truncated(ops), last }));
                if last {
                    self.ops_sent = true;
                    self.membership_step()
                } else {
                    self.send_membership();
                    Ok(())
                }
            }
            (Input::Frame(Frame::MembershipOps { ops, last }), Stage::Membership) if !self.ops_received => {
                let awaited = self.ops_awaited.as_mut().ok_or(Violation::OutOfTurn)?;
                if ops.is_empty() && !last {
                    return Err(Violation::OutOfTurn);
                }
                if !ops.iter().all(|op| awaited.remove(&op.id())) {
                    return Err(Violation::Excess);
                }
                if last && !awaited.is_empty() {
                    return Err(Violation::Withheld);
                }
                self.ops_received = last;
                self.report.membership += ops.len() as u64;
                if !ops.is_empty() {
                    self.commits_pending += 1;
                    self.effects.push_back(Effect::CommitMembership(ops.into_vec()));
                }
                self.membership_step()
            }
            (Input::MembershipCommitted, Stage::Membership) => {
                self.commits_pending = self.commits_pending.saturating_sub(1);
                self.membership_step()
            }
            (Input::Frame(Frame::Summary { .. }), Stage::Membership)
                if self.ops_awaited.is_none() && !self.summary_skipped =>
            {
                self.summary_skipped = true;
                Ok(())
            }
            (Input::Frame(Frame::Summary { vector, held, tips }), Stage::Membership)
                if self.ops_sent && self.ops_received && self.summary_early.is_none() =>
            {
                self.summary_early = Some(Summary { vector, held, tips });
                Ok(())
            }
            (Input::Frame(Frame::Summary { vector, held, tips }), Stage::Summary) => {
                self.compare(Summary { vector, held, tips })
            }
            (Input::Compared(locators), Stage::Diverged) if self.diverged_here.is_none() => {
                self.compared(locators);
                self.diverged_step()
            }
            (Input::Frame(Frame::Diverged(locators)), Stage::Diverged) if self.diverged_there.is_none() => {
                let ours = self.local.reach();
                if locators.iter().any(|it| it.points.is_empty() || ours.get(&it.author) == 0) {
                    return Err(Violation::Claim);
                }
                self.diverged_there = Some(locators.into_vec());
                self.diverged_step()
            }
            (Input::Located(gaps), Stage::Batches) if self.locating => {
                self.locating = false;
                self.gaps.extend(gaps.into_iter().filter(|gap| self.diverged.contains(&gap.author)));
                self.send_batches();
                Ok(())
            }
            (Input::Loaded { batches, next_seq }, Stage::Diverged | Stage::Batches) if self.loading => {
                self.loading = false;
                self.loaded(batches, next_seq);
                self.send_batches();
                Ok(())
            }
            // The peer has compared, and this end still does.
            (Input::Frame(Frame::Batches(batches)), Stage::Diverged) if self.diverged_there.is_some() => {
                if self.early.len() >= WINDOW as usize {
                    return Err(Violation::Window);
                }
                self.early.push(batches);
                Ok(())
            }
            (Input::Frame(Frame::Batches(batches)), Stage::Batches) if !self.end_received => self.take_batches(batches),
            (Input::Committed, Stage::Batches) => {
                self.receiving = self.receiving.saturating_sub(1);
                self.effects.push_back(Effect::Send(Frame::Ack));
                self.end_step();
                Ok(())
            }
            (Input::Frame(Frame::Ack), Stage::Batches) => {
                self.unacknowledged = self.unacknowledged.checked_sub(1).ok_or(Violation::OutOfTurn)?;
                self.send_batches();
                self.end_step();
                Ok(())
            }
            (Input::Frame(Frame::End { vector }), Stage::Batches) if !self.end_received => {
                if vector != self.vouched {
                    return Err(Violation::Claim);
                }
                if self.batches_min > 0 {
                    return Err(Violation::Withheld);
                }
                self.end_received = true;
                self.end_step();
                Ok(())
            }
            (Input::Accounted, Stage::Batches) if self.accounting => {
                self.finish();
                Ok(())
            }
            (Input::Frame(_), _) => Err(Violation::OutOfTurn),
            // An answer of the node that a later turn of events has made pointless.
            _ => Ok(()),
        }
    }

    fn take_batches(&mut self, batches: List<SealedBatch, BATCHES_MAX>) -> Result<(), Violation> {
        if self.receiving >= WINDOW {
            return Err(Violation::Window);
        }
        if batches.is_empty() {
            return Err(Violation::OutOfTurn);
        }
        let count = batches.len() as u64;
        self.batches_max = self.batches_max.checked_sub(count).ok_or(Violation::Excess)?;
        self.batches_min = self.batches_min.saturating_sub(count);
        self.receiving += 1;
        self.report.received += 1;
        self.effects.push_back(Effect::Commit(batches.into_vec()));
        Ok(())
    }

    fn send_membership(&mut self) {
        let ids = self.sends_pending.pop_front().unwrap_or_default();
        self.effects.push_back(Effect::LoadMembership(ids));
    }

    /// Goes on to the summaries when both ends have each other's membership operations.
    fn membership_step(&mut self) -> Result<(), Violation> {
        if !self.ops_sent || !self.ops_received || self.commits_pending > 0 {
            return Ok(());
        }
        self.summarise();
        self.summary_early.take().map_or(Ok(()), |summary| self.compare(summary))
    }

    fn summarise(&mut self) {
        self.stage = Stage::Summary;
        if !self.summary_sent {
            self.send_summary();
        }
    }

    fn send_summary(&mut self) {
        self.summary_sent = true;
        let held = self.local.held.iter().map(|(author, (from, until))| (*author, *from, *until));
        self.effects.push_back(Effect::Send(Frame::Summary {
            vector: self.local.vector.clone(),
            held: List::truncated(held),
            tips: List::truncated(self.local.tips.iter().map(|(author, tip)| (*author, *tip))),
        }));
    }

    /// Takes the peer's summary, and has its logs compared with those here that are as long.
    fn compare(&mut self, Summary { vector, held, tips }: Summary) -> Result<(), Violation> {
        let counts = vector.iter().map(|(_, count)| *count).chain(held.iter().map(|(_, _, until)| *until));
        let impossible = |author: &Author| !author.is_possible();
        if counts.max().is_some_and(|count| count > SEQ_MAX)
            || held.iter().any(|(author, from, until)| from >= until || impossible(author))
            || vector.iter().any(|(author, _)| impossible(author))
        {
            return Err(Violation::Claim);
        }
        self.theirs = reach(&vector, held.into_vec());
        self.vouched = vector;
        self.stage = Stage::Diverged;
        let ours = self.local.reach();
        let differs = |(author, tip): &(Author, [u8; 32])| {
            let count = self.theirs.get(author);
            let same = count == ours.get(author) && self.local.tips.get(author).is_none_or(|here| here == tip);
            // A longer log of the peer's is compared by the peer.
            (count > 0 && count <= ours.get(author) && !same).then_some((*author, count, *tip))
        };
        let compared: Vec<_> = tips.iter().filter_map(differs).collect();
        if compared.is_empty() || is_planted(Plant::TipsAreIgnored) {
            self.compared(Vec::new());
        } else {
            self.effects.push_back(Effect::Compare(compared));
        }
        self.diverged_step()
    }

    /// Says which logs differ, and begins with what the peer lacks: it has compared none of the logs that are longer here.
    fn compared(&mut self, mut locators: Vec<Locator>) {
        locators.truncate(DIVERGED_MAX);
        self.effects.push_back(Effect::Send(Frame::Diverged(List::truncated(locators.clone()))));
        let differs = |author: &Author| locators.iter().any(|locator| locator.author == *author);
        let mut gaps = self.local.reach().missing_at(&self.theirs);
        gaps.retain(|gap| !differs(&gap.author));
        if is_planted(Plant::LastGapIsLeftOut) {
            gaps.pop();
        }
        // The youngest incarnation first: a restored device that is given its own logs skips all that it had begun.
        // What others were split from comes before them.
        gaps.sort_by_key(|gap| if gap.author.is_split() { (true, 0) } else { (false, !gap.author.incarnation) });
        self.gaps = gaps.into();
        self.diverged_here = Some(locators);
        self.send_batches();
    }

    /// Goes on when both ends have said which logs differ: finds what must come from the peer.
    fn diverged_step(&mut self) -> Result<(), Violation> {
        let (Some(here), Some(there)) = (&self.diverged_here, &self.diverged_there) else { return Ok(()) };
        self.diverged = here.iter().chain(there).map(|locator| locator.author).collect();
        for locator in here {
            // It shows the other history, from some point on.
            self.batches_max = self.batches_max.saturating_add(most(self.theirs.get(&locator.author)));
            self.batches_min = self.batches_min.saturating_add(1);
        }
        // What is only held here is sent too, so that it spreads while its author is away; the peer will hold it as well,
        // because this end's vector does not vouch for it.
        for gap in self.theirs.missing_at(&self.local.reach()) {
            if self.diverged.contains(&gap.author) {
                continue;
            }
            let ops = gap.until - gap.from;
            self.batches_max = self.batches_max.saturating_add(most(ops));
            // Where a split history begins is not known before its first batch.
            let least = if gap.author.is_split() && gap.from == 0 { 1 } else { ops.div_ceil(BATCH_OPS_MAX as u64) };
            self.batches_min = self.batches_min.saturating_add(least);
        }
        self.locating = !there.is_empty();
        if self.locating {
            self.effects.push_back(Effect::Locate(there.clone()));
        }
        self.stage = Stage::Batches;
        for batches in std::mem::take(&mut self.early) {
            self.take_batches(batches)?;
        }
        self.send_batches();
        Ok(())
    }

    /// Sends as many frames as the peer may be sent, and asks for more.
    fn send_batches(&mut self) {
        while self.unacknowledged < WINDOW
            && let Some(batches) = self.frames.pop_front()
        {
            self.report.sent += batches.len() as u64;
            self.unacknowledged += 1;
            self.effects.push_back(Effect::Send(Frame::Batches(List::truncated(batches))));
        }
        if self.loading || self.unacknowledged >= WINDOW || self.end_sent {
            return;
        }
        match self.gaps.front() {
            Some(gap) => {
                self.loading = true;
                self.effects.push_back(Effect::Load(*gap, LOAD_BYTES));
            }
            None if self.locating || self.stage != Stage::Batches => {}
            None => {
                self.end_sent = true;
                self.effects.push_back(Effect::Send(Frame::End { vector: self.local.vector.clone() }));
                self.end_step();
            }
        }
    }

    /// Packs what was loaded for the first gap into frames, and goes on behind it.
    fn loaded(&mut self, batches: Vec<SealedBatch>, next_seq: u64) {
        let Some(gap) = self.gaps.front_mut() else { return };
        // Nothing new there means that the log was cut back meanwhile: the next session finds out.
        if batches.is_empty() || next_seq <= gap.from {
            self.gaps.pop_front();
            return;
        }
        gap.from = next_seq;
        if gap.from >= gap.until {
            self.gaps.pop_front();
        }
        let (mut frame, mut bytes) = (Vec::new(), 0);
        for batch in batches {
            let len = batch.sealed.len() + BATCH_OVERHEAD_BYTES;
            if frame.len() == BATCHES_MAX || (bytes + len > BATCHES_BYTES_MAX && !frame.is_empty()) {
                self.frames.push_back(std::mem::take(&mut frame));
                bytes = 0;
            }
            frame.push(batch);
            bytes += len;
        }
        self.frames.push_back(frame);
    }

    fn end_step(&mut self) {
        let over = self.end_sent && self.end_received && self.receiving == 0 && self.unacknowledged == 0;
        if over && !self.accounting {
            self.accounting = true;
            let counts = self.vouched.iter().map(|(author, count)| (*author, *count));
            // What the peer vouches for is another history.
            let counts = counts.filter(|(author, _)| !self.diverged.contains(author)).collect();
            self.effects.push_back(Effect::Account(counts));
        }
    }

    fn finish(&mut self) {
        self.stage = Stage::Done;
        self.effects.push_back(Effect::Finished(self.report));
    }
}

#[cfg(test)]
mod tests;
