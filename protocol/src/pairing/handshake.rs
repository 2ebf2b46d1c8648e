//! The handshake's messages and its two ends as machines.

use super::{Invite, InviteKey, Ticket};
use crate::{
    bounded::List,
    codec::Wire,
    id::{DeviceId, GroupId, InviteId},
    membership::{Enrolment, MembershipError, MembershipLog, Role, SignedOp},
    record::{Device, Name},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

/// Most operations in a welcome. It holds all that count, since an admission is worth nothing without what it builds on;
/// the others follow by anti-entropy.
const WELCOME_OPS_MAX: usize = 4096;
/// Most contacts in a welcome.
const CONTACTS_MAX: usize = 64;

/// Why an invite does not let a device in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// No open invite has this secret.
    #[error("wrong")]
    Wrong,
    /// Another device used it.
    #[error("used")]
    Used,
    /// Its time is over.
    #[error("expired")]
    Expired,
    /// It was taken back.
    #[error("revoked")]
    Revoked,
    /// It was tried wrongly too often.
    #[error("burnt")]
    Burnt,
    /// Too many tries at once; later may help.
    #[error("busy")]
    Busy,
}

/// A device of the group and what it says of itself.
pub type Contact = (DeviceId, Device);

/// A message of the handshake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// The joiner begins.
    Open {
        /// Which invite.
        invite: InviteId,
        /// Random.
        nonce: [u8; 32],
    },
    /// The inviter answers.
    Challenge {
        /// Random.
        nonce: [u8; 32],
    },
    /// The joiner proves that it knows the secret.
    Prove {
        /// Its device key and wrapping key.
        enrolment: Enrolment,
        /// How it is called.
        name: Name,
        /// Keyed hash over the transcript.
        proof: [u8; 32],
    },
    /// The joiner is in.
    Welcome {
        /// The inviter's keyed hash over the transcript.
        proof: [u8; 32],
        /// The membership log, the admission included.
        ops: List<SignedOp, WELCOME_OPS_MAX>,
        /// Where the group's devices are.
        contacts: List<Contact, CONTACTS_MAX>,
    },
    /// The joiner is not let in.
    Refuse(Refusal),
}

impl Wire for Message {
    const MAX_BYTES: usize = 8 << 20;
}

/// What both proofs cover.
#[derive(Debug, Clone)]
pub struct Transcript {
    /// The group.
    pub group: GroupId,
    /// The inviting device.
    pub inviter: DeviceId,
    /// The joining device.
    pub joiner: DeviceId,
    /// Keying material of the encrypted stream (RFC 5705), so that a relayed handshake differs at its two ends.
    pub exporter: [u8; 32],
}

impl Transcript {
    fn hash(&self, joiner_nonce: &[u8; 32], inviter_nonce: &[u8; 32]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("larder 2026 pairing transcript v1");
        hasher.update(self.group.as_bytes()).update(self.inviter.as_bytes()).update(self.joiner.as_bytes());
        hasher.update(joiner_nonce).update(inviter_nonce).update(&self.exporter);
        *hasher.finalize().as_bytes()
    }
}

/// Why a handshake ends without a member.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The inviter refused.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// A message came out of turn.
    #[error("message out of turn")]
    OutOfTurn,
    /// The other end does not know the secret.
    #[error("the inviter does not prove that it knows the secret")]
    Imposter,
    /// The enrolment is not the stream's device.
    #[error("the enrolment is of another device")]
    OtherDevice,
    /// The membership log does not hold together.
    #[error("{0}")]
    Membership(#[from] MembershipError),
    /// The membership log does not admit this device.
    #[error("the membership log does not admit this device")]
    NotAdmitted,
    /// The membership log is longer than a welcome may be.
    #[error("the membership log is longer than a welcome may be")]
    LogTooLong,
}

/// The joining end. Call order: [`begin`](Self::begin), then [`handle`](Self::handle) for each message.
#[derive(Debug)]
pub struct JoinerHandshake {
    key: InviteKey,
    transcript: Transcript,
    enrolment: Enrolment,
    name: Name,
    nonce: [u8; 32],
    hash: Option<[u8; 32]>,
}

/// What the joining end does next.
#[derive(Debug)]
pub enum JoinerStep {
    /// Send this and wait for the next message.
    Send(Message),
    /// In.
    Done(Welcomed),
}

/// What a joiner got.
#[derive(Debug)]
pub struct Welcomed {
    /// The membership log; it admits this device.
    pub log: MembershipLog,
    /// Where the group's devices are.
    pub contacts: Vec<Contact>,
}

