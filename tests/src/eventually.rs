//! Waiting for a condition, with a deadline. The only place of the harness that sleeps: it polls, because what it waits
//! for happens in other processes.

use std::{
    fmt::Debug,
    thread,
    time::{Duration, Instant},
};

/// How long a story waits for what must happen: far more than it takes, so that a busy machine fails nothing.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// First pause between two looks.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// Longest pause between two looks.
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// Looks again and again until `probe` gives `Ok`, and returns that.
///
/// # Panics
/// After [`PATIENCE`], with the last `Err` that `probe` gave.
#[track_caller]
pub fn eventually<T, E: Debug>(what: &str, probe: impl FnMut() -> Result<T, E>) -> T {
    within(PATIENCE, what, probe)
}

/// [`eventually`] with a deadline of its own.
///
/// # Panics
/// After `patience`, with the last `Err` that `probe` gave.
#[track_caller]
pub fn within<T, E: Debug>(patience: Duration, what: &str, mut probe: impl FnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + patience;
    let mut pause = PAUSE_MIN;
    loop {
        match probe() {
            Ok(value) => return value,
            Err(last) if Instant::now() >= deadline => {
                panic!("not within {patience:?}: {what}; last seen: {last:#?}")
            }
            Err(_) => {}
        }
        thread::sleep(pause);
        pause = (pause * 3 / 2).min(PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_first_value_that_satisfies() {
        let mut looks = 0;
        let value = eventually("three looks", || {
            looks += 1;
            if looks == 3 { Ok(looks) } else { Err(looks) }
        });
        assert_eq!(value, 3);
    }

    #[test]
    #[should_panic(expected = "last seen: 7")]
    fn says_what_it_saw_last() {
        within(Duration::ZERO, "never", || -> Result<(), i32> { Err(7) });
    }
}
