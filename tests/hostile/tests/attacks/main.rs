//! Attacks on real nodes, and what honest members see meanwhile.
//!
//! Each attack runs in a process of its own (`larder-hostile`), as a member that was paired by a real invite and turned, or
//! as a stranger. While it goes on, honest members must converge and fetch; after it the node must live, must not have
//! grown by more than [`scene::GROWTH_MAX`], and must agree with the others about the catalog. `LARDER_LONG=N` lets each
//! attack go on for N seconds.

mod limits;
mod members;
mod roles;
mod scene;
mod strangers;
mod vaults;
