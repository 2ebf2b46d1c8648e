//! Pairing over real sockets on loopback.

use super::*;
use crate::keys::{DeviceKeys, open_key_ring, random};
use larder_protocol::{
    bounded::{List, Text},
    id::{EpochId, GroupId, InviteId},
    membership::{Admit, CreateRandomness, Enrolment, MembershipLog, RecoveryKey, Role, SealedName, WrappedSecret},
    pairing::{Invite, Refusal, Ticket},
    record::{Device, Name},
    time::Timestamp,
};
use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

const EPOCH: EpochId = EpochId::new([1; 16]);
const SECRET: [u8; 32] = [2; 32];
const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

struct Group {
    keys: DeviceKeys,
    state: Mutex<State>,
}

struct State {
    log: MembershipLog,
    invites: BTreeMap<InviteId, Invite>,
    now: Timestamp,
    admit_fails: bool,
    steps: Vec<&'static str>,
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
        state: Mutex::new(State { log, invites: BTreeMap::new(), now, admit_fails: false, steps: Vec::new() }),
    })
}

impl Inviter for Group {
    fn find(&self, id: &InviteId) -> Option<Invite> {
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
    let port = host.open(HOST, until).unwrap();
    let group_id: GroupId = group.state.lock().unwrap().log.group();
    Ticket::new(group_id, group.keys.device(), [SocketAddr::new(HOST, port)], secret, Role::Writer, until)
}

fn host(group: &Arc<Group>) -> Arc<Host> {
    let group_id = group.state.lock().unwrap().log.group();
    Host::new(group.keys.clone(), group_id, group.clone())
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