impl JoinerHandshake {
    /// Prepares with a ticket, the stream's keying material, this device, its name, and a random nonce.
    pub fn new(ticket: &Ticket, exporter: [u8; 32], enrolment: Enrolment, name: Name, nonce: [u8; 32]) -> Self {
        let transcript =
            Transcript { group: ticket.group, inviter: ticket.inviter, joiner: enrolment.device, exporter };
        Self { key: InviteKey::from_secret(&ticket.secret), transcript, enrolment, name, nonce, hash: None }
    }

    /// The first message.
    pub fn begin(&self) -> Message {
        Message::Open { invite: self.key.id(), nonce: self.nonce }
    }

    /// Handles the inviter's message.
    ///
    /// # Errors
    /// [`HandshakeError`] ends the handshake; nothing has changed here.
    pub fn handle(&mut self, message: Message) -> Result<JoinerStep, HandshakeError> {
        match (message, self.hash) {
            (Message::Refuse(refusal), _) => Err(HandshakeError::Refused(refusal)),
            (Message::Challenge { nonce }, None) => {
                let hash = self.transcript.hash(&self.nonce, &nonce);
                self.hash = Some(hash);
                Ok(JoinerStep::Send(Message::Prove {
                    enrolment: self.enrolment.clone(),
                    name: self.name.clone(),
                    proof: self.key.joiner_proof(&hash),
                }))
            }
            (Message::Welcome { proof, ops, contacts }, Some(hash)) => {
                if !bool::from(self.key.inviter_proof(&hash).ct_eq(&proof)) {
                    return Err(HandshakeError::Imposter);
                }
                let mut log = MembershipLog::empty(self.transcript.group);
                for op in ops.iter() {
                    log.insert(op.clone())?;
                }
                if log.role(&self.enrolment.device).is_none() || log.role(&self.transcript.inviter).is_none() {
                    return Err(HandshakeError::NotAdmitted);
                }
                Ok(JoinerStep::Done(Welcomed { log, contacts: contacts.into_vec() }))
            }
            _ => Err(HandshakeError::OutOfTurn),
        }
    }
}

/// The inviting end. Call order: [`handle`](Self::handle) for each message; after [`InviterStep::Admit`] the caller makes
/// invite and admission durable, in this order, and calls [`welcome`](Self::welcome).
#[derive(Debug)]
pub struct InviterHandshake {
    transcript: Transcript,
    nonce: [u8; 32],
    opened: Option<(InviteId, [u8; 32])>,
    proof: Option<[u8; 32]>,
}

/// What the inviting end does next.
#[derive(Debug)]
pub enum InviterStep {
    /// Send this and wait for the next message.
    Send(Message),
    /// Make the changed invite durable; nobody is admitted. Then send this and end.
    Refuse {
        /// The invite as it is now, if one was named.
        changed: Option<Box<Invite>>,
        /// What to send.
        message: Message,
    },
    /// Make the burnt invite durable, then admit this device, then call [`InviterHandshake::welcome`].
    Admit {
        /// The invite as it is now.
        burnt: Box<Invite>,
        /// The device.
        enrolment: Enrolment,
        /// How it is called.
        name: Name,
        /// What it may do.
        role: Role,
    },
}

impl InviterHandshake {
    /// Prepares for a stream from a device, with the stream's keying material and a random nonce.
    pub fn new(group: GroupId, inviter: DeviceId, joiner: DeviceId, exporter: [u8; 32], nonce: [u8; 32]) -> Self {
        Self { transcript: Transcript { group, inviter, joiner, exporter }, nonce, opened: None, proof: None }
    }

    /// Handles the joiner's message; `find` looks an invite up.
    ///
    /// # Errors
    /// [`HandshakeError`] ends the handshake without an answer.
    pub fn handle(
        &mut self,
        message: Message,
        now: Timestamp,
        find: impl FnOnce(&InviteId) -> Option<Invite>,
    ) -> Result<InviterStep, HandshakeError> {
        match (message, self.opened) {
            (Message::Open { invite, nonce }, None) => {
                self.opened = Some((invite, self.transcript.hash(&nonce, &self.nonce)));
                Ok(InviterStep::Send(Message::Challenge { nonce: self.nonce }))
            }
            (Message::Prove { enrolment, name, proof }, Some((id, hash))) if self.proof.is_none() => {
                if enrolment.device != self.transcript.joiner {
                    return Err(HandshakeError::OtherDevice);
                }
                enrolment.verify()?;
                // A proof that names no invite says nothing about any of them, so that strangers cannot burn one.
                let Some(mut invite) = find(&id) else {
                    return Ok(InviterStep::Refuse { changed: None, message: Message::Refuse(Refusal::Wrong) });
                };
                match invite.judge(enrolment.device, &hash, &proof, now) {
                    Ok(()) => {
                        self.proof = Some(invite.key.inviter_proof(&hash));
                        let role = invite.role;
                        Ok(InviterStep::Admit { burnt: Box::new(invite), enrolment, name, role })
                    }
                    Err(refusal) => {
                        Ok(InviterStep::Refuse { changed: Some(Box::new(invite)), message: Message::Refuse(refusal) })
                    }
                }
            }
            _ => Err(HandshakeError::OutOfTurn),
        }
    }

