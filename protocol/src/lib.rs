//! What two Larder devices must agree on, and every decision that needs no waiting.
//!
//! Nothing here waits, reads a clock, opens a file or draws a random number: time, randomness and bytes come in as
//! arguments, decisions go out as values. `node` carries them out, `simulation` runs the very same machines.
//! The names are the glossary's (`docs/glossary.md`), the bytes those of `docs/formats.md` and `docs/protocol.md`.

#![warn(missing_docs)]

pub mod bounded;
pub mod codec;
pub mod control;
pub mod fetch;
pub mod id;
pub mod log;
pub mod membership;
pub mod namespace;
pub mod pairing;
pub mod path;
pub mod planted;
pub mod record;
pub mod seal;
pub mod sync;
pub mod time;
pub mod vault;
pub mod wire;
