//! The inviting side.

use super::{
    ALPN, ALPN_WORDS, COMPARE_TIME_MAX, DEADLINE, KEEP_ALIVE,
    wire::{self, SMALL_BYTES_MAX},
};
use crate::keys::{DeviceKeys, random, tls};
use larder_protocol::{
    id::{DeviceId, GroupId, InviteId},
    membership::{Enrolment, MembershipLog, Role},
    pairing::{
        CodeInvite, Contact, Invite, InviterHandshake, InviterStep, InviterWordsStep, Message, Refusal, WordsInviter,
        WordsMessage,
    },
    record::Name,
    time::Timestamp,
};
use quinn::{
    Connection, Endpoint, Incoming, RecvStream, SendStream, ServerConfig, TransportConfig, VarInt,
    crypto::rustls::{HandshakeData, QuicServerConfig},
};
use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    sync::{Semaphore, oneshot},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Handshakes at once.
const HANDSHAKES_MAX: usize = 8;
/// Handshakes in a minute that let nobody in.
const ATTEMPTS_PER_MINUTE_MAX: usize = 20;
const MINUTE: Duration = Duration::from_secs(60);

/// What the node does for the host. Calls may block.
pub trait Inviter: Send + Sync + 'static {
    /// An invite by its public id.
    fn find(&self, id: &InviteId) -> Option<Invite>;

    /// Keeps an invite durably.
    ///
    /// # Errors
    /// When it is not durable; then nobody is admitted.
    fn save(&self, invite: &Invite) -> io::Result<()>;

    /// Admits a device durably, or finds that it is a member already; gives what to welcome it with.
    ///
    /// # Errors
    /// When the admission is not durable.
    fn admit(&self, enrolment: Enrolment, name: Name, role: Role) -> io::Result<Admission>;

    /// A short code by its number.
    fn find_code(&self, number: u8) -> Option<CodeInvite>;

    /// Keeps a short code durably.
    ///
    /// # Errors
    /// When it is not durable; then nobody learns whether it was right.
    fn save_code(&self, code: &CodeInvite) -> io::Result<()>;

    /// Shows the four words to the person here, who says whether those at the joiner are the same. Nobody there means no.
    fn compare(&self, number: u8, joiner: DeviceId, words: String) -> oneshot::Receiver<bool>;

    /// Somebody was turned away.
    fn refused(&self, why: &str);

    /// The time.
    fn now(&self) -> Timestamp;
}

/// What a new member is welcomed with.
#[derive(Debug)]
pub struct Admission {
    /// The membership log, with the admission.
    pub log: MembershipLog,
    /// Where the group's devices are.
    pub contacts: Vec<Contact>,
}

/// The endpoint for joiners; bound while an invite may be used.
pub struct Host {
    keys: DeviceKeys,
    group: GroupId,
    inviter: Arc<dyn Inviter>,
    bound: Mutex<Option<Bound>>,
    /// One joiner at a time, from looking an invite up to keeping what became of it: two at once would both find it open,
    /// and wrong proofs at once would count as one.
    judging: Mutex<()>,
}

struct Bound {
    endpoint: Endpoint,
    until: Timestamp,
    stop: CancellationToken,
}

impl Host {
    /// A host without an endpoint.
    pub fn new(keys: DeviceKeys, group: GroupId, inviter: Arc<dyn Inviter>) -> Arc<Self> {
        Arc::new(Self { keys, group, inviter, bound: Mutex::new(None), judging: Mutex::new(()) })
    }

