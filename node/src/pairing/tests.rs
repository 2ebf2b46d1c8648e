//! Pairing over real sockets on loopback.

use super::*;
use crate::keys::{DeviceKeys, open_key_ring, random};
use larder_protocol::{
    bounded::{List, Text},
    id::{DeviceId, EpochId, GroupId, InviteId},
    membership::{Admit, CreateRandomness, Enrolment, MembershipLog, RecoveryKey, Role, SealedName, WrappedSecret},
    pairing::{Code, CodeInvite, CodeState, FAILURES_MAX, Invite, Refusal, Ticket},
    record::{Device, Name},
    time::Timestamp,
};
use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, OnceLock, Weak},
};
use tokio::sync::oneshot;

const EPOCH: EpochId = EpochId::new([1; 16]);
const SECRET: [u8; 32] = [2; 32];
const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

struct Group {
    keys: DeviceKeys,
    state: Mutex<State>,
    host: OnceLock<Weak<Host>>,
}

struct State {
    log: MembershipLog,
    invites: BTreeMap<InviteId, Invite>,
    codes: BTreeMap<u8, CodeInvite>,
    /// What the person here says of the words, and the words that it was shown.
    same: bool,
    shown: Vec<String>,
    now: Timestamp,
    admit_fails: bool,
    steps: Vec<&'static str>,
    /// Questions that the person here does not answer at once, when there is a place for them.
    asked: Option<Vec<oneshot::Sender<bool>>>,
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn group() -> Arc<Group> {
    let keys = DeviceKeys::generate();
    let random_bytes =
        CreateRandomness { group: random(), ephemeral: [random(), random()], nonces: [random(), random()] };
    let log = MembershipLog::create(
        keys.signing(),
        keys.wrapping().public(),
        &name("home"),
        &name("first"),
        &RecoveryKey::from_entropy(random()),
        EPOCH,
        &SECRET,
        &random_bytes,
    )
    .unwrap();
    let now = Timestamp::from_millis(1_000_000);
    Arc::new(Group {
        keys,
        state: Mutex::new(State {
            log,
            invites: BTreeMap::new(),
            codes: BTreeMap::new(),
            same: true,
            shown: Vec::new(),
            now,
            admit_fails: false,
            steps: Vec::new(),
            asked: None,
        }),
        host: OnceLock::new(),
    })
}

impl Group {
    /// Invites are looked up and kept only while nobody else may.
    fn is_undisturbed(&self) {
        let host = self.host.get().and_then(Weak::upgrade).unwrap();
        assert!(!host.is_idle(), "an invite is touched while another one may be judged");
    }
}

impl Inviter for Group {
    fn find(&self, id: &InviteId) -> Option<Invite> {
        self.is_undisturbed();
        self.state.lock().unwrap().invites.get(id).cloned()
    }

    fn save(&self, invite: &Invite) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        state.steps.push("save");
        state.invites.insert(invite.id(), invite.clone());
        Ok(())
    }

    fn admit(&self, enrolment: Enrolment, name: Name, role: Role) -> io::Result<Admission> {
        let mut state = self.state.lock().unwrap();
        state.steps.push("admit");
        if state.admit_fails {
            return Err(io::Error::other("disk"));
        }
        if state.log.role(&enrolment.device).is_none() {
            let wrapped = WrappedSecret::wrap(&SECRET, &enrolment.wrapping, random()).unwrap();
            let admit = Admit {
                name: SealedName::seal(&name, EPOCH, &SECRET, random()),
                member: enrolment,
                role,
                epochs: List::new(vec![(EPOCH, wrapped)]).unwrap(),
            };
            state.log.admit(self.keys.signing(), &admit).unwrap();
        }
        let device = Device {
            name,
            control: List::new(vec![Text::new("/ip4/127.0.0.1/tcp/9").unwrap()]).unwrap(),
            data: List::default(),
        };
        Ok(Admission { log: state.log.clone(), contacts: vec![(self.keys.device(), device)] })
    }

    fn find_code(&self, number: u8) -> Option<CodeInvite> {
        self.is_undisturbed();
        self.state.lock().unwrap().codes.get(&number).cloned()
    }

    fn save_code(&self, code: &CodeInvite) -> io::Result<()> {
        self.is_undisturbed();
        let mut state = self.state.lock().unwrap();
        state.steps.push("save-code");
        state.codes.insert(code.number, code.clone());
        Ok(())
    }

    fn compare(&self, _: u8, _: DeviceId, words: String) -> oneshot::Receiver<bool> {
        let (answer, receiver) = oneshot::channel();
        let mut state = self.state.lock().unwrap();
        state.shown.push(words);
        match &mut state.asked {
            Some(asked) => asked.push(answer),
            None => drop(answer.send(state.same)),
        }
        receiver
    }

    fn refused(&self, _: &str) {}

    fn now(&self) -> Timestamp {
        self.state.lock().unwrap().now
    }
}

