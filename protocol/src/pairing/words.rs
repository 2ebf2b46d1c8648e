//! From a short code to a ticket's secret: SPAKE2 (RFC 9382 in the variant of the `spake2` crate) with both devices and
//! the group as identities.
//!
//! ```text
//! joiner                                            inviter
//!   Open {number, commitment}                  ─►
//!                                              ◄─   Answer {nonce, group tag, element}
//!   Confirm {nonce, element, confirmation}     ─►
//!                                                   counts a wrong one durably; the third burns the code
//!                                              ◄─   Confirmed {confirmation, group} or Refuse {reason}
//!   both show four words, both people say yes
//!   handshake with the secret as a ticket's    ◄─►
//! ```
//!
//! A run tells either end only whether *one* guess was right, and the joiner confirms first, so that an end that breaks
//! off has learnt nothing and a wrong guess is always counted. The group is told to who has confirmed; before, a tag stands
//! for it. The four words cover both devices, both nonces and the stream's keying material, and nothing that either end
//! may choose once it knows the other's nonce: the joiner commits to its own before. So nobody in the middle, even with
//! the code, can search for two streams with equal words.

use super::{
    Invite, Refusal, Ticket,
    code::{Code, words},
};
use crate::{
    bounded::Bytes,
    codec::Wire,
    id::{DeviceId, GroupId},
    membership::Role,
    time::Timestamp,
};
use rand_core::{CryptoRng, RngCore};
use serde::{Deserialize, Serialize};
use spake2::{Ed25519Group, Identity, Password, Spake2};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

/// Wrong codes that burn one.
pub const FAILURES_MAX: u8 = 3;
/// Longest time that a code may be used: 5 minutes.
pub const CODE_TTL_MS_MAX: i64 = 5 * 60 * 1000;
const ELEMENT_BYTES: usize = 33;

/// A message of the key exchange.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WordsMessage {
    /// The joiner begins.
    Open {
        /// The code's number.
        number: u8,
        /// Hash of the nonce that it tells later.
        commitment: [u8; 32],
    },
    /// The inviter answers.
    Answer {
        /// Random.
        nonce: [u8; 32],
        /// Hash of the group, which the inviter tells later.
        group_tag: [u8; 32],
        /// Its share of the exchange.
        element: Bytes<ELEMENT_BYTES>,
    },
    /// The joiner proves that it knows the code.
    Confirm {
        /// What it committed to.
        nonce: [u8; 32],
        /// Its share of the exchange.
        element: Bytes<ELEMENT_BYTES>,
        /// Keyed hash over the transcript.
        confirmation: [u8; 32],
    },
    /// The inviter proves the same.
    Confirmed {
        /// Keyed hash over the transcript.
        confirmation: [u8; 32],
        /// The group.
        group: GroupId,
    },
    /// The code does not let this device in.
    Refuse(Refusal),
}

impl Wire for WordsMessage {
    const MAX_BYTES: usize = 256;
}

/// Why a key exchange ends without a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WordsError {
    /// The inviter refused.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// A message came out of turn.
    #[error("message out of turn")]
    OutOfTurn,
    /// What came is no share of the exchange.
    #[error("malformed share of the key exchange")]
    Share,
    /// The nonce is not the one that was committed to.
    #[error("the joiner committed to another nonce")]
    Commitment,
    /// The other end does not know the code.
    #[error("the inviter does not prove that it knows the code")]
    Imposter,
}

/// What became of a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CodeState {
    /// Nobody has used it.
    Open,
    /// This device knew it; it may ask again until the code's time is over.
    Used(DeviceId),
    /// Tried wrongly too often.
    Burnt,
    /// Taken back.
    Revoked,
}

/// A code as its inviter keeps it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeInvite {
    /// The code's number.
    pub number: u8,
    password: [u8; 32],
    /// Role of who joins.
    pub role: Role,
    /// When it ends, by this device's clock.
    pub not_after: Timestamp,
    /// What became of it.
    pub state: CodeState,
    /// Wrong codes so far.
    pub failures: u8,
}

