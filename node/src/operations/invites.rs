//! `invite`: opening, listing and taking back, and admitting who comes.
//!
//! A short code is good only while the command that opened it waits: its person compares four words with the joiner's.

use super::{blocking, errors};
use crate::{
    audit::{Event, rfc3339},
    catalog::LocalWrite,
    control::Reporter,
    keys::random,
    node::{Node, now},
    pairing::{Admission, Inviter},
};
use larder_protocol::{
    codec,
    control::{CompareWords, ControlError, ErrorKind, InviteView, OpenInvite},
    id::{DeviceId, InviteId},
    membership::{Enrolment, Role},
    pairing::{ADDRESSES_MAX, CODE_TTL_MS_MAX, Code, CodeInvite, CodeState, Invite, InviteState, TTL_MS_MAX, Ticket},
    record::Name,
    time::Timestamp,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
};
use tokio::sync::{mpsc, oneshot};

/// Namespace of the local values that keep invites.
const NAMESPACE: &str = "invites";
/// Namespace of the local values that keep short codes.
const CODES: &str = "codes";
/// What the id of a short code begins with; its number follows.
const CODE_ID: &str = "words-";
/// Numbers of short codes.
const CODE_NUMBERS: u8 = 100;
/// Things that may happen to a short code before its command looks.
const HAPPENINGS_MAX: usize = 8;
/// How long the joiner's person may take after the one here has said yes.
const AGREED_TIME_MAX: std::time::Duration = std::time::Duration::from_secs(180);
/// How long an ended invite is remembered, so that its end can be told.
const REMEMBER_MS: i64 = 7 * 24 * 60 * 60 * 1000;

/// The node, as the pairing endpoint sees it.
#[derive(Default)]
pub(crate) struct Inviting {
    node: OnceLock<Weak<Node>>,
    waiting: Mutex<BTreeMap<u8, Waiting>>,
    /// One at a time opens an invite or closes the endpoint that it needs.
    opening: tokio::sync::Mutex<()>,
}

/// A command that waits for who uses its short code.
struct Waiting {
    happens: mpsc::Sender<Happening>,
    /// Who has proven to know the code.
    joiner: Option<DeviceId>,
}

/// What happens to a short code.
enum Happening {
    /// Somebody knew it; these are the words to compare, and there goes the answer.
    Compare(String, oneshot::Sender<bool>),
    /// The person here says whether the words are the same.
    Answered(bool),
    /// The joiner is a member, by this name.
    Joined(Name),
    /// It was tried wrongly too often.
    Burnt,
}

impl Inviting {
    pub(crate) fn attach(&self, node: &Arc<Node>) {
        let _ = self.node.set(Arc::downgrade(node));
    }

