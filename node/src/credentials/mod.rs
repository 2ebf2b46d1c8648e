//! This device's credentials, sealed at rest.
//!
//! One file holds the credentials of all profiles. Its key comes from a file beside it that only this user can read, from a
//! passphrase, or from the keyring of the operating system. Nothing here leaves the device: no record, no log and no audit
//! line holds a value. `docs/formats.md` gives the bytes.
//!
//! What it does not do: hide secrets from the running node's user, who may read its memory.

mod error;
mod keyring;
mod keystore;
mod sealed;
#[cfg(test)]
mod tests;
mod vault;

pub use error::{LockReason, VaultError};
pub use keystore::KeyStore;
pub use sealed::Protection;
pub use vault::{Kept, Vault};
