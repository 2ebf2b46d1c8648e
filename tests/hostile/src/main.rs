//! A peer that keeps to no rule: attacks on a running node, one for each line of [`attacks::TABLE`].
//!
//! Purpose: to be what no honest build can be made to be. It takes the home of a machine that was paired by a real invite
//! and whose node is down, speaks with that device's key, and says and sends what it should not. Without a home it is a
//! stranger. Never shipped: it is built and driven by the tests beside it.
//!
//! `larder-hostile list` names the attacks; `larder-hostile socket PATH` asks a control socket and prints what it is told.
//! `larder-hostile ATTACK < task.json`; it prints `{"ready":true}` when it is connected, and one object with what it saw
//! at its end. Exit code 1: the node took what it must refuse, or the attack could not be carried out.

mod attacks;
mod data;
mod forge;
mod gossip;
mod peer;
mod talk;

use serde::Deserialize;
use std::{
    io::Read,
    path::PathBuf,
    time::{Duration, Instant},
};

/// Whom to attack, and as whom.
#[derive(Debug, Clone, Deserialize)]
pub struct Task {
    /// Home of the member that turns hostile; a stranger has none.
    pub home: Option<PathBuf>,
    /// The node's device id in hex.
    pub device: String,
    /// Its control addresses, as multiaddrs.
    pub control: Vec<String>,
    /// A content that it serves, in hex.
    pub content: Option<String>,
    /// Its data addresses, for who is told none: `tcp://…` and `udp://…`.
    #[serde(default)]
    pub data: Vec<String>,
    /// The location that the content is in, in hex.
    pub location: Option<String>,
    /// It says that it is the steward of that location, too.
    #[serde(default)]
    pub usurp: bool,
    /// The member or the node is a vault: there is nothing to learn.
    #[serde(default)]
    pub vault: bool,
    /// How long to go on; one round at least.
    #[serde(default)]
    pub seconds: u64,
}

fn main() -> anyhow::Result<()> {
    let name = std::env::args().nth(1).unwrap_or_default();
    if name == "list" {
        attacks::TABLE.iter().for_each(|attack| println!("{}", attack.name));
        return Ok(());
    }
    if name == "socket" {
        return attacks::socket(std::path::Path::new(&std::env::args().nth(2).unwrap_or_default()));
    }
    let attack = attacks::TABLE.iter().find(|attack| attack.name == name);
    let attack = attack.ok_or_else(|| anyhow::anyhow!("no such attack: {name:?}"))?;
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let task: Task = serde_json::from_str(&text)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let facts = runtime.block_on(async {
        let end = Instant::now() + Duration::from_secs(task.seconds);
        let peer = peer::Peer::start(task).await?;
        println!("{{\"ready\":true}}");
        let mut rounds = 0u64;
        loop {
            let mut facts = match attacks::run(attack, &peer).await {
                // Who attacks again and again is not let in any more, which is what we want.
                Err(error) if rounds > 0 => serde_json::json!({ "shut out": error.to_string() }),
                done => done?,
            };
            rounds += 1;
            if Instant::now() >= end {
                facts["rounds"] = rounds.into();
                return anyhow::Ok(facts);
            }
            peer.reconnect().await;
        }
    })?;
    println!("{facts}");
    // What is still under way is of no interest any more.
    runtime.shutdown_background();
    Ok(())
}