    /// Makes sure that the endpoint stands until then, and gives its port: `wanted` if it is free. Must be called inside a
    /// tokio runtime.
    ///
    /// # Errors
    /// When no port can be bound.
    pub fn open(self: &Arc<Self>, host: IpAddr, wanted: u16, until: Timestamp) -> io::Result<u16> {
        let mut bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bound) = &mut *bound {
            bound.until = bound.until.max(until);
            return Ok(bound.endpoint.local_addr()?.port());
        }
        let mut tls = tls::server(self.keys.signing(), ALPN).map_err(io::Error::other)?;
        tls.alpn_protocols.push(ALPN_WORDS.to_vec());
        let crypto = QuicServerConfig::try_from(tls).map_err(io::Error::other)?;
        let mut transport = TransportConfig::default();
        transport
            .max_concurrent_bidi_streams(VarInt::from_u32(1))
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .keep_alive_interval(Some(KEEP_ALIVE))
            .datagram_receive_buffer_size(None);
        let mut config = ServerConfig::with_crypto(Arc::new(crypto));
        config.transport_config(Arc::new(transport)).max_incoming(HANDSHAKES_MAX);
        let endpoint = Endpoint::server(config.clone(), SocketAddr::new(host, wanted))
            .or_else(|_| Endpoint::server(config, SocketAddr::new(host, 0)))?;
        let port = endpoint.local_addr()?.port();
        let stop = CancellationToken::new();
        tokio::spawn(self.clone().serve(endpoint.clone(), stop.clone()));
        *bound = Some(Bound { endpoint, until, stop });
        Ok(port)
    }

    /// Closes the endpoint to those who come now. Who is there hears its answer first, for at most [`DEADLINE`].
    pub fn close(&self) {
        if let Some(bound) = self.bound.lock().unwrap_or_else(PoisonError::into_inner).take() {
            bound.stop.cancel();
        }
    }

    /// Closes the endpoint to everybody at once.
    pub fn close_now(&self) {
        if let Some(bound) = self.bound.lock().unwrap_or_else(PoisonError::into_inner).take() {
            bound.stop.cancel();
            bound.endpoint.close(VarInt::from_u32(0), b"closing");
        }
    }

    /// Whether the endpoint stands.
    pub fn is_open(&self) -> bool {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Time until the last invite's end; none when it has come.
    fn time_left(&self) -> Option<Duration> {
        let bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
        let left = bound.as_ref()?.until.as_millis().checked_sub(self.inviter.now().as_millis())?;
        u64::try_from(left).ok().filter(|left| *left > 0).map(Duration::from_millis)
    }

    async fn serve(self: Arc<Self>, endpoint: Endpoint, stop: CancellationToken) {
        let places = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        self.accept(&endpoint, &stop, &places).await;
        endpoint.set_server_config(None);
        let all = u32::try_from(HANDSHAKES_MAX).unwrap_or(u32::MAX);
        let _ = timeout(DEADLINE, places.acquire_many(all)).await;
        endpoint.close(VarInt::from_u32(0), b"closing");
    }

    /// Lets joiners in until the endpoint shall close.
    async fn accept(self: &Arc<Self>, endpoint: &Endpoint, stop: &CancellationToken, places: &Arc<Semaphore>) {
        let attempts = Arc::new(Attempts::default());
        loop {
            let Some(left) = self.time_left() else {
                self.close();
                return;
            };
            let incoming = tokio::select! {
                incoming = endpoint.accept() => incoming,
                () = tokio::time::sleep(left.min(MINUTE)) => continue,
                () = stop.cancelled() => return,
            };
            let Some(incoming) = incoming else { return };
            let Ok(place) = places.clone().try_acquire_owned() else {
                incoming.refuse();
                continue;
            };
            let begun = Instant::now();
            let busy = !attempts.begin(begun);
            let (this, attempts) = (self.clone(), attempts.clone());
            tokio::spawn(async move {
                let _place = place;
                match this.handshake(incoming, busy).await {
                    Ok(End::Admitted) => attempts.forget(begun),
                    Ok(End::Refused) => {}
                    Err(error) => this.inviter.refused(&error.to_string()),
                }
            });
        }
    }

    /// Does something to the invites while nobody is judged, so that neither overwrites what the other has kept. Blocks.
    pub fn undisturbed<T>(&self, work: impl FnOnce() -> T) -> T {
        let _one_at_a_time = self.judging.lock().unwrap_or_else(PoisonError::into_inner);
        work()
    }

    /// Whether nobody is judged, and nothing done [undisturbed](Self::undisturbed).
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.judging.try_lock().is_ok()
    }

    /// Handles a message and makes what it did to the invite durable. Blocks.
    fn judge(
        &self,
        machine: &mut InviterHandshake,
        message: Message,
        of_words: Option<&Invite>,
    ) -> io::Result<InviterStep> {
        self.undisturbed(|| {
            // A stream that began with a short code has an invite of its own, whose code is durably used by now.
            let find = |id: &InviteId| match of_words {
                Some(invite) => Some(invite.clone()).filter(|invite| invite.id() == *id),
                None => self.inviter.find(id),
            };
            let step = machine.handle(message, self.inviter.now(), find).map_err(io::Error::other)?;
            match &step {
                InviterStep::Refuse { changed: Some(kept), .. } | InviterStep::Admit { burnt: kept, .. }
                    if of_words.is_none() =>
                {
                    self.inviter.save(kept)?;
                }
                InviterStep::Refuse { .. } | InviterStep::Admit { .. } | InviterStep::Send(_) => {}
            }
            Ok(step)
        })
    }

    /// The same for a message of the key exchange.
    fn judge_words(&self, machine: &mut WordsInviter, message: WordsMessage) -> io::Result<InviterWordsStep> {
        self.undisturbed(|| {
            let find = |number| self.inviter.find_code(number);
            let step = machine.handle(message, self.inviter.now(), find).map_err(io::Error::other)?;
            match &step {
                InviterWordsStep::Refuse { changed: Some(kept), .. }
                | InviterWordsStep::Confirmed { used: kept, .. } => {
                    self.inviter.save_code(kept)?;
                }
                InviterWordsStep::Refuse { changed: None, .. } | InviterWordsStep::Send(_) => {}
            }
            Ok(step)
        })
    }

    /// Exchanges keys by a short code, and waits until the person here has compared the four words. Gives the invite with
    /// which the handshake goes on; `None` when the joiner was refused.
    async fn exchange(
        &self,
        connection: &Connection,
        joiner: DeviceId,
        send: &mut SendStream,
        receive: &mut RecvStream,
    ) -> io::Result<Option<Invite>> {
        let exporter = wire::exporter(connection)?;
        let randomness = [random(), random()];
        let mut machine = WordsInviter::new(self.group, self.keys.device(), joiner, exporter, randomness);
        let exchanged = timeout(DEADLINE, async {
            loop {
                let message = wire::receive(receive, SMALL_BYTES_MAX).await?;
                match tokio::task::block_in_place(|| self.judge_words(&mut machine, message))? {
                    InviterWordsStep::Send(message) => wire::send(send, &message).await?,
                    InviterWordsStep::Refuse { message, .. } => {
                        if let WordsMessage::Refuse(refusal) = &message {
                            self.inviter.refused(&refusal.to_string());
                        }
                        wire::send(send, &message).await?;
                        return Ok(None);
                    }
                    InviterWordsStep::Confirmed { used, message, paired } => {
                        wire::send(send, &message).await?;
                        return Ok::<_, io::Error>(Some((used, paired)));
                    }
                }
            }
        });
        let Some((code, paired)) = exchanged.await?? else { return Ok(None) };
        let answer = self.inviter.compare(code.number, joiner, paired.check_words());
        let same = tokio::select! {
            answer = timeout(COMPARE_TIME_MAX, answer) => matches!(answer, Ok(Ok(true))),
            error = connection.closed() => return Err(error.into()),
        };
        if same {
            return Ok(Some(paired.invite(&code)));
        }
        self.inviter.refused("the words were not said to be the same");
        wire::send(send, &Message::Refuse(Refusal::Revoked)).await?;
        Ok(None)
    }

    async fn handshake(&self, incoming: Incoming, busy: bool) -> io::Result<End> {
        let (connection, (mut send, mut receive)) = timeout(DEADLINE, async {
            let connection = incoming.await?;
            let streams = connection.accept_bi().await?;
            Ok::<_, io::Error>((connection, streams))
        })
        .await??;
        let joiner = wire::device(&connection)?;
        let protocol = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok()?.protocol);
        let by_words = protocol.as_deref() == Some(ALPN_WORDS);
        if busy {
            if by_words {
                wire::send(&mut send, &WordsMessage::Refuse(Refusal::Busy)).await?;
            } else {
                wire::send(&mut send, &Message::Refuse(Refusal::Busy)).await?;
            }
            return finish(&mut send, End::Refused).await;
        }
        let mut of_words = None;
        if by_words {
            of_words = self.exchange(&connection, joiner, &mut send, &mut receive).await?;
            if of_words.is_none() {
                return finish(&mut send, End::Refused).await;
            }
        }
        // The joiner's person may still be comparing.
        let patience = if by_words { COMPARE_TIME_MAX } else { DEADLINE };
        let mut message = timeout(patience, wire::receive(&mut receive, SMALL_BYTES_MAX)).await??;
        let mut machine =
            InviterHandshake::new(self.group, self.keys.device(), joiner, wire::exporter(&connection)?, random());
        timeout(DEADLINE, async {
            loop {
                match tokio::task::block_in_place(|| self.judge(&mut machine, message, of_words.as_ref()))? {
                    InviterStep::Send(message) => wire::send(&mut send, &message).await?,
                    InviterStep::Refuse { message, .. } => {
                        if let Message::Refuse(refusal) = &message {
                            self.inviter.refused(&refusal.to_string());
                        }
                        wire::send(&mut send, &message).await?;
                        return finish(&mut send, End::Refused).await;
                    }
                    InviterStep::Admit { enrolment, name, role, .. } => {
                        // The invite is burnt for good by now: a crash in between costs a new invite and can never let
                        // two devices in.
                        let admission = tokio::task::block_in_place(|| self.inviter.admit(enrolment, name, role))?;
                        let welcome = machine.welcome(&admission.log, admission.contacts).map_err(io::Error::other)?;
                        wire::send(&mut send, &welcome).await?;
                        return finish(&mut send, End::Admitted).await;
                    }
                }
                message = wire::receive(&mut receive, SMALL_BYTES_MAX).await?;
            }
        })
        .await?
    }
}