    fn node(&self) -> io::Result<Arc<Node>> {
        self.node.get().and_then(Weak::upgrade).ok_or_else(|| io::Error::other("the node stops"))
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<u8, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the waiting of a command, however that ends.
struct Place<'a> {
    inviting: &'a Inviting,
    number: u8,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.inviting.waiting().remove(&self.number);
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

fn codes(node: &Node) -> Result<Vec<CodeInvite>, ControlError> {
    let values = node.catalog.read().and_then(|snapshot| snapshot.locals(CODES)).map_err(errors::catalog)?;
    Ok(values.into_iter().filter_map(|(_, value)| codec::decode(&value).ok()).collect())
}

fn save_code(node: &Node, code: &CodeInvite) -> Result<(), ControlError> {
    let value = codec::encode(code).map_err(errors::internal)?;
    let write = LocalWrite::Value { namespace: CODES, key: vec![code.number], value: Some(value) };
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
        for waiting in self.waiting().values().filter(|waiting| waiting.joiner == Some(device)) {
            let _ = waiting.happens.try_send(Happening::Joined(name.clone()));
        }
        let said = node.catalog.read().and_then(|snapshot| snapshot.devices()).map_err(io::Error::other)?;
        let members = node.members.devices();
        let contacts = said.into_iter().filter(|(device, _)| members.contains(device)).collect();
        Ok(Admission { log: node.members.log(), contacts })
    }

    fn find_code(&self, number: u8) -> Option<CodeInvite> {
        let value = self.node().ok()?.catalog.read().and_then(|snapshot| snapshot.local(CODES, &[number])).ok()??;
        codec::decode(&value).ok()
    }

    fn save_code(&self, code: &CodeInvite) -> io::Result<()> {
        save_code(&*self.node()?, code).map_err(io::Error::other)?;
        if let (CodeState::Burnt, Some(waiting)) = (code.state, self.waiting().get(&code.number)) {
            let _ = waiting.happens.try_send(Happening::Burnt);
        }
        Ok(())
    }

    fn compare(&self, number: u8, joiner: DeviceId, words: String) -> oneshot::Receiver<bool> {
        let (answer, receiver) = oneshot::channel();
        let is_member = self.node().is_ok_and(|node| node.members.role(&joiner).is_some());
        match self.waiting().get_mut(&number) {
            Some(waiting) => {
                waiting.joiner = Some(joiner);
                let _ = waiting.happens.try_send(Happening::Compare(words, answer));
            }
            // It was let in already, and only the last word to it was lost.
            None if is_member => drop(answer.send(true)),
            None => {}
        }
        receiver
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
        at: Vec::new(),
        words: None,
        device: None,
    }
}

fn code_view(code: &CodeInvite) -> InviteView {
    let state = match code.state {
        CodeState::Open if now() > code.not_after => "expired",
        CodeState::Open => "open",
        CodeState::Used(_) => "used",
        CodeState::Burnt => "burnt",
        CodeState::Revoked => "revoked",
    };
    InviteView {
        id: format!("{CODE_ID}{}", code.number),
        code: None,
        expires_at: rfc3339(code.not_after),
        role: code.role.word().to_owned(),
        state: state.to_owned(),
        at: Vec::new(),
        words: None,
        device: None,
    }
}

fn pairing_host(node: &Node) -> IpAddr {
    node.listen.first().map_or(IpAddr::from([0, 0, 0, 0]), SocketAddr::ip)
}

/// Who looks for this machine by mDNS knows where to knock.
fn pairing_port(node: &Node) -> u16 {
    if node.settings.network.mdns { crate::pairing::PORT } else { 0 }
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
        node.pairing.open(pairing_host(node), pairing_port(node), until).map_err(|error| errors::listen(&error))?;
    }
    Ok(())
}

/// Checks a request; gives how long the invite is to be good, in milliseconds.
fn check(node: &Node, request: &OpenInvite) -> Result<i64, ControlError> {
    if node.members.role(&node.device()) != Some(Role::Admin) {
        return Err(ControlError::new(ErrorKind::NotAllowed, "invite").detail("only admins invite"));
    }
    let ttl_ms = i64::try_from(request.ttl_seconds).unwrap_or(i64::MAX).saturating_mul(1000);
    if !(1000..=TTL_MS_MAX).contains(&ttl_ms) {
        return Err(ControlError::new(ErrorKind::BadRequest, "--ttl").detail("from 1 second to 24 hours"));
    }
    Ok(ttl_ms)
}

/// Makes sure that the pairing endpoint stands, and gives its addresses.
async fn stand_by(node: &Arc<Node>, not_after: Timestamp) -> Result<Vec<SocketAddr>, ControlError> {
    let port =
        node.pairing.open(pairing_host(node), pairing_port(node), not_after).map_err(|error| errors::listen(&error))?;
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
    Ok(hosts.into_iter().take(ADDRESSES_MAX).map(|host| SocketAddr::new(host, port)).collect())
}

