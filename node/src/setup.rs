//! Making a home a device: of a new group, or of one that another device invites to.

use crate::{
    audit::{Audit, Event},
    config::{Home, Settings},
    keys::{DeviceKeys, MembershipStore, random},
    network,
    node::now,
    operations::errors,
    pairing::{self, JoinError, Joined},
};
use larder_protocol::{
    control::{ControlError, ErrorKind, JoinView},
    id::{DeviceId, EpochId},
    membership::{CreateRandomness, MembershipLog, RecoveryKey, Role},
    pairing::{Code, Refusal, Ticket, TicketError},
    record::Name,
};
use std::{net::SocketAddr, time::Duration};
use zeroize::Zeroizing;

/// What founding a group brought.
#[derive(Debug)]
pub struct Initialised {
    /// This device in hex.
    pub device_id: String,
    /// The group in hex.
    pub group_id: String,
    /// 24 words; shown once and kept nowhere.
    pub recovery_words: Zeroizing<String>,
}

/// Whether a home belongs to a group.
pub fn is_initialised(home: &Home) -> bool {
    home.keys().join("membership.log").exists() && home.keys().join("device.key").exists()
}

fn name_of(text: &str) -> Result<Name, ControlError> {
    let fits = !text.trim().is_empty() && !text.contains(char::is_control);
    let name = Name::new(text).ok().filter(|_| fits);
    name.ok_or_else(|| {
        ControlError::new(ErrorKind::BadRequest, text).detail("a name has 1 to 128 bytes and no control characters")
    })
}

fn prepare(home: &Home) -> Result<DeviceKeys, ControlError> {
    home.create().map_err(|error| ControlError::new(ErrorKind::Io, "the home").detail(error.to_string()))?;
    if is_initialised(home) {
        let file = home.config_file();
        let shown = file.parent().unwrap_or(&file).display().to_string();
        return Err(ControlError::new(ErrorKind::AlreadyInitialised, shown));
    }
    Settings::write_template(&home.config_file()).map_err(|error| errors::config(home, &error))?;
    Settings::load(&home.config_file()).map_err(|error| errors::config(home, &error))?;
    // Keys of a try that did not get to its end serve the next one: an inviter that has admitted them knows them.
    match DeviceKeys::load(&home.keys()).map_err(|error| errors::keys(&error))? {
        Some(keys) => Ok(keys),
        None => {
            let keys = DeviceKeys::generate();
            keys.save(&home.keys()).map_err(|error| errors::keys(&error))?;
            Ok(keys)
        }
    }
}

fn note(home: &Home, device: &DeviceId, event: Event) {
    match Audit::open(&home.audit(), device) {
        Ok(audit) => {
            if let Err(error) = audit.append(now(), event) {
                tracing::error!(%error, "audit log cannot be written");
            }
        }
        Err(error) => tracing::error!(%error, "audit log cannot be opened"),
    }
}

/// Founds a group with this home as its first device.
///
/// # Errors
/// [`ControlError`] when the home belongs to a group already or cannot be written.
pub fn init(home: &Home, device_name: &str, group_name: &str) -> Result<Initialised, ControlError> {
    let (device_name, group_name) = (name_of(device_name)?, name_of(group_name)?);
    let keys = prepare(home)?;
    let recovery = RecoveryKey::from_entropy(random());
    let secret: Zeroizing<[u8; 32]> = Zeroizing::new(random());
    let randomness =
        CreateRandomness { group: random(), ephemeral: [random(), random()], nonces: [random(), random()] };
    let log = MembershipLog::create(
        keys.signing(),
        keys.wrapping().public(),
        &group_name,
        &device_name,
        &recovery,
        EpochId::new(random()),
        &secret,
        &randomness,
    )
    .map_err(errors::internal)?;
    MembershipStore::new(&home.keys(), keys.device()).save(&log).map_err(|error| errors::keys(&error))?;
    note(home, &keys.device(), Event::ok("init", log.group()).fact("device", keys.device()));
    Ok(Initialised {
        device_id: keys.device().to_string(),
        group_id: log.group().to_string(),
        recovery_words: recovery.words(),
    })
}

/// Joins the group that a code invites to. Nothing but this device's own keys is kept when it fails.
///
/// # Errors
/// [`ControlError`] says why not; each reason of a refused code has its own kind.
pub async fn join(home: &Home, code: &str, device_name: &str) -> Result<JoinView, ControlError> {
    let name = name_of(device_name)?;
    let ticket = Ticket::from_text(code).map_err(|error| {
        let kind = match error {
            TicketError::Version(_) => ErrorKind::BadRequest,
            _ => ErrorKind::InviteMalformed,
        };
        ControlError::new(kind, "code").detail(error.to_string())
    })?;
    let keys = prepare(home)?;
    let joined = pairing::join(&ticket, &keys, name.clone(), now()).await.map_err(refusal)?;
    keep(home, &keys, &name, &joined, Event::ok("join", joined.log.group()).fact("inviter", ticket.inviter))
}

