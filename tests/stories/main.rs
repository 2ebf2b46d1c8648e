//! The user stories. One binary, so that the harness is linked once; one module for each story.
//!
//! Every story runs real nodes in homes of its own, on loopback, and asks them through the command line alone.

mod absence;
mod access;
mod audit;
mod bitrot;
mod bucket;
mod cli;
mod clocks;
mod clouds;
mod credentials;
mod damage;
mod demo;
mod digest;
mod doctor;
mod find;
mod forks;
mod get;
mod gossip_modes;
mod kills;
mod matrix;
mod moves;
mod offline;
mod pair;
mod partition;
mod power;
mod put;
mod recover;
mod restart;
mod revoke;
mod roles;
mod sealed;
mod secrets;
mod sha256;
mod small_files;
mod trouble;
mod url;
mod vaults;
