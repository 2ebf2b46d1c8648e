//! The one writer: requests that wait together are made durable by one commit.
//!
//! A lone request is not delayed; while a commit runs, others gather and form the next one.

use super::{
    AppendError, Appended, Applied, CatalogError, Commit, Compacted, Compaction, LocalWrite, Permits, ReceiveError,
    commit::{Body, Core, Received, Stage},
    forks::Taken,
    healing::Healing,
    read::Plan,
};
use larder_protocol::{
    log::Author,
    planted::{Plant, is_planted},
    time::Timestamp,
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, SyncSender},
    },
};

/// Requests that may wait for the writer; more callers block until there is room.
pub(super) const REQUESTS_MAX: usize = 256;
/// A commit takes no further request once it has this many operations.
const COMMIT_OPS: usize = 1_000;

pub(super) type Reply<T> = SyncSender<T>;
/// Told after every commit, on the writer's thread.
pub(super) type Subscriber = Box<dyn Fn(&Commit) + Send>;

pub(super) enum Request {
    Append {
        bodies: Vec<Body>,
        local: Vec<LocalWrite>,
        now: Timestamp,
        reply: Reply<Result<Appended, AppendError>>,
    },
    Receive {
        received: Vec<Received>,
        accounted: bool,
        now: Timestamp,
        reply: Reply<Result<Applied, ReceiveError>>,
    },
    Account {
        counts: BTreeMap<Author, u64>,
        reply: Reply<Result<(), CatalogError>>,
    },
    Release {
        now: Timestamp,
        reply: Reply<Result<(), CatalogError>>,
    },
    Permits {
        permits: Arc<dyn Permits>,
        now: Timestamp,
        reply: Reply<Result<bool, CatalogError>>,
    },
    /// As `Receive`, of batches that were found to need an own commit each.
    Care {
        received: Vec<Received>,
        accounted: bool,
        now: Timestamp,
        reply: Reply<Result<Applied, ReceiveError>>,
    },
    Shared {
        author: Author,
        count: u64,
    },
    CompactLocal {
        reply: Reply<Result<u64, CatalogError>>,
    },
    Compact {
        plan: Option<Plan>,
        limits: Compaction,
        now: Timestamp,
        reply: Reply<Result<Compacted, CatalogError>>,
    },
}

impl Request {
    /// What time it is, if the request says so.
    fn now(&self) -> Option<Timestamp> {
        match self {
            Self::Append { now, .. }
            | Self::Receive { now, .. }
            | Self::Release { now, .. }
            | Self::Permits { now, .. }
            | Self::Compact { now, .. }
            | Self::Care { now, .. } => Some(*now),
            Self::Account { .. } | Self::Shared { .. } | Self::CompactLocal { .. } => None,
        }
    }
}

/// What a request is told once its commit is durable, or has failed.
type Answer = Box<dyn FnOnce(Option<CatalogError>)>;

fn answer<T: 'static, E: From<CatalogError> + 'static>(reply: Reply<Result<T, E>>, value: T) -> Answer {
    Box::new(move |failed| {
        // A caller that no longer listens has no use for the answer.
        let _ = reply.send(match failed {
            None => Ok(value),
            Some(error) => Err(E::from(error)),
        });
    })
}

/// The next request; a catalog that cannot be written is tried again while there is none.
fn receive(requests: &Receiver<Request>, core: &mut Core, healing: &mut Healing) -> Option<Request> {
    loop {
        match healing.wait(core) {
            None => return requests.recv().ok(),
            Some(wait) => match requests.recv_timeout(wait) {
                Ok(request) => return Some(request),
                Err(RecvTimeoutError::Timeout) => healing.attempt(core, false),
                Err(RecvTimeoutError::Disconnected) => return None,
            },
        }
    }
}