impl std::fmt::Debug for CodeInvite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CodeInvite").field("number", &self.number).field("state", &self.state).finish_non_exhaustive()
    }
}

impl Wire for CodeInvite {
    const MAX_BYTES: usize = 256;
}

impl Drop for CodeInvite {
    fn drop(&mut self) {
        self.password.zeroize();
    }
}

impl CodeInvite {
    /// A new one, good until `not_after` and no longer than [`CODE_TTL_MS_MAX`] from now.
    pub fn open(code: &Code, role: Role, now: Timestamp, not_after: Timestamp) -> Self {
        let not_after = not_after.min(now.plus_millis(CODE_TTL_MS_MAX));
        let password = *code.password();
        Self { number: code.number(), password, role, not_after, state: CodeState::Open, failures: 0 }
    }

    /// Takes it back, unless it was used.
    pub fn revoke(&mut self) {
        if self.state == CodeState::Open {
            self.state = CodeState::Revoked;
        }
    }

    /// Whether it may be tried.
    fn refusal(&self, joiner: DeviceId, now: Timestamp) -> Option<Refusal> {
        match self.state {
            _ if now > self.not_after => Some(Refusal::Expired),
            CodeState::Burnt => Some(Refusal::Burnt),
            CodeState::Revoked => Some(Refusal::Revoked),
            CodeState::Used(by) if by != joiner => Some(Refusal::Used),
            CodeState::Open | CodeState::Used(_) => None,
        }
    }

    /// Notes whether a joiner knew the code.
    fn judge(&mut self, joiner: DeviceId, right: bool, now: Timestamp) -> Result<(), Refusal> {
        if let Some(refusal) = self.refusal(joiner, now) {
            return Err(refusal);
        }
        if right {
            self.state = CodeState::Used(joiner);
            return Ok(());
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures >= FAILURES_MAX {
            self.state = CodeState::Burnt;
        }
        Err(Refusal::Wrong)
    }
}

/// The two ends and their stream.
#[derive(Debug, Clone, Copy)]
struct Ends {
    inviter: DeviceId,
    joiner: DeviceId,
    exporter: [u8; 32],
}

/// What both ends have said before either knew the other's nonce, and the joiner's.
struct Said {
    number: u8,
    commitment: [u8; 32],
    inviter_nonce: [u8; 32],
    group_tag: [u8; 32],
}

/// Keys of a finished exchange.
struct Keys {
    key: Zeroizing<[u8; 32]>,
    transcript: [u8; 32],
}

impl Keys {
    /// `shared` already covers both shares of the exchange.
    fn new(shared: &[u8], ends: &Ends, said: &Said, joiner_nonce: &[u8; 32]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("larder 2026 pairing words transcript v1");
        hasher.update(ends.inviter.as_bytes()).update(ends.joiner.as_bytes()).update(&ends.exporter);
        hasher.update(&[said.number]).update(&said.commitment).update(joiner_nonce);
        hasher.update(&said.inviter_nonce).update(&said.group_tag);
        let transcript = *hasher.finalize().as_bytes();
        let key = Zeroizing::new(blake3::derive_key("larder 2026 pairing words key v1", shared));
        Self { key, transcript }
    }

    fn purpose(&self, context: &str) -> [u8; 32] {
        let key = Zeroizing::new(blake3::derive_key(context, &*self.key));
        *blake3::keyed_hash(&key, &self.transcript).as_bytes()
    }

    fn joiner_confirmation(&self) -> [u8; 32] {
        self.purpose("larder 2026 pairing words joiner confirmation v1")
    }

    fn inviter_confirmation(&self, group: &GroupId) -> [u8; 32] {
        let key = Zeroizing::new(self.purpose("larder 2026 pairing words inviter confirmation v1"));
        *blake3::keyed_hash(&key, group.as_bytes()).as_bytes()
    }

