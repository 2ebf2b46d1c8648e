//! `invite`: opening, listing and taking back, and admitting who comes.

use super::{blocking, errors};
use crate::{
    audit::{Event, rfc3339},
    catalog::LocalWrite,
    keys::random,
    node::{Node, now},
    pairing::{Admission, Inviter},
};
use larder_protocol::{
    codec,
    control::{ControlError, ErrorKind, InviteView, OpenInvite},
    id::InviteId,
    membership::{Enrolment, Role},
    pairing::{ADDRESSES_MAX, Invite, InviteState, TTL_MS_MAX, Ticket},
    record::Name,
    time::Timestamp,
};
use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock, Weak},
};

/// Namespace of the local values that keep invites.
const NAMESPACE: &str = "invites";
/// How long an ended invite is remembered, so that its end can be told.
const REMEMBER_MS: i64 = 7 * 24 * 60 * 60 * 1000;

/// The node, as the pairing endpoint sees it.
#[derive(Default)]
pub(crate) struct Inviting(OnceLock<Weak<Node>>);

impl Inviting {
    pub(crate) fn attach(&self, node: &Arc<Node>) {
        let _ = self.0.set(Arc::downgrade(node));
    }

    fn node(&self) -> io::Result<Arc<Node>> {
        self.0.get().and_then(Weak::upgrade).ok_or_else(|| io::Error::other("the node stops"))
    }
}

fn all(node: &Node) -> Result<Vec<Invite>, ControlError> {
    let values = node.catalog.read().and_then(|snapshot| snapshot.locals(NAMESPACE)).map_err(errors::catalog)?;
    Ok(values.into_iter().filter_map(|(_, value)| codec::decode(&value).ok()).collect())
}

fn save(node: &Node, invite: &Invite) -> Result<(), ControlError> {
    let value = codec::encode(invite).map_err(errors::internal)?;
    let write = LocalWrite::Value { namespace: NAMESPACE, key: invite.id().as_bytes().to_vec(), value: Some(value) };
    node.catalog.append(Vec::new(), vec![write], now()).map_err(errors::append)?;
    Ok(())
}

impl Inviter for Inviting {
    fn find(&self, id: &InviteId) -> Option<Invite> {
        let value =
            self.node().ok()?.catalog.read().and_then(|snapshot| snapshot.local(NAMESPACE, id.as_bytes())).ok()??;
        codec::decode(&value).ok()
    }

    fn save(&self, invite: &Invite) -> io::Result<()> {
        save(&*self.node()?, invite).map_err(io::Error::other)
    }

    fn admit(&self, enrolment: Enrolment, name: Name, role: Role) -> io::Result<Admission> {
        let node = self.node()?;
        let device = enrolment.device;
        let known = node.members.role(&device).is_some();
        node.members.admit(enrolment, &name, role).map_err(io::Error::other)?;
        if !known {
            node.note(Event::ok("admit", device).fact("name", &name).fact("role", role.word()));
        }
        let said = node.catalog.read().and_then(|snapshot| snapshot.devices()).map_err(io::Error::other)?;
        let members = node.members.devices();
        let contacts = said.into_iter().filter(|(device, _)| members.contains(device)).collect();
        Ok(Admission { log: node.members.log(), contacts })
    }

    fn refused(&self, why: &str) {
        if let Ok(node) = self.node() {
            node.note(Event::refused("join", "a device").fact("why", why));
        }
    }

    fn now(&self) -> Timestamp {
        now()
    }
}

fn view(invite: &Invite, code: Option<String>) -> InviteView {
    let state = match invite.state {
        InviteState::Open if invite.is_over(now()) => "expired",
        InviteState::Open => "open",
        InviteState::Used(_) => "used",
        InviteState::Burnt => "burnt",
        InviteState::Revoked => "revoked",
    };
    InviteView {
        id: invite.id().to_string(),
        code,
        expires_at: rfc3339(invite.not_after),
        role: invite.role.word().to_owned(),
        state: state.to_owned(),
    }
}