pub(super) fn run(
    mut core: Core,
    requests: Receiver<Request>,
    subscribers: Arc<Mutex<Vec<Subscriber>>>,
    now: Timestamp,
) {
    let mut healing = Healing::new(now);
    let mut next = receive(&requests, &mut core, &mut healing);
    while let Some(request) = next.take() {
        if let Some(now) = request.now() {
            healing.at(now);
        }
        healing.attempt(&mut core, true);
        match request {
            Request::Permits { permits, now, reply } => {
                let result = core.set_permits(permits, now).inspect_err(|error| healing.failed(&core, error));
                let changed = result.as_ref().is_ok_and(|changed| *changed);
                if changed {
                    tell(&subscribers, &Commit::default());
                }
                let _ = reply.send(result);
            }
            Request::Care { received, accounted, now, reply } => {
                let (answer, commits) = core.receive_with_care(received, accounted, now);
                if let Err(ReceiveError::Catalog(error)) = &answer {
                    healing.failed(&core, error);
                }
                commits.iter().for_each(|commit| tell(&subscribers, commit));
                let _ = reply.send(answer);
            }
            Request::Shared { author, count } => {
                if author == core.own {
                    let stored = core.authors.find(&author).map_or(0, |number| core.authors.row(number).stored);
                    core.own_shared = core.own_shared.max(count.min(stored));
                }
            }
            Request::CompactLocal { reply } => {
                let result = core.compact_local().inspect_err(|error| healing.failed(&core, error));
                let _ = reply.send(result);
            }
            Request::Compact { plan, limits, now, reply } => {
                let mut commits = Vec::new();
                let result = core.compact_logs(plan, &limits, now, &mut commits);
                let result = result.inspect_err(|error| healing.failed(&core, error));
                commits.iter().for_each(|commit| tell(&subscribers, commit));
                let _ = reply.send(result);
            }
            request => {
                let mut stage = Stage::new(&core);
                let mut answers = Vec::new();
                next = stage_request(&core, &mut stage, &mut answers, request);
                while next.is_none() && stage.ops < COMMIT_OPS {
                    match requests.try_recv() {
                        Ok(
                            request @ (Request::Permits { .. }
                            | Request::Care { .. }
                            | Request::CompactLocal { .. }
                            | Request::Compact { .. }
                            | Request::Shared { .. }),
                        ) => {
                            next = Some(request);
                        }
                        Ok(request) => next = stage_request(&core, &mut stage, &mut answers, request),
                        Err(_) => break,
                    }
                }
                if is_planted(Plant::AnswersBeforeSync) {
                    answers.drain(..).for_each(|answer| answer(None));
                }
                let result = core.commit(stage);
                if let Err(error) = &result {
                    tracing::warn!(%error, "catalog commit failed");
                    healing.failed(&core, error);
                }
                let failed = result.as_ref().err().cloned();
                // Subscribers first, so that whoever gets an answer knows that they have heard.
                if let Ok(Some(commit)) = result {
                    tell(&subscribers, &commit);
                }
                for answer in answers {
                    answer(failed.clone());
                }
            }
        }
        if next.is_none() {
            next = receive(&requests, &mut core, &mut healing);
        }
    }
}

fn tell(subscribers: &Mutex<Vec<Subscriber>>, commit: &Commit) {
    for subscriber in subscribers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        subscriber(commit);
    }
}

/// Stages a request; gives what cannot be staged with others.
fn stage_request(core: &Core, stage: &mut Stage, answers: &mut Vec<Answer>, request: Request) -> Option<Request> {
    match request {
        Request::Append { bodies, local, now, reply } => {
            match stage.own(&core.shared.identity(), &core.own, bodies, now) {
                Ok(appended) => {
                    stage.local(local);
                    answers.push(answer(reply, appended));
                }
                Err(error) => drop(reply.send(Err(error.into()))),
            }
        }
        Request::Receive { received, accounted, now, reply } => match stage.foreign(core, received, accounted, now) {
            Ok(Taken::All(applied)) => answers.push(answer(reply, applied)),
            Ok(Taken::Care(received, _)) => return Some(Request::Care { received, accounted, now, reply }),
            Err(error) => drop(reply.send(Err(error))),
        },
        Request::Account { counts, reply } => {
            stage.account(&counts);
            answers.push(answer(reply, ()));
        }
        Request::Release { now, reply } => {
            stage.at(now);
            answers.push(answer(reply, ()));
        }
        Request::Permits { .. }
        | Request::Care { .. }
        | Request::CompactLocal { .. }
        | Request::Compact { .. }
        | Request::Shared { .. } => {
            unreachable!("these are never staged with others")
        }
    }
    None
}
