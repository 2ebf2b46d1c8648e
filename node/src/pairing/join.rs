//! The joining side.

use super::{ALPN, ALPN_WORDS, COMPARE_TIME_MAX, DEADLINE, KEEP_ALIVE, wire};
use crate::keys::{DeviceKeys, random, tls};
use larder_protocol::{
    codec::Wire,
    id::DeviceId,
    membership::MembershipLog,
    pairing::{
        Code, Contact, HandshakeError, JoinerHandshake, JoinerStep, JoinerWordsStep, Paired, Refusal, Ticket,
        TicketError, WordsError, WordsJoiner, WordsMessage,
    },
    record::Name,
    time::Timestamp,
};
use quinn::{ClientConfig, Connection, Endpoint, TransportConfig, crypto::rustls::QuicClientConfig};
use std::{
    collections::BTreeSet,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::timeout;

/// How long one address may be silent.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(4);

/// Why joining failed. Nothing has changed on this device.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The text is no ticket.
    #[error(transparent)]
    Ticket(#[from] TicketError),
    /// The inviter refused.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// No address of the ticket answers.
    #[error("no address answers: {0}")]
    Unreachable(String),
    /// Who answers is not the inviter, or the welcome does not hold together.
    #[error("{0}")]
    Handshake(HandshakeError),
    /// The person here says that the two screens show different words.
    #[error("the words differ")]
    WordsDiffer,
    /// This device cannot take part.
    #[error("{0}")]
    Setup(String),
}

/// What joining brought.
#[derive(Debug)]
pub struct Joined {
    /// The membership log; it admits this device.
    pub log: MembershipLog,
    /// Where the group's devices are.
    pub contacts: Vec<Contact>,
}

/// Joins with a ticket, trying its addresses in turn.
///
/// # Errors
/// [`JoinError`] says why not.
pub async fn join(ticket: &Ticket, keys: &DeviceKeys, name: Name, now: Timestamp) -> Result<Joined, JoinError> {
    let start = Instant::now();
    let mut failures = Vec::new();
    for address in ticket.addresses.iter() {
        match timeout(DEADLINE, attempt(ticket, keys, &name, *address)).await {
            Ok(Ok(joined)) => return Ok(joined),
            Ok(Err(Attempt::Final(error))) => return Err(error),
            Ok(Err(Attempt::Next(error))) => failures.push(format!("{address}: {error}")),
            Err(_) => failures.push(format!("{address}: no answer in time")),
        }
    }
    // The endpoint goes with the invite's time, so a silent address and a time that is over mean an expired code.
    let now = now.plus_millis(i64::try_from(start.elapsed().as_millis()).unwrap_or(i64::MAX));
    if ticket.is_over(now) {
        Err(JoinError::Refused(Refusal::Expired))
    } else {
        Err(JoinError::Unreachable(failures.join("; ")))
    }
}

enum Attempt {
    /// Another address may do better.
    Next(io::Error),
    /// The inviter has spoken.
    Final(JoinError),
}

impl From<io::Error> for Attempt {
    fn from(error: io::Error) -> Self {
        Self::Next(error)
    }
}

/// A stream to an inviter.
struct Line {
    endpoint: Endpoint,
    connection: Connection,
    send: quinn::SendStream,
    receive: quinn::RecvStream,
}

impl Line {
    async fn open(
        keys: &DeviceKeys,
        expected: Option<DeviceId>,
        alpn: &[u8],
        address: SocketAddr,
    ) -> Result<Self, Attempt> {
        let setup = |error: &dyn std::fmt::Display| Attempt::Final(JoinError::Setup(error.to_string()));
        let tls = tls::client(keys.signing(), expected, alpn).map_err(|error| setup(&error))?;
        let crypto = QuicClientConfig::try_from(tls).map_err(|error| setup(&error))?;
        let mut config = ClientConfig::new(Arc::new(crypto));
        let mut transport = TransportConfig::default();
        transport.keep_alive_interval(Some(KEEP_ALIVE));
        config.transport_config(Arc::new(transport));
        let any: SocketAddr = if address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
        let endpoint = Endpoint::client(any)?;
        let connecting = endpoint.connect_with(config, address, "larder").map_err(io::Error::other)?;
        let connection =
            timeout(CONNECT_TIME_MAX, connecting).await.map_err(io::Error::from)?.map_err(io::Error::from)?;
        let (send, receive) = connection.open_bi().await.map_err(io::Error::from)?;
        Ok(Self { endpoint, connection, send, receive })
    }

    /// Says something and waits for the answer. The other end may have said its last word and gone before it heard all:
    /// that word counts.
    async fn ask<T: Wire>(&mut self, message: &T) -> io::Result<T> {
        let sent = wire::send(&mut self.send, message).await;
        let received = wire::receive(&mut self.receive, T::MAX_BYTES).await;
        received.map_err(|lost| sent.err().unwrap_or(lost))
    }

    async fn close(self, why: &[u8]) {
        self.connection.close(quinn::VarInt::from_u32(0), why);
        self.endpoint.wait_idle().await;
    }
}

async fn attempt(ticket: &Ticket, keys: &DeviceKeys, name: &Name, address: SocketAddr) -> Result<Joined, Attempt> {
    let line = Line::open(keys, Some(ticket.inviter), ALPN, address).await?;
    handshake(line, ticket, keys, name, DEADLINE).await
}

/// Joins with a short code at the first address where somebody answers. `compare` shows the four words to the person here
/// and gives whether the other screen shows the same; it is called once at most.
///
/// # Errors
/// [`JoinError`] says why not. A wrong code and somebody who does not know it look alike.
pub async fn join_by_words<F: Future<Output = bool>>(
    code: &Code,
    addresses: &[SocketAddr],
    keys: &DeviceKeys,
    name: Name,
    compare: impl FnOnce(String) -> F,
) -> Result<Joined, JoinError> {
    let mut failures = Vec::new();
    let (mut asked, mut refused) = (BTreeSet::new(), false);
    for address in addresses {
        let exchange = async {
            let mut line = Line::open(keys, None, ALPN_WORDS, *address).await?;
            let inviter = wire::device(&line.connection)?;
            // Each try counts, so nobody is asked twice.
            if !asked.insert(inviter) {
                return Err(Attempt::Next(io::Error::other("asked before")));
            }
            let paired = exchange(code, keys, inviter, &mut line).await?;
            Ok::<_, Attempt>((line, inviter, paired))
        };
        let (line, inviter, paired) = match timeout(DEADLINE, exchange).await {
            Ok(Ok(exchanged)) => exchanged,
            // Of several inviters nearby only one has the code.
            Ok(Err(Attempt::Final(JoinError::Refused(Refusal::Wrong)))) => {
                refused = true;
                continue;
            }
            Ok(Err(Attempt::Final(error))) => return Err(error),
            Ok(Err(Attempt::Next(error))) => {
                failures.push(format!("{address}: {error}"));
                continue;
            }
            Err(_) => {
                failures.push(format!("{address}: no answer in time"));
                continue;
            }
        };
        if !compare(paired.check_words()).await {
            line.close(b"the words differ").await;
            return Err(JoinError::WordsDiffer);
        }
        // The person at the other end may still be comparing.
        let joined = handshake(line, &paired.ticket(inviter), keys, &name, COMPARE_TIME_MAX).await;
        return joined.map_err(|error| match error {
            Attempt::Final(error) => error,
            Attempt::Next(error) => JoinError::Unreachable(format!("{address}: {error}")),
        });
    }
    Err(if refused { JoinError::Refused(Refusal::Wrong) } else { JoinError::Unreachable(failures.join("; ")) })
}

async fn exchange(code: &Code, keys: &DeviceKeys, inviter: DeviceId, line: &mut Line) -> Result<Paired, Attempt> {
    let exporter = wire::exporter(&line.connection)?;
    let mut machine = WordsJoiner::new(code, inviter, keys.device(), exporter, [random(), random()]);
    let mut next = machine.begin();
    loop {
        let answer: WordsMessage = line.ask(&next).await?;
        match machine.handle(answer) {
            Ok(JoinerWordsStep::Send(message)) => next = message,
            Ok(JoinerWordsStep::Done(paired)) => return Ok(paired),
            Err(WordsError::Refused(refusal)) => return Err(Attempt::Final(JoinError::Refused(refusal))),
            Err(_) => return Err(Attempt::Final(JoinError::Refused(Refusal::Wrong))),
        }
    }
}

/// The handshake by a ticket's secret; the first answer may take `patience`.
async fn handshake(
    mut line: Line,
    ticket: &Ticket,
    keys: &DeviceKeys,
    name: &Name,
    patience: Duration,
) -> Result<Joined, Attempt> {
    let exporter = wire::exporter(&line.connection)?;
    let mut machine = JoinerHandshake::new(ticket, exporter, keys.enrolment(), name.clone(), random());
    let mut next = machine.begin();
    let mut patience = patience;
    loop {
        let message = timeout(patience, line.ask(&next)).await.map_err(io::Error::from)??;
        patience = DEADLINE;
        match machine.handle(message) {
            Ok(JoinerStep::Send(message)) => next = message,
            Ok(JoinerStep::Done(welcomed)) => {
                line.close(b"joined").await;
                return Ok(Joined { log: welcomed.log, contacts: welcomed.contacts });
            }
            Err(HandshakeError::Refused(refusal)) => return Err(Attempt::Final(JoinError::Refused(refusal))),
            Err(error) => return Err(Attempt::Final(JoinError::Handshake(error))),
        }
    }
}
