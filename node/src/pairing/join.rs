//! The joining side.

use super::{ALPN, DEADLINE, wire};
use crate::keys::{DeviceKeys, random, tls};
use larder_protocol::{
    codec::Wire,
    membership::MembershipLog,
    pairing::{Contact, HandshakeError, JoinerHandshake, JoinerStep, Message, Refusal, Ticket, TicketError},
    record::Name,
    time::Timestamp,
};
use quinn::{ClientConfig, Endpoint, crypto::rustls::QuicClientConfig};
use std::{
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

async fn attempt(ticket: &Ticket, keys: &DeviceKeys, name: &Name, address: SocketAddr) -> Result<Joined, Attempt> {
    let setup = |error: &dyn std::fmt::Display| Attempt::Final(JoinError::Setup(error.to_string()));
    let tls = tls::client(keys.signing(), ticket.inviter, ALPN).map_err(|error| setup(&error))?;
    let crypto = QuicClientConfig::try_from(tls).map_err(|error| setup(&error))?;
    let any: SocketAddr = if address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let endpoint = Endpoint::client(any)?;
    let connecting =
        endpoint.connect_with(ClientConfig::new(Arc::new(crypto)), address, "larder").map_err(io::Error::other)?;
    let connection = timeout(CONNECT_TIME_MAX, connecting).await.map_err(io::Error::from)?.map_err(io::Error::from)?;
    let exporter = wire::exporter(&connection)?;
    let mut machine = JoinerHandshake::new(ticket, exporter, keys.enrolment(), name.clone(), random());
    let (mut send, mut receive) = connection.open_bi().await.map_err(io::Error::from)?;
    let mut next = machine.begin();
    loop {
        wire::send(&mut send, &next).await?;
        let message = wire::receive(&mut receive, Message::MAX_BYTES).await?;
        match machine.handle(message) {
            Ok(JoinerStep::Send(message)) => next = message,
            Ok(JoinerStep::Done(welcomed)) => {
                connection.close(quinn::VarInt::from_u32(0), b"joined");
                endpoint.wait_idle().await;
                return Ok(Joined { log: welcomed.log, contacts: welcomed.contacts });
            }
            Err(HandshakeError::Refused(refusal)) => return Err(Attempt::Final(JoinError::Refused(refusal))),
            Err(error) => return Err(Attempt::Final(JoinError::Handshake(error))),
        }
    }
}
