//! The harness of the user stories: real `larder` processes with homes of their own, driven as a user drives them.
//!
//! Purpose: what a story needs and nothing that it tests. The crate links neither `node` nor `cli`; all it knows of Larder
//! is the command line and the JSON that it prints. Goals: no fixed port, no network beyond loopback, no sleep (waiting is
//! [`eventually`] or a deadline on a process), and whatever a story started is ended by its own process id, also when the
//! story fails. Start with [`World`]. The stories are in `tests/stories/`, one module each; `tests/run` runs them.

pub mod bins;
pub mod clock;
pub mod cluster;
pub mod data;
pub mod disk;
pub mod eventually;
pub mod json;
pub mod node;
pub mod process;
pub mod world;

pub use eventually::{PATIENCE, eventually};
pub use node::{Node, Settings};
pub use process::{Finished, Invocation, Running};
pub use world::World;