    fn paired(&self, group: GroupId) -> Paired {
        let hash = Zeroizing::new(self.purpose("larder 2026 pairing words secret v1"));
        let mut secret = Zeroizing::new([0; 16]);
        secret.copy_from_slice(&hash[..16]);
        let check = blake3::derive_key("larder 2026 pairing words to compare v1", &self.transcript);
        let numbers: Vec<u16> = check.chunks_exact(2).take(4).map(|two| u16::from_le_bytes([two[0], two[1]])).collect();
        Paired { group, secret, check: words(&numbers) }
    }
}

/// What both ends share after the exchange.
pub struct Paired {
    /// The group that the joiner joins.
    pub group: GroupId,
    /// Takes the place of a ticket's secret.
    pub secret: Zeroizing<[u8; 16]>,
    check: Vec<&'static str>,
}

impl std::fmt::Debug for Paired {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Paired").field("group", &self.group).finish_non_exhaustive()
    }
}

impl Paired {
    /// The four words that both screens show. People go on only when they are equal.
    pub fn check_words(&self) -> String {
        self.check.join(" ")
    }

    /// The ticket with which the joiner goes on over the same stream, once its person has said yes. Role and end are the
    /// inviter's to know; nothing looks at the ones in here.
    pub fn ticket(&self, inviter: DeviceId) -> Ticket {
        Ticket::new(self.group, inviter, [], *self.secret, Role::Reader, Timestamp::from_millis(0))
    }

    /// The invite with which the inviter goes on, once its person has said yes.
    pub fn invite(&self, code: &CodeInvite) -> Invite {
        Invite::open(&self.secret, code.role, code.not_after)
    }
}

fn group_tag(group: &GroupId, commitment: &[u8; 32], inviter_nonce: &[u8; 32]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("larder 2026 pairing words group tag v1");
    *hasher.update(group.as_bytes()).update(commitment).update(inviter_nonce).finalize().as_bytes()
}

fn commitment(nonce: &[u8; 32]) -> [u8; 32] {
    blake3::derive_key("larder 2026 pairing words commitment v1", nonce)
}

/// A seed as a source of random numbers, for the crate that wants one.
struct Seeded(blake3::OutputReader);

impl Seeded {
    fn new(seed: &[u8; 32]) -> Self {
        Self(blake3::Hasher::new_derive_key("larder 2026 pairing words scalar v1").update(seed).finalize_xof())
    }
}

impl RngCore for Seeded {
    fn next_u32(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn fill_bytes(&mut self, dest: &mut [u8]) {
        self.0.fill(dest);
    }

    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), rand_core::Error> {
        self.fill_bytes(dest);
        Ok(())
    }
}

impl CryptoRng for Seeded {}

type Exchange = Spake2<Ed25519Group>;

/// The two devices and, behind its tag, the group.
fn identities(ends: &Ends, said: &Said) -> (Identity, Identity) {
    let identity = |what: &[u8], device: &DeviceId| Identity::new(&[what, device.as_bytes(), &said.group_tag].concat());
    (identity(b"larder joiner v1\0", &ends.joiner), identity(b"larder inviter v1\0", &ends.inviter))
}

fn share(element: Vec<u8>) -> Bytes<ELEMENT_BYTES> {
    Bytes::new(element).expect("a share of the exchange has 33 bytes")
}

/// The joining end. Call order: [`begin`](Self::begin), then [`handle`](Self::handle) for each message.
pub struct WordsJoiner {
    ends: Ends,
    number: u8,
    password: Zeroizing<[u8; 32]>,
    random: Zeroizing<[[u8; 32]; 2]>,
    stage: JoinerStage,
}

enum JoinerStage {
    Begun,
    Confirmed(Keys, Said),
    Over,
}

/// What the joining end does next.
#[derive(Debug)]
pub enum JoinerWordsStep {
    /// Send this and wait for the next message.
    Send(WordsMessage),
    /// Show the words; when the person says yes, go on with the ticket.
    Done(Paired),
}

impl WordsJoiner {
    /// Prepares with the code, who answers at the other end of the stream, this device, the stream's keying material, and
    /// 64 random bytes.
    pub fn new(code: &Code, inviter: DeviceId, joiner: DeviceId, exporter: [u8; 32], random: [[u8; 32]; 2]) -> Self {
        Self {
            ends: Ends { inviter, joiner, exporter },
            number: code.number(),
            password: code.password(),
            random: Zeroizing::new(random),
            stage: JoinerStage::Begun,
        }
    }

