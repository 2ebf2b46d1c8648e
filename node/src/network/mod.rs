//! The control plane over libp2p: the only module that knows it.
//!
//! One swarm task. A connection passes, in this order: connection limits, memory limits, the allow-list of members, and only
//! then any protocol, so that a stranger reaches no parser beyond the handshake. Members are dialed and redialed by the
//! [`Dialer`](dialer::Dialer); news goes over gossipsub; sessions of anti-entropy run on streams of their own.
//!
//! libp2p's gossipsub announces subscriptions only on the first connection to a peer (rust-libp2p #5097): a peer that
//! restarts with the same id while the old connection lives stays deaf. So the layer above says whom it has
//! [greeted](Handle::greeted), and a greeted peer that does not show up in the topic is disconnected and dialed again.

mod behaviour;
mod dialer;
mod framed;
mod nearby;
mod swarm;

#[cfg(test)]
mod tests;

pub(crate) use framed::ROOM_FRAMES;
pub use framed::{FrameError, FrameReader, FrameWriter, FramedStream, Received};
pub use nearby::hosts_nearby;
pub(crate) use swarm::socket_of;
pub use swarm::{Config, Event, Handle, NetworkError, Verdict, start};