    /// The last message, once the admission is durable.
    ///
    /// # Errors
    /// [`HandshakeError::OutOfTurn`] when nobody was admitted, [`HandshakeError::LogTooLong`] when the log does not fit.
    pub fn welcome(
        &self,
        log: &MembershipLog,
        contacts: impl IntoIterator<Item = Contact>,
    ) -> Result<Message, HandshakeError> {
        Ok(Message::Welcome {
            proof: self.proof.ok_or(HandshakeError::OutOfTurn)?,
            ops: List::new(log.counted()).map_err(|_| HandshakeError::LogTooLong)?,
            contacts: List::truncated(contacts),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bounded::{Bytes, Text},
        codec::laws,
        id::{EpochId, MembershipOpId},
        membership::{Admit, CreateRandomness, MembershipOp, RecoveryKey, SealedName, WrappedSecret, WrappingKey},
        pairing::InviteState,
    };
    use ed25519_dalek::SigningKey;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp(5);
    const EPOCH: EpochId = EpochId::new([1; 16]);

    fn key(number: u8) -> SigningKey {
        SigningKey::from_bytes(&[number; 32])
    }

    struct World {
        log: MembershipLog,
        invite: Invite,
        ticket: Ticket,
    }

    fn world() -> World {
        let random = CreateRandomness { group: [1; 32], ephemeral: [[2; 32], [3; 32]], nonces: [[4; 24], [5; 24]] };
        let wrapping = WrappingKey::from_bytes([7; 32]).public();
        let recovery = RecoveryKey::from_entropy([9; 32]);
        let name = Name::new("x").unwrap();
        let log = MembershipLog::create(&key(1), wrapping, &name, &name, &recovery, EPOCH, &[6; 32], &random).unwrap();
        let inviter = DeviceId::new(key(1).verifying_key().to_bytes());
        let ticket = Ticket::new(log.group(), inviter, [], [8; 16], Role::Writer, NOW);
        World { log, invite: Invite::open(&[8; 16], Role::Writer, NOW), ticket }
    }

    fn joiner(ticket: &Ticket, number: u8, exporter: [u8; 32]) -> JoinerHandshake {
        let enrolment = Enrolment::sign(WrappingKey::from_bytes([number; 32]).public(), &key(number));
        JoinerHandshake::new(ticket, exporter, enrolment, Name::new("new").unwrap(), [number; 32])
    }

    /// Runs a whole handshake; gives what the joiner ends with.
    fn run(
        world: &mut World,
        mut joiner: JoinerHandshake,
        joiner_number: u8,
        exporter: [u8; 32],
    ) -> Result<Welcomed, HandshakeError> {
        let device = DeviceId::new(key(joiner_number).verifying_key().to_bytes());
        let mut inviter = InviterHandshake::new(world.log.group(), world.ticket.inviter, device, exporter, [0x77; 32]);
        let mut message = joiner.begin();
        loop {
            laws::check(&message);
            let invite = world.invite.clone();
            let reply = match inviter.handle(message, NOW, |id| (*id == invite.id()).then_some(invite))? {
                InviterStep::Send(reply) => reply,
                InviterStep::Refuse { changed, message } => {
                    if let Some(changed) = changed {
                        world.invite = *changed;
                    }
                    message
                }
                InviterStep::Admit { burnt, enrolment, name, role } => {
                    world.invite = *burnt;
                    if world.log.role(&enrolment.device).is_none() {
                        let wrapped = WrappedSecret::wrap(&[6; 32], &enrolment.wrapping, [3; 32]).unwrap();
                        let admit = Admit {
                            name: SealedName::seal(&name, EPOCH, &[6; 32], [9; 24]),
                            member: enrolment,
                            role,
                            epochs: List::new(vec![(EPOCH, wrapped)]).unwrap(),
                        };
                        world.log.admit(&key(1), &admit).unwrap();
                    }
                    let device = Device {
                        name,
                        control: List::new(vec![Text::new("/ip4/127.0.0.1/tcp/1").unwrap()]).unwrap(),
                        data: List::default(),
                    };
                    inviter.welcome(&world.log, [(world.ticket.inviter, device)]).unwrap()
                }
            };
            match joiner.handle(reply)? {
                JoinerStep::Send(next) => message = next,
                JoinerStep::Done(welcomed) => return Ok(welcomed),
            }
        }
    }

    #[test]
    fn a_ticket_lets_one_device_in_and_a_lost_reply_may_be_asked_for_again() {
        let mut world = world();
        let ticket = world.ticket.clone();
        let welcomed = run(&mut world, joiner(&ticket, 2, [1; 32]), 2, [1; 32]).unwrap();
        assert_eq!(welcomed.contacts.len(), 1);
        let again = run(&mut world, joiner(&ticket, 2, [2; 32]), 2, [2; 32]).unwrap();
        assert_eq!(again.log.hash(), welcomed.log.hash());
        let other = run(&mut world, joiner(&ticket, 3, [1; 32]), 3, [1; 32]).unwrap_err();
        assert_eq!(other, HandshakeError::Refused(Refusal::Used));
    }

    /// A welcome held the first 1,024 operations in order of id, so that a member who filled the log with operations that
    /// do not count kept everybody from joining: the joiner's own admission was not among them.
    #[test]
    fn nobody_can_crowd_the_admission_out_of_the_welcome() {
        let mut world = world();
        let group = world.log.group();
        for seq in 0..1_100 {
            let op = MembershipOp {
                group: Some(group),
                author: DeviceId::new(key(77).verifying_key().to_bytes()),
                seq,
                previous: List::new(vec![MembershipOpId::new([9; 32])]).unwrap(),
                kind: 900,
                body: Bytes::default(),
            };
            world.log.insert(SignedOp::sign(&op, &key(77)).unwrap()).unwrap();
        }
        let ticket = world.ticket.clone();
        let welcomed = run(&mut world, joiner(&ticket, 2, [1; 32]), 2, [1; 32]).unwrap();
        assert_eq!(welcomed.log.ops().count(), 2);
    }

    #[test]
    fn a_wrong_secret_names_no_invite_and_burns_none() {
        let mut world = world();
        let mut ticket = world.ticket.clone();
        ticket.secret = [9; 16];
        for _ in 0..10 {
            let refused = run(&mut world, joiner(&ticket, 2, [1; 32]), 2, [1; 32]).unwrap_err();
            assert_eq!(refused, HandshakeError::Refused(Refusal::Wrong));
        }
        assert_eq!((world.invite.state, world.invite.bad_proofs), (InviteState::Open, 0));
    }

    #[test]
    fn a_relayed_handshake_fails_because_its_two_streams_differ() {
        let mut world = world();
        let ticket = world.ticket.clone();
        let refused = run(&mut world, joiner(&ticket, 2, [1; 32]), 2, [2; 32]).unwrap_err();
        assert_eq!(refused, HandshakeError::Refused(Refusal::Wrong));
    }

    #[test]
    fn an_inviter_without_the_secret_is_found_out() {
        let mut world = world();
        world.invite.key = InviteKey::from_secret(&[9; 16]);
        let ticket = world.ticket.clone();
        let mut joiner = joiner(&ticket, 2, [1; 32]);
        joiner.begin();
        joiner.handle(Message::Challenge { nonce: [0; 32] }).unwrap();
        let forged = Message::Welcome {
            proof: [0; 32],
            ops: List::truncated(world.log.ops().cloned()),
            contacts: List::default(),
        };
        assert_eq!(joiner.handle(forged).unwrap_err(), HandshakeError::Imposter);
    }

    #[test]
    fn messages_out_of_turn_end_it() {
        let world = world();
        let mut joiner = joiner(&world.ticket, 2, [1; 32]);
        let early = Message::Welcome { proof: [0; 32], ops: List::default(), contacts: List::default() };
        assert_eq!(joiner.handle(early).unwrap_err(), HandshakeError::OutOfTurn);
        let device = DeviceId::new([2; 32]);
        let mut inviter = InviterHandshake::new(world.log.group(), world.ticket.inviter, device, [0; 32], [0; 32]);
        let challenge = Message::Challenge { nonce: [0; 32] };
        assert_eq!(inviter.handle(challenge, NOW, |_| None).unwrap_err(), HandshakeError::OutOfTurn);
        assert!(inviter.welcome(&world.log, []).is_err());
    }

    proptest! {
        #[test]
        fn random_bytes_are_no_message(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            laws::check_random::<Message>(&bytes);
        }
    }
}