    /// The first message.
    pub fn begin(&self) -> WordsMessage {
        WordsMessage::Open { number: self.number, commitment: commitment(&self.random[1]) }
    }

    /// Handles the inviter's message.
    ///
    /// # Errors
    /// [`WordsError`] ends the exchange. [`WordsError::Imposter`] and a wrong code look alike to the person.
    pub fn handle(&mut self, message: WordsMessage) -> Result<JoinerWordsStep, WordsError> {
        match (message, std::mem::replace(&mut self.stage, JoinerStage::Over)) {
            (WordsMessage::Refuse(refusal), _) => Err(WordsError::Refused(refusal)),
            (WordsMessage::Answer { nonce: inviter_nonce, group_tag, element }, JoinerStage::Begun) => {
                let nonce = self.random[1];
                let said = Said { number: self.number, commitment: commitment(&nonce), inviter_nonce, group_tag };
                let (joiner, inviter) = identities(&self.ends, &said);
                let (password, rng) = (Password::new(*self.password), Seeded::new(&self.random[0]));
                let (exchange, own) = Exchange::start_a_with_rng(&password, &joiner, &inviter, rng);
                let shared = Zeroizing::new(exchange.finish(&element).map_err(|_| WordsError::Share)?);
                let keys = Keys::new(&shared, &self.ends, &said, &nonce);
                let confirmation = keys.joiner_confirmation();
                self.stage = JoinerStage::Confirmed(keys, said);
                Ok(JoinerWordsStep::Send(WordsMessage::Confirm { nonce, element: share(own), confirmation }))
            }
            (WordsMessage::Confirmed { confirmation, group }, JoinerStage::Confirmed(keys, said)) => {
                let right = keys.inviter_confirmation(&group).ct_eq(&confirmation);
                if !bool::from(right) || said.group_tag != group_tag(&group, &said.commitment, &said.inviter_nonce) {
                    return Err(WordsError::Imposter);
                }
                Ok(JoinerWordsStep::Done(keys.paired(group)))
            }
            _ => Err(WordsError::OutOfTurn),
        }
    }
}

/// The inviting end. Call order: [`handle`](Self::handle) for each message. Between looking a code up for the second
/// message and making what changed durable, no other stream may look it up: each try counts.
pub struct WordsInviter {
    ends: Ends,
    group: GroupId,
    random: Zeroizing<[[u8; 32]; 2]>,
    stage: Stage,
}

enum Stage {
    Open,
    Answered(Box<(Exchange, Said)>),
    Over,
}

/// What the inviting end does next.
#[derive(Debug)]
pub enum InviterWordsStep {
    /// Send this and wait for the next message.
    Send(WordsMessage),
    /// Make the changed code durable, if it changed. Then send this and end.
    Refuse {
        /// The code as it is now.
        changed: Option<Box<CodeInvite>>,
        /// What to send.
        message: WordsMessage,
    },
    /// Make the used code durable, then send this and show the words; when the person says yes, go on with the invite.
    Confirmed {
        /// The code as it is now.
        used: Box<CodeInvite>,
        /// What to send.
        message: WordsMessage,
        /// What both ends share.
        paired: Paired,
    },
}

impl WordsInviter {
    /// Prepares for a stream from a device, with the stream's keying material and 64 random bytes.
    pub fn new(group: GroupId, inviter: DeviceId, joiner: DeviceId, exporter: [u8; 32], random: [[u8; 32]; 2]) -> Self {
        let ends = Ends { inviter, joiner, exporter };
        Self { ends, group, random: Zeroizing::new(random), stage: Stage::Open }
    }

