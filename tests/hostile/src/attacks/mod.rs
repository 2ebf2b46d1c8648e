//! The attacks, by name.
//!
//! Each carries out one round and checks what the node shows to the hostile peer itself; what it shows to honest members
//! is checked by the tests that run it.

mod data;
mod gossip;
mod log;
mod stranger;
mod stream;
mod vaults;

pub use stranger::socket;

use crate::peer::Peer;
use anyhow::Result;
use serde_json::Value;
use std::sync::Arc;

/// One line of the table.
pub struct Attack {
    /// As the command line calls it.
    pub name: &'static str,
    which: Which,
}

#[derive(Clone, Copy)]
enum Which {
    Oversize,
    Slow,
    Truncated,
    Replay,
    ForgedSignature,
    WrongEpoch,
    Graft,
    Prune,
    IHave,
    Streams,
    Gaps,
    Stall,
    Heads,
    Future,
    SameId,
    Bomb,
    LyingSize,
    WrongBytes,
    FalseLocations,
    FalseGrants,
    Equivocation,
    Revoked,
    Withheld,
    Escalation,
    Junk,
    Reader,
    Vault,
    Flood,
    Stranger,
    HalfOpen,
    VaultClient,
    VaultRevoked,
}

const fn attack(name: &'static str, which: Which) -> Attack {
    Attack { name, which }
}

/// All of them: the twenty-four of the test plan, then those of other roles, of strangers and on vaults.
pub const TABLE: [Attack; 32] = [
    attack("oversize", Which::Oversize),
    attack("slow", Which::Slow),
    attack("truncated", Which::Truncated),
    attack("replay", Which::Replay),
    attack("forged-signature", Which::ForgedSignature),
    attack("wrong-epoch", Which::WrongEpoch),
    attack("graft-flood", Which::Graft),
    attack("prune-flood", Which::Prune),
    attack("ihave-flood", Which::IHave),
    attack("stream-flood", Which::Streams),
    attack("gap-fragmented", Which::Gaps),
    attack("mid-frame-stall", Which::Stall),
    attack("ten-thousand-heads", Which::Heads),
    attack("future-clock", Which::Future),
    attack("same-id", Which::SameId),
    attack("inflate-bomb", Which::Bomb),
    attack("lying-size", Which::LyingSize),
    attack("wrong-bytes", Which::WrongBytes),
    attack("false-locations", Which::FalseLocations),
    attack("false-grants", Which::FalseGrants),
    attack("equivocation", Which::Equivocation),
    attack("revoked", Which::Revoked),
    attack("role-escalation", Which::Escalation),
    attack("junk-records", Which::Junk),
    attack("reader", Which::Reader),
    attack("vault", Which::Vault),
    attack("withheld", Which::Withheld),
    attack("flood", Which::Flood),
    attack("stranger", Which::Stranger),
    attack("half-open", Which::HalfOpen),
    attack("vault-client", Which::VaultClient),
    attack("vault-revoked", Which::VaultRevoked),
];

/// One round of an attack; gives what was seen.
pub async fn run(attack: &Attack, peer: &Arc<Peer>) -> Result<Value> {
    match attack.which {
        Which::Oversize => stream::oversize(peer).await,
        Which::Slow => stream::slow(peer).await,
        Which::Truncated => stream::truncated(peer).await,
        Which::Streams => stream::flood(peer).await,
        Which::Stall => stream::stall(peer).await,
        Which::Heads => stream::heads(peer).await,
        Which::Graft => gossip::grafts(peer).await,
        Which::Prune => gossip::prunes(peer).await,
        Which::IHave => gossip::ihaves(peer).await,
        Which::Replay => log::replay(peer).await,
        Which::ForgedSignature => log::forged_signature(peer).await,
        Which::WrongEpoch => log::wrong_epoch(peer).await,
        Which::Future => log::future(peer).await,
        Which::SameId => log::same_id(peer).await,
        Which::Bomb => log::bomb(peer).await,
        Which::FalseLocations => log::false_locations(peer).await,
        Which::FalseGrants => log::false_grants(peer).await,
        Which::Equivocation => log::equivocation(peer).await,
        Which::Escalation => log::escalation(peer).await,
        Which::Junk => log::junk(peer).await,
        Which::Reader => log::without_right(peer).await,
        Which::Vault => log::vault(peer).await,
        Which::Flood => log::flood(peer).await,
        Which::Gaps => data::gaps(peer).await,
        Which::LyingSize => data::lie(peer, crate::data::Lie::Size).await,
        Which::WrongBytes => data::lie(peer, crate::data::Lie::Bytes).await,
        Which::Revoked => data::revoked(peer).await,
        Which::Withheld => data::withheld(peer).await,
        Which::Stranger => stranger::knock(peer).await,
        Which::HalfOpen => stranger::half_open(peer).await,
        Which::VaultClient => vaults::client(peer).await,
        Which::VaultRevoked => vaults::revoked(peer).await,
    }
}