fn open(group: &Arc<Group>, host: &Arc<Host>) -> Ticket {
    let secret = random();
    let until = group.now().plus_millis(60_000);
    let invite = Invite::open(&secret, Role::Writer, until);
    group.state.lock().unwrap().invites.insert(invite.id(), invite);
    let port = host.open(HOST, 0, until).unwrap();
    let group_id: GroupId = group.state.lock().unwrap().log.group();
    Ticket::new(group_id, group.keys.device(), [SocketAddr::new(HOST, port)], secret, Role::Writer, until)
}

fn host(group: &Arc<Group>) -> Arc<Host> {
    let group_id = group.state.lock().unwrap().log.group();
    let host = Host::new(group.keys.clone(), group_id, group.clone());
    let _ = group.host.set(Arc::downgrade(&host));
    host
}

/// Opens a short code; gives it and where to go.
fn open_code(group: &Arc<Group>, host: &Arc<Host>) -> (Code, SocketAddr) {
    let (now, until) = (group.now(), group.now().plus_millis(60_000));
    let code = Code::new(37, random());
    let invite = CodeInvite::open(&code, Role::Writer, now, until);
    group.state.lock().unwrap().codes.insert(37, invite);
    (code, SocketAddr::new(HOST, host.open(HOST, 0, until).unwrap()))
}

