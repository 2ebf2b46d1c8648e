//! The inviting side.

use super::{
    ALPN, DEADLINE,
    wire::{self, SMALL_BYTES_MAX},
};
use crate::keys::{DeviceKeys, random, tls};
use larder_protocol::{
    id::{GroupId, InviteId},
    membership::{Enrolment, MembershipLog, Role},
    pairing::{Contact, Invite, InviterHandshake, InviterStep, Message, Refusal},
    record::Name,
    time::Timestamp,
};
use quinn::{
    Endpoint, Incoming, ServerConfig, TransportConfig, VarInt, crypto::rustls::QuicServerConfig,
    rustls::pki_types::CertificateDer,
};
use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{sync::Semaphore, time::timeout};
use tokio_util::sync::CancellationToken;

/// Handshakes at once.
const HANDSHAKES_MAX: usize = 8;
/// Handshakes in a minute.
const ATTEMPTS_PER_MINUTE_MAX: usize = 20;

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

    /// Makes sure that the endpoint stands until then, and gives its port. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When no port can be bound.
    pub fn open(self: &Arc<Self>, host: IpAddr, until: Timestamp) -> io::Result<u16> {
        let mut bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bound) = &mut *bound {
            bound.until = bound.until.max(until);
            return Ok(bound.endpoint.local_addr()?.port());
        }
        let tls = tls::server(self.keys.signing(), ALPN).map_err(io::Error::other)?;
        let crypto = QuicServerConfig::try_from(tls).map_err(io::Error::other)?;
        let mut transport = TransportConfig::default();
        transport
            .max_concurrent_bidi_streams(VarInt::from_u32(1))
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .datagram_receive_buffer_size(None);
        let mut config = ServerConfig::with_crypto(Arc::new(crypto));
        config.transport_config(Arc::new(transport)).max_incoming(HANDSHAKES_MAX);
        let endpoint = Endpoint::server(config, SocketAddr::new(host, 0))?;
        let port = endpoint.local_addr()?.port();
        let stop = CancellationToken::new();
        tokio::spawn(self.clone().serve(endpoint.clone(), stop.clone()));
        *bound = Some(Bound { endpoint, until, stop });
        Ok(port)
    }

    /// Closes the endpoint.
    pub fn close(&self) {
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
        let mut attempts: VecDeque<Instant> = VecDeque::new();
        loop {
            let Some(left) = self.time_left() else {
                self.close();
                return;
            };
            let incoming = tokio::select! {
                incoming = endpoint.accept() => incoming,
                () = tokio::time::sleep(left.min(Duration::from_secs(60))) => continue,
                () = stop.cancelled() => return,
            };
            let Some(incoming) = incoming else { return };
            let now = Instant::now();
            while attempts.front().is_some_and(|at| now.duration_since(*at) > Duration::from_secs(60)) {
                attempts.pop_front();
            }
            let Ok(place) = places.clone().try_acquire_owned() else {
                incoming.refuse();
                continue;
            };
            let busy = attempts.len() >= ATTEMPTS_PER_MINUTE_MAX;
            attempts.push_back(now);
            let this = self.clone();
            tokio::spawn(async move {
                let _place = place;
                match timeout(DEADLINE, this.handshake(incoming, busy)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => this.inviter.refused(&error.to_string()),
                    Err(_) => this.inviter.refused("too slow"),
                }
            });
        }
    }

    /// Handles a message and makes what it did to the invite durable. Blocks.
    fn judge(&self, machine: &mut InviterHandshake, message: Message) -> io::Result<InviterStep> {
        let _one_at_a_time = self.judging.lock().unwrap_or_else(PoisonError::into_inner);
        let step = machine.handle(message, self.inviter.now(), |id| self.inviter.find(id)).map_err(io::Error::other)?;
        match &step {
            InviterStep::Refuse { changed: Some(changed), .. } => self.inviter.save(changed)?,
            InviterStep::Admit { burnt, .. } => self.inviter.save(burnt)?,
            InviterStep::Refuse { changed: None, .. } | InviterStep::Send(_) => {}
        }
        Ok(step)
    }

    async fn handshake(&self, incoming: Incoming, busy: bool) -> io::Result<()> {
        let connection = incoming.await?;
        let identity = connection.peer_identity().ok_or(io::ErrorKind::PermissionDenied)?;
        let chain = identity.downcast::<Vec<CertificateDer<'static>>>().map_err(|_| io::ErrorKind::PermissionDenied)?;
        let joiner = tls::device_of(&chain).map_err(io::Error::other)?;
        let exporter = wire::exporter(&connection)?;
        let mut machine = InviterHandshake::new(self.group, self.keys.device(), joiner, exporter, random());
        let (mut send, mut receive) = connection.accept_bi().await?;
        if busy {
            wire::send(&mut send, &Message::Refuse(Refusal::Busy)).await?;
            return finish(&mut send).await;
        }
        loop {
            let message = wire::receive(&mut receive, SMALL_BYTES_MAX).await?;
            let inviter = self.inviter.clone();
            match tokio::task::block_in_place(|| self.judge(&mut machine, message))? {
                InviterStep::Send(message) => wire::send(&mut send, &message).await?,
                InviterStep::Refuse { message, .. } => {
                    if let Message::Refuse(refusal) = &message {
                        inviter.refused(&refusal.to_string());
                    }
                    wire::send(&mut send, &message).await?;
                    return finish(&mut send).await;
                }
                InviterStep::Admit { enrolment, name, role, .. } => {
                    // The invite is burnt for good by now: a crash in between costs a new invite and can never let two
                    // devices in.
                    let admission = tokio::task::block_in_place(|| inviter.admit(enrolment, name, role))?;
                    let welcome = machine.welcome(&admission.log, admission.contacts).map_err(io::Error::other)?;
                    wire::send(&mut send, &welcome).await?;
                    return finish(&mut send).await;
                }
            }
        }
    }
}

/// Ends the stream and waits until the joiner has it all.
async fn finish(send: &mut quinn::SendStream) -> io::Result<()> {
    send.finish().map_err(io::Error::other)?;
    let _ = send.stopped().await;
    Ok(())
}