/// What came of a handshake.
enum End {
    Admitted,
    Refused,
}

/// The handshakes of the last minute; whoever was let in does not count, so that a person may add many devices at once.
#[derive(Default)]
struct Attempts(Mutex<VecDeque<Instant>>);

impl Attempts {
    /// Counts one that begins now, and says whether there is room for it.
    fn begin(&self, now: Instant) -> bool {
        let mut begun = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while begun.front().is_some_and(|at| now.duration_since(*at) > MINUTE) {
            begun.pop_front();
        }
        let room = begun.len() < ATTEMPTS_PER_MINUTE_MAX;
        if room {
            begun.push_back(now);
        }
        room
    }

    /// Takes one back that let a device in.
    fn forget(&self, begun: Instant) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = all.iter().position(|at| *at == begun) {
            all.remove(index);
        }
    }
}

/// Ends the stream and waits until the joiner has it all.
async fn finish(send: &mut SendStream, end: End) -> io::Result<End> {
    send.finish().map_err(io::Error::other)?;
    let _ = send.stopped().await;
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_strangers_a_minute_and_members_do_not_count() {
        let (attempts, start) = (Attempts::default(), Instant::now());
        let at = |millis: usize| start + Duration::from_millis(millis as u64);
        for number in 0..10 * ATTEMPTS_PER_MINUTE_MAX {
            assert!(attempts.begin(at(number)));
            attempts.forget(at(number));
        }
        let base = 10 * ATTEMPTS_PER_MINUTE_MAX;
        for number in 0..ATTEMPTS_PER_MINUTE_MAX {
            assert!(attempts.begin(at(base + number)));
        }
        assert!(!attempts.begin(at(2 * base)));
        assert!(attempts.begin(at(base) + MINUTE + Duration::from_millis(1)), "the first is a minute ago");
        assert!(!attempts.begin(at(base) + MINUTE + Duration::from_millis(1)));
    }
}