/// Joins with a short code, whose person says `same`; gives the words that it was shown, too.
async fn try_words(
    code: &Code,
    at: SocketAddr,
    keys: &DeviceKeys,
    same: bool,
) -> (Option<String>, Result<Joined, JoinError>) {
    let mut shown = None;
    let compare = |words: String| {
        shown = Some(words);
        std::future::ready(same)
    };
    let joined = join_by_words(code, &[at], keys, name("new"), compare).await;
    (shown, joined)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_code_lets_one_device_in_when_both_people_see_the_same_words() {
    let group = group();
    let host = host(&group);
    let (code, at) = open_code(&group, &host);
    let keys = DeviceKeys::generate();
    let (shown, joined) = try_words(&code, at, &keys, true).await;
    let joined = joined.unwrap();
    assert_eq!(open_key_ring(&joined.log, &keys).unwrap().current().1.as_bytes(), &SECRET);
    {
        let state = group.state.lock().unwrap();
        assert_eq!(state.steps, ["save-code", "admit"], "used up before anybody is admitted");
        assert_eq!(state.shown, [shown.unwrap()]);
        assert!(state.invites.is_empty());
    }
    let (shown, other) = try_words(&code, at, &DeviceKeys::generate(), true).await;
    assert!(matches!(other, Err(JoinError::Refused(Refusal::Used))) && shown.is_none(), "{other:?}");
    try_words(&code, at, &keys, true).await.1.expect("a lost reply may be asked for again");
}

#[tokio::test(flavor = "multi_thread")]
async fn words_that_differ_let_nobody_in() {
    let group = group();
    let host = host(&group);
    for (here, there) in [(true, false), (false, true), (false, false)] {
        let (code, at) = open_code(&group, &host);
        group.state.lock().unwrap().same = here;
        let refused = try_words(&code, at, &DeviceKeys::generate(), there).await.1;
        match refused {
            Err(JoinError::WordsDiffer) if !there => {}
            Err(JoinError::Refused(Refusal::Revoked)) if there => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(!group.state.lock().unwrap().steps.contains(&"admit"));
}

/// Who still wrote when the inviter refused, and went, heard of a lost connection instead; and an endpoint that closed took
/// along who was waiting for an answer.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_word_is_heard_by_who_writes_too_late() {
    let group = group();
    let host = host(&group);
    let (code, at) = open_code(&group, &host);
    group.state.lock().unwrap().asked = Some(Vec::new());
    let (closing, asking) = (host.clone(), group.clone());
    let compare = |_: String| async move {
        let question = || asking.state.lock().unwrap().asked.as_mut().unwrap().pop();
        let answer = until("the person there is asked", question).await;
        closing.close();
        answer.send(false).unwrap();
        until("the inviter is gone", || std::net::UdpSocket::bind(at).ok()).await;
        true
    };
    let refused = join_by_words(&code, &[at], &DeviceKeys::generate(), name("new"), compare).await;
    assert!(matches!(refused, Err(JoinError::Refused(Refusal::Revoked))), "{refused:?}");
}

/// Waits until there is something.
async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(std::time::Instant::now() < deadline, "{what}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_third_wrong_code_burns_it() {
    let group = group();
    let host = host(&group);
    let (code, at) = open_code(&group, &host);
    for tries in 1..=FAILURES_MAX {
        let guess = Code::new(37, random());
        let (shown, refused) = try_words(&guess, at, &DeviceKeys::generate(), true).await;
        assert!(matches!(refused, Err(JoinError::Refused(Refusal::Wrong))) && shown.is_none(), "{refused:?}");
        assert_eq!(group.state.lock().unwrap().codes[&37].failures, tries);
    }
    assert_eq!(group.state.lock().unwrap().codes[&37].state, CodeState::Burnt);
    let refused = try_words(&code, at, &DeviceKeys::generate(), true).await.1;
    assert!(matches!(refused, Err(JoinError::Refused(Refusal::Burnt))), "{refused:?}");
    let nobody = try_words(&Code::new(38, random()), at, &DeviceKeys::generate(), true).await.1;
    assert!(matches!(nobody, Err(JoinError::Refused(Refusal::Wrong))), "{nobody:?}");
}

/// Taking an invite back read it, changed it and kept it, while a joiner might be using it up in between: then the used
/// invite was overwritten by one that was taken back, or the other way round.
#[tokio::test(flavor = "multi_thread")]
async fn an_invite_is_taken_back_before_a_joiner_is_judged_or_after() {
    let group = group();
    let host = host(&group);
    let ticket = open(&group, &host);
    let keys = DeviceKeys::generate();
    let (begin, begun) = oneshot::channel();
    let (release, released) = std::sync::mpsc::channel();
    let (taking, holding) = (group.clone(), host.clone());
    let back = std::thread::spawn(move || {
        holding.undisturbed(|| {
            let mut invites = taking.state.lock().unwrap().invites.clone();
            begin.send(()).unwrap();
            released.recv().unwrap();
            invites.values_mut().for_each(Invite::revoke);
            taking.state.lock().unwrap().invites = invites;
        });
    });
    begun.await.unwrap();
    // The joiner is there, and is not judged by what is about to change.
    let (joining, asked) = (ticket.clone(), keys.clone());
    let join = tokio::spawn(async move { try_join(&joining, &asked).await });
    release.send(()).unwrap();
    back.join().unwrap();
    let refused = join.await.unwrap();
    assert!(matches!(refused, Err(JoinError::Refused(Refusal::Revoked))), "{refused:?}");
}

async fn try_join(ticket: &Ticket, keys: &DeviceKeys) -> Result<Joined, JoinError> {
    join(ticket, keys, name("new"), Timestamp::from_millis(1_000_000)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_lets_one_device_in_and_it_holds_the_secret() {
    let group = group();
    let host = host(&group);
    let ticket = open(&group, &host);
    let keys = DeviceKeys::generate();
    let joined = try_join(&ticket, &keys).await.unwrap();
    assert_eq!(joined.contacts.len(), 1);
    assert_eq!(open_key_ring(&joined.log, &keys).unwrap().current().1.as_bytes(), &SECRET);
    assert_eq!(group.state.lock().unwrap().steps, ["save", "admit"], "burnt before anybody is admitted");

    let other = try_join(&ticket, &DeviceKeys::generate()).await;
    assert!(matches!(other, Err(JoinError::Refused(Refusal::Used))), "{other:?}");
    try_join(&ticket, &keys).await.expect("a lost reply may be asked for again");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_revoked_and_expired_codes_are_told_apart() {
    let group = group();
    let host = host(&group);
    let ticket = open(&group, &host);
    let mut wrong = ticket.clone();
    wrong.secret[0] ^= 1;
    let keys = DeviceKeys::generate();
    assert!(matches!(try_join(&wrong, &keys).await, Err(JoinError::Refused(Refusal::Wrong))));
    group.state.lock().unwrap().invites.values_mut().for_each(Invite::revoke);
    assert!(matches!(try_join(&ticket, &keys).await, Err(JoinError::Refused(Refusal::Revoked))));
    let ticket = open(&group, &host);
    host.close();
    let unreachable = try_join(&ticket, &keys).await;
    assert!(matches!(unreachable, Err(JoinError::Unreachable(_))), "{unreachable:?}");
    let late = join(&ticket, &keys, name("new"), Timestamp::from_millis(2_000_000)).await;
    assert!(matches!(late, Err(JoinError::Refused(Refusal::Expired))));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_answers_with_another_key_is_not_the_inviter() {
    let (group, imposter) = (group(), self::group());
    let (host, other_host) = (host(&group), self::host(&imposter));
    let ticket = open(&group, &host);
    let port = open(&imposter, &other_host).addresses[0].port();
    let mut redirected = ticket.clone();
    redirected.addresses = List::new(vec![SocketAddr::new(HOST, port)]).unwrap();
    let refused = try_join(&redirected, &DeviceKeys::generate()).await;
    assert!(matches!(refused, Err(JoinError::Unreachable(_))), "{refused:?}");
    assert!(imposter.state.lock().unwrap().steps.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_admission_burns_the_code_and_admits_nobody() {
    let group = group();
    let host = host(&group);
    let ticket = open(&group, &host);
    group.state.lock().unwrap().admit_fails = true;
    let keys = DeviceKeys::generate();
    assert!(try_join(&ticket, &keys).await.is_err());
    group.state.lock().unwrap().admit_fails = false;
    let other = try_join(&ticket, &DeviceKeys::generate()).await;
    assert!(matches!(other, Err(JoinError::Refused(Refusal::Used))), "{other:?}");
    try_join(&ticket, &keys).await.expect("the same device gets in with its second try");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_endpoint_goes_when_the_last_invite_is_over() {
    let group = group();
    let host = host(&group);
    let ticket = open(&group, &host);
    assert!(host.is_open());
    {
        let mut state = group.state.lock().unwrap();
        state.now = state.now.plus_millis(60_001);
    }
    // The next connection makes the host look at the time.
    let _ = try_join(&ticket, &DeviceKeys::generate()).await;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while host.is_open() {
        assert!(std::time::Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
}
