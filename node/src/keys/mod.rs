//! This device's secrets and the group's membership log, in files of mode 0600 that nothing else writes.

pub(crate) mod files;
mod identity;
mod membership;
pub mod tls;

pub use files::KeyFileError;
pub use identity::DeviceKeys;
pub use membership::{MembershipStore, open_key_ring};

/// Random bytes from the operating system.
///
/// # Panics
/// When the operating system has none to give, in which case no secret may be made.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}
