//! Pairing: how a device joins a group with a one-time invite.
//!
//! The inviter opens an [`Invite`] and hands its [`Ticket`] over by any means. Both ends then run one handshake over an
//! encrypted stream between their device keys: the joiner pins the inviter's key from the ticket, and each proves with a
//! keyed hash over the [transcript](Transcript) that it knows the ticket's secret, which never crosses the wire.
//!
//! ```text
//! joiner                                   inviter
//!   Open {invite, nonce}              ─►
//!                                     ◄─   Challenge {nonce}
//!   Prove {enrolment, name, proof}    ─►
//!                                          burns the invite durably, then admits
//!                                     ◄─   Welcome {proof, membership log, contacts} or Refuse {reason}
//! ```
//!
//! On one network a [short code](Code) does instead of a ticket: [`WordsJoiner`] and [`WordsInviter`] turn it into a
//! ticket's secret, and the handshake above follows.

mod code;
mod handshake;
mod invite;
mod ticket;
mod words;

pub use code::{Code, CodeError};
pub use handshake::{
    Contact, HandshakeError, InviterHandshake, InviterStep, JoinerHandshake, JoinerStep, Message, Refusal, Transcript,
    Welcomed,
};
pub use invite::{BAD_PROOFS_MAX, Invite, InviteKey, InviteState, TTL_MS_MAX};
pub use ticket::{ADDRESSES_MAX, Ticket, TicketError};
pub use words::{
    CODE_TTL_MS_MAX, CodeInvite, CodeState, FAILURES_MAX, InviterWordsStep, JoinerWordsStep, Paired, WordsError,
    WordsInviter, WordsJoiner, WordsMessage,
};
