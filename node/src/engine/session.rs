//! Running a session of anti-entropy over a stream.

use crate::{
    catalog::{Applied, CatalogError, ReceiveError, Summary},
    network::{FrameError, FramedStream, ROOM_FRAMES, Received},
    node::{Node, log_keys, now},
};
use larder_protocol::{
    codec,
    id::DeviceId,
    log::{Author, SealedBatch},
    sync::{Effect, FRAME_BYTES_MAX, Frame, Input, Local, Session, UNANSWERED_BYTES_MAX},
    time::Now,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

// Beside the batches there is room for the few other frames.
const _: () = assert!(UNANSWERED_BYTES_MAX + (1 << 20) <= ROOM_FRAMES * FRAME_BYTES_MAX);
/// Frames that wait for the machine, within the stream's room; then the peer waits.
const FRAMES_MAX: usize = 64;
/// Sessions that a peer may have begun at once.
const INBOUND_MAX: u32 = 2;

/// Which sessions run.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    running: BTreeMap<DeviceId, Running>,
}

#[derive(Debug, Default)]
struct Running {
    count: u32,
    again: bool,
}

impl Sessions {
    /// Whether a session of our own may begin; when one runs, another one follows it.
    pub(super) fn begin(&mut self, device: DeviceId) -> bool {
        let running = self.running.entry(device).or_default();
        if running.count > 0 {
            running.again = true;
            return false;
        }
        running.count = 1;
        true
    }

    /// Whether a session that a peer begins is taken.
    pub(super) fn admit(&mut self, device: DeviceId) -> bool {
        let running = self.running.entry(device).or_default();
        let admitted = running.count < INBOUND_MAX;
        running.count += u32::from(admitted);
        admitted
    }

    /// A session has ended; whether another one shall follow.
    pub(super) fn end(&mut self, device: DeviceId) -> bool {
        let Some(running) = self.running.get_mut(&device) else { return false };
        running.count = running.count.saturating_sub(1);
        if running.count > 0 {
            return false;
        }
        let again = running.again;
        self.running.remove(&device);
        again
    }
}

/// What a session will most likely find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expects {
    /// That both ends have the same: as few bytes as can be.
    Nothing,
    /// That something is missing at one of the ends: as few round trips as can be.
    News,
}

/// Begins a session with a connected peer; whether it went well.
pub(super) async fn initiate(node: &Arc<Node>, device: DeviceId, expects: Expects) -> bool {
    match node.network.open_sync(device).await {
        Ok(stream) => carry_out(node, device, stream, expects).await,
        Err(error) => {
            tracing::debug!(%device, %error, "session cannot begin");
            false
        }
    }
}

/// Runs a session on a stream; whether it went well.
pub(super) async fn answer(node: &Arc<Node>, device: DeviceId, stream: FramedStream) -> bool {
    // Who opened it has said what is to be expected.
    carry_out(node, device, stream, Expects::Nothing).await
}

async fn carry_out(node: &Arc<Node>, device: DeviceId, stream: FramedStream, expects: Expects) -> bool {
    tokio::select! {
        result = run(node, device, stream, expects) => match result {
            Ok(()) => true,
            Err(error) => {
                tracing::info!(%device, %error, "session broke off");
                if error.is_fault() {
                    node.conduct.fault(&device, &error, Instant::now());
                }
                false
            }
        },
        () = node.stop.cancelled() => false,
    }
}

