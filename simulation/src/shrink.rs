//! Making a failing scenario small: greedy, and the same each time.

use crate::{
    scenario::Scenario,
    world::{Outcome, run},
};

/// Takes away whatever can be taken away so that the run still fails; at most so many runs. Calls `told` for every
/// smaller scenario that fails.
pub fn shrink(failing: Scenario, mut runs: u64, told: &mut dyn FnMut(&Scenario, &Outcome)) -> Scenario {
    let mut least = failing;
    'again: loop {
        for smaller in least.smaller() {
            if runs == 0 {
                return least;
            }
            runs -= 1;
            let outcome = run(smaller);
            if outcome.broken.is_some() {
                told(&smaller, &outcome);
                least = smaller;
                continue 'again;
            }
        }
        return least;
    }
}