    /// Handles the joiner's message; `find` looks a code up by its number.
    ///
    /// # Errors
    /// [`WordsError`] ends the exchange without an answer; it says nothing of the code.
    pub fn handle(
        &mut self,
        message: WordsMessage,
        now: Timestamp,
        find: impl FnOnce(u8) -> Option<CodeInvite>,
    ) -> Result<InviterWordsStep, WordsError> {
        let refuse = |changed: Option<CodeInvite>, refusal| {
            let message = WordsMessage::Refuse(refusal);
            Ok(InviterWordsStep::Refuse { changed: changed.map(Box::new), message })
        };
        match (message, std::mem::replace(&mut self.stage, Stage::Over)) {
            (WordsMessage::Open { number, commitment }, Stage::Open) => {
                let Some(invite) = find(number) else { return refuse(None, Refusal::Wrong) };
                if let Some(refusal) = invite.refusal(self.ends.joiner, now) {
                    return refuse(None, refusal);
                }
                let nonce = self.random[1];
                let group_tag = group_tag(&self.group, &commitment, &nonce);
                let said = Said { number, commitment, inviter_nonce: nonce, group_tag };
                let (joiner, inviter) = identities(&self.ends, &said);
                let (password, rng) = (Password::new(invite.password), Seeded::new(&self.random[0]));
                let (exchange, own) = Exchange::start_b_with_rng(&password, &joiner, &inviter, rng);
                self.stage = Stage::Answered(Box::new((exchange, said)));
                Ok(InviterWordsStep::Send(WordsMessage::Answer { nonce, group_tag, element: share(own) }))
            }
            (WordsMessage::Confirm { nonce, element, confirmation }, Stage::Answered(run)) => {
                let (exchange, said) = *run;
                if said.commitment != commitment(&nonce) {
                    return Err(WordsError::Commitment);
                }
                let shared = exchange.finish(&element).map_err(|_| WordsError::Share)?;
                let keys = Keys::new(&Zeroizing::new(shared), &self.ends, &said, &nonce);
                let Some(mut invite) = find(said.number) else { return refuse(None, Refusal::Wrong) };
                let right = bool::from(keys.joiner_confirmation().ct_eq(&confirmation));
                match invite.judge(self.ends.joiner, right, now) {
                    Ok(()) => Ok(InviterWordsStep::Confirmed {
                        used: Box::new(invite),
                        message: WordsMessage::Confirmed {
                            confirmation: keys.inviter_confirmation(&self.group),
                            group: self.group,
                        },
                        paired: keys.paired(self.group),
                    }),
                    Err(refusal) => refuse(Some(invite), refusal),
                }
            }
            _ => Err(WordsError::OutOfTurn),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        codec::laws,
        pairing::{InviteKey, InviteState},
    };
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp(1_000);
    const GROUP: GroupId = GroupId::new([7; 32]);

    fn code() -> Code {
        Code::from_text("37-apple-river-onion").unwrap()
    }

    fn device(number: u8) -> DeviceId {
        DeviceId::new([number; 32])
    }

    fn open() -> CodeInvite {
        CodeInvite::open(&code(), Role::Writer, NOW, Timestamp(2_000))
    }

    fn joiner(code: &Code, number: u8, exporter: u8) -> WordsJoiner {
        WordsJoiner::new(code, device(1), device(number), [exporter; 32], [[number; 32], [number + 100; 32]])
    }

    fn inviter(number: u8, exporter: u8) -> WordsInviter {
        WordsInviter::new(GROUP, device(1), device(number), [exporter; 32], [[50 + exporter; 32], [60; 32]])
    }

    fn relay(
        invite: &mut CodeInvite,
        mut joiner: WordsJoiner,
        mut inviter: WordsInviter,
    ) -> Result<(Paired, Paired), WordsError> {
        let (mut message, mut shown) = (joiner.begin(), None);
        loop {
            laws::check(&message);
            let step = inviter.handle(message, NOW, |number| (number == invite.number).then(|| invite.clone()))?;
            let reply = match step {
                InviterWordsStep::Send(reply) => reply,
                InviterWordsStep::Refuse { changed, message } => {
                    changed.into_iter().for_each(|changed| *invite = *changed);
                    message
                }
                InviterWordsStep::Confirmed { used, message, paired } => {
                    *invite = *used;
                    shown = Some(paired);
                    message
                }
            };
            laws::check(&reply);
            match joiner.handle(reply)? {
                JoinerWordsStep::Send(next) => message = next,
                JoinerWordsStep::Done(paired) => return Ok((paired, shown.expect("the inviter confirmed"))),
            }
        }
    }

    #[test]
    fn the_code_gives_both_the_same_secret_and_the_same_words() {
        let mut invite = open();
        laws::check(&invite);
        let (a, b) = relay(&mut invite, joiner(&code(), 2, 9), inviter(2, 9)).unwrap();
        assert_eq!((a.group, &a.secret, a.check_words()), (GROUP, &b.secret, b.check_words()));
        assert_eq!(a.check_words().split(' ').count(), 4);
        assert_eq!(invite.state, CodeState::Used(device(2)));
        let ticket = a.ticket(device(1));
        let opened = b.invite(&invite);
        assert_eq!((opened.id(), opened.state), (InviteKey::from_secret(&ticket.secret).id(), InviteState::Open));
        let again = relay(&mut invite, joiner(&code(), 2, 10), inviter(2, 10)).unwrap();
        assert_ne!(again.0.secret, a.secret);
        let other = relay(&mut invite, joiner(&code(), 3, 9), inviter(3, 9)).unwrap_err();
        assert_eq!(other, WordsError::Refused(Refusal::Used));
    }

    #[test]
    fn three_wrong_codes_burn_it() {
        let mut invite = open();
        let wrong = Code::from_text("37-apple-river-orange").unwrap();
        for tries in 1..=FAILURES_MAX {
            let refused = relay(&mut invite, joiner(&wrong, 2, 9), inviter(2, 9)).unwrap_err();
            assert_eq!((refused, invite.failures), (WordsError::Refused(Refusal::Wrong), tries));
        }
        let refused = relay(&mut invite, joiner(&code(), 2, 9), inviter(2, 9)).unwrap_err();
        assert_eq!(refused, WordsError::Refused(Refusal::Burnt));
        let other = Code::from_text("38-apple-river-onion").unwrap();
        let mut invite = open();
        let refused = relay(&mut invite, joiner(&other, 2, 9), inviter(2, 9)).unwrap_err();
        assert_eq!((refused, invite.failures), (WordsError::Refused(Refusal::Wrong), 0));
    }

    /// Somebody breaks off after the inviter's share: it has seen nothing that depends on the words in a way that it could
    /// test, and so nothing is counted.
    #[test]
    fn the_inviter_confirms_only_after_the_joiner() {
        let invite = open();
        let mut inviter = inviter(2, 9);
        let first = joiner(&code(), 2, 9).begin();
        let step = inviter.handle(first, NOW, |_| Some(invite.clone())).unwrap();
        assert!(matches!(step, InviterWordsStep::Send(WordsMessage::Answer { .. })));
    }

    #[test]
    fn expired_and_revoked_codes_are_refused_at_once() {
        let mut invite = open();
        invite.not_after = Timestamp(999);
        let refused = relay(&mut invite, joiner(&code(), 2, 9), inviter(2, 9)).unwrap_err();
        assert_eq!(refused, WordsError::Refused(Refusal::Expired));
        let mut invite = open();
        invite.revoke();
        let refused = relay(&mut invite, joiner(&code(), 2, 9), inviter(2, 9)).unwrap_err();
        assert_eq!(refused, WordsError::Refused(Refusal::Revoked));
        let long = CodeInvite::open(&code(), Role::Reader, NOW, Timestamp(i64::MAX));
        assert_eq!(long.not_after, NOW.plus_millis(CODE_TTL_MS_MAX));
    }

    /// A wrong guess on another stream, while this one was under way, burns the code for this one too.
    #[test]
    fn the_code_is_looked_up_again_before_it_is_judged() {
        let (mut ready, invite) = (inviter(2, 9), open());
        let mut joiner = joiner(&code(), 2, 9);
        let Ok(InviterWordsStep::Send(answer)) = ready.handle(joiner.begin(), NOW, |_| Some(invite.clone())) else {
            panic!("an open code is answered")
        };
        let Ok(JoinerWordsStep::Send(confirm)) = joiner.handle(answer) else { panic!("an answer is confirmed") };
        let burnt = CodeInvite { state: CodeState::Burnt, ..invite.clone() };
        let step = ready.handle(confirm, NOW, |_| Some(burnt)).unwrap();
        let InviterWordsStep::Refuse { message, .. } = step else { panic!("a burnt code lets nobody in") };
        assert_eq!(message, WordsMessage::Refuse(Refusal::Burnt));
    }

    /// Somebody in the middle who knows the code runs it with each end; the words differ, because the streams do.
    #[test]
    fn somebody_in_the_middle_shows_other_words() {
        let mut theirs = open();
        let (a, _) = relay(&mut open(), joiner(&code(), 2, 9), inviter(2, 9)).unwrap();
        let (b, _) = relay(&mut theirs, joiner(&code(), 2, 10), inviter(2, 10)).unwrap();
        assert_ne!(a.check_words(), b.check_words());
        let relayed = relay(&mut open(), joiner(&code(), 2, 9), inviter(2, 10)).unwrap_err();
        assert_eq!(relayed, WordsError::Refused(Refusal::Wrong));
    }

    #[test]
    fn each_end_refuses_what_does_not_fit() {
        let invite = open();
        let find = |_: u8| Some(invite.clone());
        let start = || {
            let (mut end, mut joiner) = (inviter(2, 9), joiner(&code(), 2, 9));
            let Ok(InviterWordsStep::Send(answer)) = end.handle(joiner.begin(), NOW, find) else { panic!("answered") };
            let Ok(JoinerWordsStep::Send(confirm)) = joiner.handle(answer) else { panic!("confirmed") };
            (end, joiner, confirm)
        };
        let (mut end, mut waiting, confirm) = start();
        let WordsMessage::Confirm { nonce, element, confirmation } = confirm.clone() else { panic!("a confirmation") };
        let other = WordsMessage::Confirm { nonce: [0; 32], element: element.clone(), confirmation };
        assert_eq!(end.handle(other, NOW, find).unwrap_err(), WordsError::Commitment);
        assert_eq!(end.handle(confirm, NOW, find).unwrap_err(), WordsError::OutOfTurn, "over is over");
        let forged = WordsMessage::Confirmed { confirmation: [0; 32], group: GROUP };
        assert_eq!(waiting.handle(forged).unwrap_err(), WordsError::Imposter);

        let (mut end, mut waiting, confirm) = start();
        let Ok(InviterWordsStep::Confirmed { message, .. }) = end.handle(confirm, NOW, find) else { panic!("right") };
        let WordsMessage::Confirmed { confirmation, .. } = message else { panic!("a confirmation") };
        let elsewhere = WordsMessage::Confirmed { confirmation, group: GroupId::new([8; 32]) };
        assert_eq!(waiting.handle(elsewhere).unwrap_err(), WordsError::Imposter);

        let (mut end, ..) = start();
        let short = WordsMessage::Confirm { nonce, element: share(vec![0x41; 5]), confirmation };
        assert_eq!(end.handle(short, NOW, find).unwrap_err(), WordsError::Share);
        let early = WordsMessage::Confirm { nonce, element, confirmation };
        assert_eq!(inviter(2, 9).handle(early, NOW, find).unwrap_err(), WordsError::OutOfTurn);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn only_the_right_words_open(words: [u8; 6], guess: [u8; 6]) {
            let (code, guess) = (Code::new(37, words), Code::new(37, guess));
            let mut invite = CodeInvite::open(&code, Role::Reader, NOW, Timestamp(2_000));
            let run = relay(&mut invite, joiner(&guess, 2, 9), inviter(2, 9));
            prop_assert_eq!(run.is_ok(), code == guess);
            prop_assert!(relay(&mut invite, joiner(&code, 2, 9), inviter(2, 9)).is_ok());
        }

        #[test]
        fn random_bytes_are_no_message(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            laws::check_random::<WordsMessage>(&bytes);
            laws::check_random::<CodeInvite>(&bytes);
        }
    }
}