pub(crate) async fn open(node: &Arc<Node>, request: &OpenInvite) -> Result<InviteView, ControlError> {
    let ttl_ms = check(node, request)?;
    let (secret, not_after) = (random(), now().plus_millis(ttl_ms));
    let invite = Invite::open(&secret, request.role, not_after);
    let _opening = node.inviting.opening.lock().await;
    let addresses = stand_by(node, not_after).await?;
    let ticket = Ticket::new(node.group, node.device(), addresses, secret, request.role, not_after);
    let (keeping, kept) = (node.clone(), invite.clone());
    blocking(move || save(&keeping, &kept)).await?;
    node.note(Event::ok("invite", invite.id()).fact("role", request.role.word()));
    Ok(view(&invite, Some(ticket.to_text())))
}

/// Waits until nobody wants the answer any more.
async fn gone(answer: &mut Option<oneshot::Sender<bool>>) {
    match answer {
        Some(answer) => answer.closed().await,
        None => std::future::pending().await,
    }
}

/// Tells the command that waits what its person says.
pub(crate) fn compared(node: &Node, request: &CompareWords) -> Result<(), ControlError> {
    let unknown = || ControlError::new(ErrorKind::UnknownReference, request.id.as_str());
    let number: u8 = request.id.strip_prefix(CODE_ID).and_then(|number| number.parse().ok()).ok_or_else(unknown)?;
    let waiting = node.inviting.waiting();
    let waiting = waiting.get(&number).ok_or_else(unknown)?;
    waiting.happens.try_send(Happening::Answered(request.same)).map_err(errors::internal)
}

/// Opens a short code, and waits for who uses it: tells the code, then the four words, then who has joined.
pub(crate) async fn open_words(
    node: Arc<Node>,
    request: OpenInvite,
    reporter: Reporter<InviteView>,
) -> Result<(), ControlError> {
    let ttl_ms = check(&node, &request)?.min(CODE_TTL_MS_MAX);
    let begun = now();
    let opening = node.inviting.opening.lock().await;
    let addresses = stand_by(&node, begun.plus_millis(ttl_ms)).await?;
    let (happens, mut happening) = mpsc::channel(HAPPENINGS_MAX);
    let (working, role) = (node.clone(), request.role);
    let (code, open) = blocking(move || {
        let known: BTreeSet<u8> = codes(&working)?
            .iter()
            .filter(|code| code.state == CodeState::Open && begun <= code.not_after)
            .map(|code| code.number)
            .collect();
        let mut waiting = working.inviting.waiting();
        let mut free: Vec<u8> =
            (0..CODE_NUMBERS).filter(|number| !known.contains(number) && !waiting.contains_key(number)).collect();
        if free.is_empty() {
            return Err(ControlError::new(ErrorKind::BadRequest, "--words").detail("too many codes are open").retry());
        }
        let number = free.swap_remove(usize::from(u16::from_le_bytes(random())) % free.len());
        let code = Code::new(number, random());
        let open = CodeInvite::open(&code, role, begun, begun.plus_millis(ttl_ms));
        save_code(&working, &open)?;
        waiting.insert(number, Waiting { happens, joiner: None });
        Ok((code, open))
    })
    .await?;
    drop(opening);
    let place = Place { inviting: &node.inviting, number: open.number };
    let first = code_view(&open);
    node.note(Event::ok("invite", &first.id).fact("role", request.role.word()));
    let at = addresses.iter().map(ToString::to_string).collect();
    reporter.result(InviteView { code: Some(code.to_text().to_string()), at, ..first.clone() }).await;
    let ttl = std::time::Duration::from_millis(u64::try_from(ttl_ms).unwrap_or_default());
    let over = tokio::time::sleep(ttl);
    tokio::pin!(over);
    let mut comparing: Option<oneshot::Sender<bool>> = None;
    let mut agreed = false;
    let ended = loop {
        tokio::select! {
            happened = happening.recv() => match happened {
                Some(Happening::Compare(words, answer)) => {
                    (comparing, agreed) = (Some(answer), false);
                    let state = "comparing".to_owned();
                    reporter.result(InviteView { words: Some(words), state, ..first.clone() }).await;
                }
                Some(Happening::Answered(true)) => {
                    agreed = comparing.take().is_some_and(|answer| answer.send(true).is_ok());
                }
                Some(Happening::Answered(false)) => break ErrorKind::WordsDiffer,
                Some(Happening::Joined(name)) => {
                    let (device, state) = (Some(name.to_string()), "used".to_owned());
                    reporter.result(InviteView { device, state, ..first }).await;
                    return Ok(());
                }
                Some(Happening::Burnt) => break ErrorKind::InviteBurnt,
                None => break ErrorKind::InviteRevoked,
            },
            // The joiner's person said no, or went away.
            () = gone(&mut comparing), if comparing.is_some() => break ErrorKind::WordsDiffer,
            () = &mut over, if comparing.is_none() && !agreed => break ErrorKind::InviteExpired,
            // Said yes here, and nobody came.
            () = tokio::time::sleep(AGREED_TIME_MAX), if agreed => break ErrorKind::WordsDiffer,
            () = reporter.cancelled().cancelled() => break ErrorKind::Interrupted,
            () = node.stop.cancelled() => break ErrorKind::Interrupted,
        }
    };
    drop(place);
    if let Err(error) = take_back(&node, &first.id).await {
        tracing::warn!(%error, "a short code cannot be taken back");
    }
    Err(ControlError::new(ended, first.id))
}

