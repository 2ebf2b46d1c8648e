//! Seeds that once failed, each with its story.
//!
//! Where the bug is also a planted one (`protocol::planted`), the run must fail again with it, so that a later change to
//! the simulation cannot make the seed harmless without anybody noticing.

use larder_simulation::{Scenario, run};
use std::sync::{Mutex, PoisonError};

/// A device was restored from a backup that did not know yet that its last statements were shared. It said them again
/// under its new incarnation, as of now: files that had been deleted since were back on every device. Said again, a
/// statement keeps its time; the catalog's own tests see to that, since a device that asks first hardly ever says
/// anything again.
#[test]
fn a_restored_backup_brings_no_deleted_file_back() {
    for seed in 1..=4 {
        let faults = "rollback,loss".parse().unwrap();
        let scenario = Scenario { seed, nodes: 6, appends: 80, seconds: 400, faults };
        assert_eq!(run(scenario).broken, None, "{scenario}");
    }
}

/// Two machines ran with one key. One of them moved what it had not shared to a new incarnation, but gossip had spread
/// it: everybody held it, and nobody vouched for it any longer, so that vectors stayed behind for ever. A device vouches
/// for whatever comes back to it of its own log.
#[test]
fn what_a_copied_device_has_said_is_accounted_for_in_the_end() {
    holds("clone", "own-log-not-vouched-for");
}

/// A hostile member signed two histories. Who had one of them refused the first batch of the other with an alarm, and the
/// next frame of the same session with an error: no session between honest devices came to its end any more, and nothing
/// that others had said was accounted for. What follows a refused batch is left out, like it.
#[test]
fn a_member_with_two_histories_does_not_break_the_sessions_of_others() {
    let scenario = Scenario { seed: 49, ..Scenario::default() };
    assert_eq!(run(scenario).broken, None, "{scenario}");
}

/// A restored device, on a disk that fails, said something before it asked; it asked, and still went on in the log that
/// others knew: the new incarnation had reached its segment file and not the database, was replayed at the next start,
/// and the old log was never cut. What is begun is noted first, and finished at the next start.
#[test]
fn a_new_incarnation_that_was_interrupted_is_finished() {
    let faults = "crash,power,full,rollback".parse().unwrap();
    let scenario = Scenario { seed: 42, nodes: 2, appends: 40, seconds: 300, faults };
    assert_eq!(run(scenario).broken, None, "{scenario}");
}

/// A machine was copied as it ran, and both went on in one log: as far as the counts went, nobody was missing anything,
/// and the group kept two halves for ever. The hash of the last batch tells them apart.
#[test]
fn two_histories_of_one_length_are_seen() {
    holds("clone,equivocate", "tips-ignored");
}

/// Nothing was wrong with the nodes: machines chose whom to ask among all, most of whom they could not reach, and two
/// sides behind NAT did not meet for twenty minutes. A node asks those that it is connected with, whoever dialled.
#[test]
fn those_who_can_meet_do_meet_in_time() {
    let scenario = Scenario { seed: 1_000_244, nodes: 8, faults: "all".parse().unwrap(), ..Scenario::default() };
    assert_eq!(run(scenario).broken, None, "{scenario}");
}

/// A restored device lost its database before it had asked: how much of its log others know was only there, so that it
/// told all of it. That is a fork, and heals as one; the oracles still took what it had said for untold.
#[test]
fn a_restored_device_that_rebuilds_before_it_asks_forks_and_heals() {
    for seed in [1_000_045, 1_000_179] {
        let scenario = Scenario { seed, nodes: 8, faults: "all".parse().unwrap(), ..Scenario::default() };
        assert_eq!(run(scenario).broken, None, "{scenario}");
    }
}

/// The power went while a catalog was opened, between replaying a checkpoint from the segments and looking for rows that rest
/// on what it lets go. The next opening had nothing to replay, and a deleted file's old row stood there for good. The quick
/// test of the same is `what_was_let_go_has_no_row_whenever_an_opening_is_cut_off` of the catalog.
#[test]
fn an_opening_that_is_cut_off_is_finished_by_the_next() {
    let scenario = Scenario { seed: 100_000_034, nodes: 20, faults: "all".parse().unwrap(), ..Scenario::default() };
    assert_eq!(run(scenario).broken, None, "{scenario}");
}

/// What is planted is planted for the whole process: one test at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn holds(faults: &str, bug: &str) {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut found = false;
    for seed in 1..=4 {
        let scenario = Scenario { seed, nodes: 6, appends: 80, seconds: 400, faults: faults.parse().unwrap() };
        assert_eq!(run(scenario).broken, None, "{scenario}");
        found |= fails_with(bug, scenario);
    }
    assert!(found, "no seed here finds '{bug}' when it is planted");
}

#[cfg(feature = "planted-bugs")]
fn fails_with(bug: &str, scenario: Scenario) -> bool {
    use larder_protocol::planted::{Plant, plant};
    let found = Plant::ALL.iter().find(|plant| plant.name() == bug);
    plant(Some(*found.unwrap()));
    let broken = run(scenario).broken;
    plant(None);
    broken.is_some()
}

/// Builds without planted bugs only check that the seeds hold.
#[cfg(not(feature = "planted-bugs"))]
fn fails_with(_: &str, _: Scenario) -> bool {
    true
}