fn pairing_host(node: &Node) -> IpAddr {
    node.listen.first().map_or(IpAddr::from([0, 0, 0, 0]), SocketAddr::ip)
}

/// Opens the pairing endpoint again after a restart, while an invite may still be used.
pub(crate) fn reopen(node: &Arc<Node>) -> Result<(), ControlError> {
    let (mut until, mut old) = (None, Vec::new());
    for invite in all(node)? {
        if !invite.is_over(now()) {
            until = until.max(Some(invite.not_after));
        } else if invite.is_over(now().plus_millis(-REMEMBER_MS)) {
            let key = invite.id().as_bytes().to_vec();
            old.push(LocalWrite::Value { namespace: NAMESPACE, key, value: None });
        }
    }
    if !old.is_empty() {
        node.catalog.append(Vec::new(), old, now()).map_err(errors::append)?;
    }
    // Tickets that were handed out name the old port, so those invites are only good for who can still reach it.
    if let Some(until) = until {
        node.pairing.open(pairing_host(node), until).map_err(|error| errors::listen(&error))?;
    }
    Ok(())
}

pub(crate) async fn open(node: &Arc<Node>, request: &OpenInvite) -> Result<InviteView, ControlError> {
    if node.members.role(&node.device()) != Some(Role::Admin) {
        return Err(ControlError::new(ErrorKind::NotAllowed, "invite").detail("only admins invite"));
    }
    let ttl_ms = i64::try_from(request.ttl_seconds).unwrap_or(i64::MAX).saturating_mul(1000);
    if !(1000..=TTL_MS_MAX).contains(&ttl_ms) {
        return Err(ControlError::new(ErrorKind::BadRequest, "--ttl").detail("from 1 second to 24 hours"));
    }
    let (secret, not_after) = (random(), now().plus_millis(ttl_ms));
    let invite = Invite::open(&secret, request.role, not_after);
    let port = node.pairing.open(pairing_host(node), not_after).map_err(|error| errors::listen(&error))?;
    let hosts: BTreeSet<IpAddr> = node
        .network
        .listening()
        .await
        .iter()
        .filter_map(|address| crate::network::socket_of(address))
        .map(|(_, address)| address.ip())
        .filter(|host| host.is_ipv4() == pairing_host(node).is_ipv4())
        .collect();
    // Other machines first; loopback serves only who is on this one.
    let mut hosts: Vec<IpAddr> = hosts.into_iter().collect();
    hosts.sort_by_key(IpAddr::is_loopback);
    let addresses = hosts.into_iter().take(ADDRESSES_MAX).map(|host| SocketAddr::new(host, port));
    let ticket = Ticket::new(node.group, node.device(), addresses, secret, request.role, not_after);
    let (keeping, kept) = (node.clone(), invite.clone());
    blocking(move || save(&keeping, &kept)).await?;
    node.note(Event::ok("invite", invite.id()).fact("role", request.role.word()));
    Ok(view(&invite, Some(ticket.to_text())))
}

pub(crate) async fn list(node: &Arc<Node>) -> Result<Vec<InviteView>, ControlError> {
    let node = node.clone();
    blocking(move || Ok(all(&node)?.iter().map(|invite| view(invite, None)).collect())).await
}

pub(crate) async fn revoke(node: &Arc<Node>, id: &str) -> Result<InviteView, ControlError> {
    let (node, id) = (node.clone(), id.to_owned());
    blocking(move || {
        let mut fitting = all(&node)?.into_iter().filter(|invite| invite.id().to_string().starts_with(&id));
        let (Some(mut invite), None) = (fitting.next().filter(|_| !id.is_empty()), fitting.next()) else {
            return Err(ControlError::new(ErrorKind::UnknownReference, id));
        };
        invite.revoke();
        save(&node, &invite)?;
        node.note(Event::ok("revoke-invite", invite.id()));
        Ok(view(&invite, None))
    })
    .await
}