pub(crate) async fn list(node: &Arc<Node>) -> Result<Vec<InviteView>, ControlError> {
    let node = node.clone();
    blocking(move || {
        let mut views: Vec<InviteView> = all(&node)?.iter().map(|invite| view(invite, None)).collect();
        views.extend(codes(&node)?.iter().map(code_view));
        Ok(views)
    })
    .await
}

pub(crate) async fn revoke(node: &Arc<Node>, id: &str) -> Result<InviteView, ControlError> {
    let view = take_back(node, id).await?;
    // Its command ends with its place.
    if let Some(number) = view.id.strip_prefix(CODE_ID).and_then(|number| number.parse::<u8>().ok()) {
        node.inviting.waiting().remove(&number);
    }
    Ok(view)
}

/// Takes an invite back, unless it was used. No joiner is judged meanwhile: what it kept would be overwritten.
async fn take_back(node: &Arc<Node>, id: &str) -> Result<InviteView, ControlError> {
    let _opening = node.inviting.opening.lock().await;
    let (node, id) = (node.clone(), id.to_owned());
    blocking(move || {
        let taken = node.pairing.undisturbed(|| {
            let unknown = || ControlError::new(ErrorKind::UnknownReference, id.as_str());
            let view = if id.starts_with(CODE_ID) {
                let mut code = codes(&node)?.into_iter().find(|code| code_view(code).id == id).ok_or_else(unknown)?;
                code.revoke();
                save_code(&node, &code)?;
                code_view(&code)
            } else {
                let mut fitting = all(&node)?.into_iter().filter(|invite| invite.id().to_string().starts_with(&id));
                let (Some(mut invite), None) = (fitting.next().filter(|_| !id.is_empty()), fitting.next()) else {
                    return Err(unknown());
                };
                invite.revoke();
                save(&node, &invite)?;
                view(&invite, None)
            };
            node.note(Event::ok("revoke-invite", &view.id));
            Ok(view)
        })?;
        if !is_awaited(&node)? {
            node.pairing.close();
        }
        Ok(taken)
    })
    .await
}

/// Whether anybody may still come with an invite: also with one that was used, whose joiner may have missed the answer.
fn is_awaited(node: &Node) -> Result<bool, ControlError> {
    let may_come = |invite: &Invite| matches!(invite.state, InviteState::Open | InviteState::Used(_));
    let may_say = |code: &CodeInvite| matches!(code.state, CodeState::Open | CodeState::Used(_));
    Ok(all(node)?.iter().any(|invite| may_come(invite) && now() <= invite.not_after)
        || codes(node)?.iter().any(|code| may_say(code) && now() <= code.not_after))
}