/// Whether a text is a short code, for [`join_by_words`].
pub fn is_short_code(code: &str) -> bool {
    Code::from_text(code).is_ok()
}

/// How long machines of the local network have to answer.
const NEARBY_TIME_MAX: Duration = Duration::from_secs(5);

/// Joins with a short code at one of these addresses, or, when there are none, at whoever is found by mDNS. `compare` shows four words to the person here and gives whether the
/// other screen shows the same. Nothing but this device's own keys is kept when it fails.
///
/// # Errors
/// [`ControlError`] says why not.
pub async fn join_by_words<F: Future<Output = bool>>(
    home: &Home,
    code: &str,
    addresses: &[SocketAddr],
    device_name: &str,
    compare: impl FnOnce(String) -> F,
) -> Result<JoinView, ControlError> {
    let name = name_of(device_name)?;
    let code = Code::from_text(code)
        .map_err(|error| ControlError::new(ErrorKind::InviteMalformed, "code").detail(error.to_string()))?;
    let keys = prepare(home)?;
    let mut addresses = addresses.to_vec();
    if addresses.is_empty() {
        let settings = Settings::load(&home.config_file()).map_err(|error| errors::config(home, &error))?;
        let by_hand = |why: &str| ControlError::new(ErrorKind::BadRequest, "--at").detail(why);
        if !settings.network.mdns {
            return Err(by_hand("mDNS is off, so give the address that 'larder invite --words' shows"));
        }
        let hosts = network::hosts_nearby(NEARBY_TIME_MAX).await.map_err(|error| errors::listen(&error))?;
        addresses = hosts.into_iter().map(|host| SocketAddr::new(host, pairing::PORT)).collect();
        if addresses.is_empty() {
            return Err(by_hand("nobody was found nearby, so give the address that 'larder invite --words' shows"));
        }
    }
    let mut shown = None;
    let showing = |words: String| {
        shown = Some(words.clone());
        compare(words)
    };
    let joined = pairing::join_by_words(&code, &addresses, &keys, name.clone(), showing).await.map_err(refusal)?;
    let event = Event::ok("join", joined.log.group()).fact("by", "words");
    Ok(JoinView { words: shown, ..keep(home, &keys, &name, &joined, event)? })
}

/// Makes the home one of the group's. Checks that the welcome holds what a member needs.
fn keep(home: &Home, keys: &DeviceKeys, name: &Name, joined: &Joined, event: Event) -> Result<JoinView, ControlError> {
    let ring = crate::keys::open_key_ring(&joined.log, keys);
    let roster = joined.log.roster();
    let role = roster.member(&keys.device()).map(|member| member.role);
    if ring.is_none() && role.is_none_or(Role::may_read) {
        return Err(ControlError::new(ErrorKind::InviteWrong, "code").detail("the welcome holds no key"));
    }
    let secret = |epoch: &EpochId| Some(*ring.as_ref()?.get(epoch)?.as_bytes());
    let group = roster.name().and_then(|name| name.open(secret)).map_or_else(String::new, |name| name.to_string());
    crate::contacts::save(home, &joined.contacts)?;
    crate::contacts::save_own_name(home, name)?;
    // The membership log comes last: with it the home counts as initialised.
    MembershipStore::new(&home.keys(), keys.device()).save(&joined.log).map_err(|error| errors::keys(&error))?;
    note(home, &keys.device(), event);
    Ok(JoinView { device_id: keys.device().to_string(), group_id: joined.log.group().to_string(), group, words: None })
}

fn refusal(error: JoinError) -> ControlError {
    let kind = match &error {
        JoinError::Refused(Refusal::Wrong) => ErrorKind::InviteWrong,
        JoinError::Refused(Refusal::Used) => ErrorKind::InviteUsed,
        JoinError::Refused(Refusal::Expired) => ErrorKind::InviteExpired,
        JoinError::Refused(Refusal::Revoked) => ErrorKind::InviteRevoked,
        JoinError::Refused(Refusal::Burnt) => ErrorKind::InviteBurnt,
        JoinError::Refused(Refusal::Busy) => ErrorKind::InviteBusy,
        JoinError::Unreachable(_) => ErrorKind::InviteUnreachable,
        JoinError::Ticket(_) => ErrorKind::InviteMalformed,
        JoinError::WordsDiffer => ErrorKind::WordsDiffer,
        JoinError::Handshake(_) => ErrorKind::InviteWrong,
        JoinError::Setup(_) => ErrorKind::Internal,
    };
    let retry = matches!(kind, ErrorKind::InviteUnreachable | ErrorKind::InviteBusy);
    let detail = match &error {
        JoinError::Refused(_) | JoinError::WordsDiffer => String::new(),
        other => other.to_string(),
    };
    ControlError { retry, ..ControlError::new(kind, "code").detail(detail) }
}
