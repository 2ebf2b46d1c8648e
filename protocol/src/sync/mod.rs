//! Anti-entropy: two devices find out what each lacks and send it. The truth behind gossip.
//!
//! One [`Session`] runs on one stream to one peer, the same machine at both ends. Membership goes first, because it says
//! who may be believed; then version vectors, then which logs have two histories, then batches in ascending order for each
//! author. A device's vector moves only by the commits that its session asks for; gossip never moves it. What was committed stays when a session breaks off, and
//! the next one goes on from there.

mod frame;
mod gossip;
mod mesh;
mod session;

pub use frame::{BATCHES_MAX, DIVERGED_MAX, FRAME_BYTES_MAX, Frame, Locator, POINTS_MAX};
pub use gossip::{Decision, GOSSIP_INLINE_BYTES_MAX, Gossip, decide};
pub use mesh::{MESH, Mesh};
pub use session::{Effect, Input, Local, Report, Session, UNANSWERED_BYTES_MAX, Violation};
