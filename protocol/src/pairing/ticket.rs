//! The text that an invite is handed over as: `larder1…`, bech32m (BIP-350).

use crate::{
    bounded::List,
    codec::{self, Wire},
    id::{DeviceId, GroupId},
    membership::Role,
    time::Timestamp,
};
use bech32::{Bech32m, Hrp};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// Most addresses of the inviter in a ticket.
pub const ADDRESSES_MAX: usize = 6;
const VERSION: u8 = 1;
const PREFIX: Hrp = Hrp::parse_unchecked("larder");

/// Why a text is no ticket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// It does not begin with `larder1`.
    #[error("does not begin with 'larder1'")]
    NotATicket,
    /// A character is missing, superfluous or wrong.
    #[error("a character is missing or wrong")]
    Checksum,
    /// Made by a later version.
    #[error("made by a later version ({0})")]
    Version(u8),
    /// Whole, but not what a ticket holds.
    #[error("does not hold what a ticket holds")]
    Content,
}

/// What an invite hands over.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    version: u8,
    /// The group.
    pub group: GroupId,
    /// The device that invites; its key is pinned.
    pub inviter: DeviceId,
    /// Where its pairing endpoint listens.
    pub addresses: List<SocketAddr, ADDRESSES_MAX>,
    /// What both ends prove to know.
    pub secret: [u8; 16],
    /// Role of who joins.
    pub role: Role,
    /// Seconds since the Unix epoch at which it ends, by the inviter's clock.
    pub not_after_s: u64,
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket").field("group", &self.group).field("inviter", &self.inviter).finish_non_exhaustive()
    }
}

impl Wire for Ticket {
    const MAX_BYTES: usize = 400;
}

impl Ticket {
    /// Puts a ticket together.
    pub fn new(
        group: GroupId,
        inviter: DeviceId,
        addresses: impl IntoIterator<Item = SocketAddr>,
        secret: [u8; 16],
        role: Role,
        not_after: Timestamp,
    ) -> Self {
        let not_after_s = u64::try_from(not_after.as_millis().div_euclid(1000)).unwrap_or(0);
        Self { version: VERSION, group, inviter, addresses: List::truncated(addresses), secret, role, not_after_s }
    }

    /// Whether its time is over by a clock.
    pub fn is_over(&self, now: Timestamp) -> bool {
        u64::try_from(now.as_millis().div_euclid(1000)).unwrap_or(0) > self.not_after_s
    }

    /// The text to hand over.
    pub fn to_text(&self) -> String {
        let bytes = codec::encode(self).expect("a ticket's parts are bounded below its limit");
        bech32::encode::<Bech32m>(PREFIX, &bytes).expect("a ticket is shorter than bech32m's limit")
    }

    /// Reads the text; spaces around it do not matter.
    ///
    /// # Errors
    /// [`TicketError`] says what is wrong with it.
    pub fn from_text(text: &str) -> Result<Self, TicketError> {
        let text: String = text.split_whitespace().collect();
        if !text.to_ascii_lowercase().starts_with("larder1") {
            return Err(TicketError::NotATicket);
        }
        let checked =
            bech32::primitives::decode::CheckedHrpstring::new::<Bech32m>(&text).map_err(|_| TicketError::Checksum)?;
        if checked.hrp() != PREFIX {
            return Err(TicketError::NotATicket);
        }
        let bytes: Vec<u8> = checked.byte_iter().collect();
        match bytes.first() {
            Some(&VERSION) => codec::decode(&bytes).map_err(|_| TicketError::Content),
            Some(&version) => Err(TicketError::Version(version)),
            None => Err(TicketError::Content),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::laws;
    use proptest::prelude::*;

    fn ticket(addresses: usize) -> Ticket {
        let all = ["127.0.0.1:1", "[2001:db8::1]:65535", "10.0.0.1:443", "[::1]:9", "192.168.1.2:3", "[fe80::1]:80"];
        Ticket::new(
            GroupId::new([1; 32]),
            DeviceId::new([2; 32]),
            all[..addresses].iter().map(|text| text.parse().unwrap()),
            [3; 16],
            Role::Writer,
            Timestamp::from_millis(1_800_000_000_000),
        )
    }

    #[test]
    fn text_round_trips_in_either_case() {
        for addresses in 0..=ADDRESSES_MAX {
            let ticket = ticket(addresses);
            laws::check(&ticket);
            let text = ticket.to_text();
            assert_eq!(Ticket::from_text(&text).unwrap(), ticket);
            assert_eq!(Ticket::from_text(&format!("  {}\n", text.to_uppercase())).unwrap(), ticket);
        }
    }

    #[test]
    fn each_mistake_has_its_own_error() {
        let text = ticket(2).to_text();
        assert_eq!(Ticket::from_text("hello"), Err(TicketError::NotATicket));
        assert_eq!(Ticket::from_text(&text[..text.len() - 1]), Err(TicketError::Checksum));
        let later = Ticket { version: 9, ..ticket(1) };
        assert_eq!(Ticket::from_text(&later.to_text()), Err(TicketError::Version(9)));
        let other = bech32::encode::<Bech32m>(PREFIX, &[1, 2, 3]).unwrap();
        assert_eq!(Ticket::from_text(&other), Err(TicketError::Content));
    }

    proptest! {
        #[test]
        fn one_wrong_letter_is_noticed(at in 7usize..100, letter in "[qpzry9x8gf2tvdw0s3jn54khce6mua7l]") {
            let text = ticket(3).to_text();
            prop_assume!(text[at..=at] != letter);
            let mut wrong = text;
            wrong.replace_range(at..=at, &letter);
            prop_assert_eq!(Ticket::from_text(&wrong), Err(TicketError::Checksum));
        }
    }
}