#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("frame: {0}")]
    Decode(#[from] codec::DecodeError),
    #[error("frame: {0}")]
    Encode(#[from] codec::EncodeError),
    #[error(transparent)]
    Catalog(#[from] crate::catalog::CatalogError),
    #[error(transparent)]
    Receive(#[from] ReceiveError),
    #[error(transparent)]
    Membership(#[from] crate::keys::KeyFileError),
    #[error(transparent)]
    Violation(#[from] larder_protocol::sync::Violation),
    #[error("the peer closed the stream")]
    Closed,
    #[error("the peer does not belong to the group any more")]
    Removed,
    #[error("the roles have changed meanwhile")]
    Roles,
    #[error("the peer may not read the catalog, and yet speaks of it")]
    Vault,
    #[error("the peer has said more than its daily quota")]
    Quota,
    #[error(transparent)]
    Task(#[from] tokio::task::JoinError),
}

impl SessionError {
    /// Whether no honest device in a sound network does that.
    fn is_fault(&self) -> bool {
        matches!(
            self,
            Self::Frame(FrameError::TooLong { .. })
                | Self::Decode(_)
                | Self::Receive(ReceiveError::Batch(_) | ReceiveError::Gap { .. } | ReceiveError::Unproven { .. })
                | Self::Violation(_)
                | Self::Vault
                | Self::Quota
        )
    }
}

/// Holds batches, except those of devices that have said more than their share. Blocks.
pub(super) fn hold(node: &Node, batches: Vec<SealedBatch>) -> Result<Applied, ReceiveError> {
    let own = node.device();
    let admit = |author: &Author, ops, bytes| {
        author.device == own || node.conduct.takes(&author.device, ops, bytes, Instant::now())
    };
    let applied = node.catalog.hold_if(batches, now(), admit)?;
    for fork in &applied.forks {
        // It comes again in every session: told once is enough.
        if node.conduct.fault(&fork.author.device, &"it signed two histories", Instant::now()) {
            tracing::warn!(device = %fork.author.device, seq = fork.seq, "a device signed two histories");
        }
    }
    Ok(applied)
}

fn clock(start: Instant) -> Now {
    Now { mono_ns: u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX), wall: now() }
}

/// Runs blocking work on the catalog.
async fn blocking<T: Send + 'static, E: Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, SessionError>
where
    SessionError: From<E>,
{
    Ok(tokio::task::spawn_blocking(work).await??)
}

async fn run(node: &Arc<Node>, device: DeviceId, stream: FramedStream, expects: Expects) -> Result<(), SessionError> {
    let start = Instant::now();
    let (mut reader, mut writer) = stream.split();
    let (frames, mut received) = mpsc::channel::<Result<Received, FrameError>>(FRAMES_MAX);
    let reading = tokio::spawn(async move {
        loop {
            let frame = match reader.next().await {
                Ok(Some(frame)) => Ok(frame),
                Ok(None) => return,
                Err(error) => Err(error),
            };
            let failed = frame.is_err();
            if frames.send(frame).await.is_err() || failed {
                return;
            }
        }
    });
    let _abort_reading = AbortOnDrop(reading);
    // With a vault only the membership log is compared: both ends say that they know nothing else.
    let shares_catalog = node.members.shares_catalog_with(&device);
    let catalog = node.catalog.clone();
    // Before anybody was asked how far this device's own log goes, what nobody knows of it is not told.
    let asked = node.asked.load(Ordering::SeqCst);
    let (summary, own) = if shares_catalog {
        let look = move || {
            let read = catalog.read()?;
            Ok::<_, CatalogError>((if asked { read.summary()? } else { read.summary_shared()? }, Some(read.own()?.0)))
        };
        blocking(look).await?
    } else {
        (Summary::default(), None)
    };
    let (membership, membership_hash, epoch) = node.members.summary();
    let mut own = own.map(|author| (author, summary.vector.get(&author)));
    let held = summary.held.into_iter().map(|(author, held)| (author, (held.start, held.end))).collect();
    let (vector, tips) = (summary.vector, summary.tips);
    let local = Local { group: node.group, epoch, vector, held, tips, membership, membership_hash };
    let mut session = Session::new(local);
    if expects == Expects::News {
        session = session.expecting_news();
    }
    session.start(clock(start));
    loop {
        while let Some(effect) = session.poll() {
            let input = match effect {
                Effect::Send(frame) => {
                    writer.send(&codec::encode(&frame)?).await?;
                    continue;
                }
                Effect::LoadMembership(ids) => Input::Membership(node.members.load(&ids)),
                Effect::CommitMembership(ops) => {
                    let members = node.members.clone();
                    blocking(move || members.insert(ops)).await?;
                    // What follows in this session may be sealed under an epoch that these operations have begun.
                    node.catalog.set_log_keys(log_keys(node.members.ring().as_deref()));
                    if node.members.role(&device).is_none() {
                        return Err(SessionError::Removed);
                    }
                    if node.members.shares_catalog_with(&device) != shares_catalog {
                        return Err(SessionError::Roles);
                    }
                    Input::MembershipCommitted
                }
                Effect::Load(gap, bytes_max) => {
                    let catalog = node.catalog.clone();
                    let (batches, next_seq) = blocking(move || catalog.read()?.load(&gap, bytes_max)).await?;
                    Input::Loaded { batches, next_seq }
                }
                Effect::Compare(logs) => {
                    let catalog = node.catalog.clone();
                    let differ = move || {
                        let read = catalog.read()?;
                        logs.iter()
                            .filter_map(|(author, count, tip)| read.diverged(author, *count, tip).transpose())
                            .collect()
                    };
                    Input::Compared(blocking(differ).await?)
                }
                Effect::Locate(locators) => {
                    let catalog = node.catalog.clone();
                    let locate = move || {
                        let read = catalog.read()?;
                        locators.iter().filter_map(|locator| read.locate(locator).transpose()).collect()
                    };
                    Input::Located(blocking(locate).await?)
                }
                Effect::Commit(_) if !shares_catalog => return Err(SessionError::Vault),
                Effect::Commit(batches) => {
                    let holder = node.clone();
                    let applied = blocking(move || hold(&holder, batches)).await?;
                    if applied.begun.is_some() {
                        own = None;
                    }
                    // Who brings what others said is not to blame for it.
                    if applied.refused.contains(&device) {
                        return Err(SessionError::Quota);
                    }
                    Input::Committed
                }
                Effect::Account(counts) => {
                    let catalog = node.catalog.clone();
                    blocking(move || catalog.account(counts)).await?;
                    Input::Accounted
                }
                Effect::Finished(report) => {
                    // The peer has now what this device had said when the session began.
                    if let Some((author, count)) = own {
                        node.catalog.note_shared(author, count)?;
                    }
                    if shares_catalog {
                        node.asked.store(true, Ordering::SeqCst);
                    }
                    tracing::debug!(%device, ?report, "session done");
                    writer.close().await?;
                    return Ok(());
                }
                Effect::Failed(violation) => return Err(violation.into()),
            };
            session.handle(clock(start), input);
        }
        let wait = session
            .next_wakeup()
            .map_or(Duration::from_secs(60), |at| Duration::from_nanos(at.saturating_sub(clock(start).mono_ns)));
        match tokio::time::timeout(wait, received.recv()).await {
            Ok(Some(_)) if node.members.role(&device).is_none() => return Err(SessionError::Removed),
            Ok(Some(frame)) => {
                // Its bytes go before what is in it is handled.
                let frame = Frame::read(frame?.as_ref())?;
                let input = frame.map_or(Input::UnknownFrame, Input::Frame);
                session.handle(clock(start), input);
            }
            Ok(None) => return Err(SessionError::Closed),
            Err(_) => session.handle(clock(start), Input::Tick),
        }
    }
}

/// Ends a task with its owner.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
