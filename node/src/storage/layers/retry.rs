//! Trying again what may succeed later.

use super::{Answer, Around, Call, Op};
use crate::storage::{Pending, Retry, StorageError, StorageErrorKind};
use std::time::Duration;
use tokio::time::Instant;

/// How often and how long to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Most times that a call is made.
    pub tries_max: u32,
    /// Longest pause after the first failure; it doubles with each.
    pub pause_first: Duration,
    /// Longest pause of all.
    pub pause_max: Duration,
    /// No pause goes beyond this time after the first call.
    pub total_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            tries_max: 5,
            pause_first: Duration::from_millis(250),
            pause_max: Duration::from_secs(20),
            total_max: Duration::from_secs(120),
        }
    }
}

impl RetryPolicy {
    /// The pause after so many failures: what the service asked for, else a random part of an exponential one ("full
    /// jitter": Brooker, "Exponential Backoff and Jitter", 2015). `None`: do not try again.
    fn pause(&self, error: &StorageError, op: Op, failures: u32, random: u64) -> Option<Duration> {
        // A rename whose answer was lost may have happened: a second one would tell of an error that there was not.
        let done_twice = op == Op::Rename && error.kind != StorageErrorKind::Throttled;
        if failures >= self.tries_max || done_twice {
            return None;
        }
        match error.retry {
            Retry::No => None,
            Retry::After(pause) => Some(pause),
            Retry::Soon => {
                let most = self.pause_first.saturating_mul(1 << (failures - 1).min(20)).min(self.pause_max);
                let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
                Some(Duration::from_nanos(random.checked_rem(nanos).unwrap_or(0)))
            }
        }
    }
}

/// Tries again what may succeed later.
pub struct Retries(pub RetryPolicy);

impl Around for Retries {
    fn around<'a, T: Answer + 'a>(
        &'a self,
        call: Call,
        go: impl Fn() -> Pending<'a, T> + Send + Sync + 'a,
    ) -> Pending<'a, T> {
        Box::pin(async move {
            let began = Instant::now();
            let mut failures = 0;
            loop {
                let error = match go().await {
                    Ok(answer) => return Ok(answer),
                    Err(error) => error,
                };
                failures += 1;
                let random = u64::from_le_bytes(crate::keys::random());
                match self.0.pause(&error, call.op, failures, random) {
                    Some(pause) if began.elapsed() + pause <= self.0.total_max => {
                        tracing::debug!(op = ?call.op, %error, failures, ?pause, "storage call fails; again");
                        tokio::time::sleep(pause).await;
                    }
                    _ => return Err(error),
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_are_random_and_heed_the_service() {
        let policy = RetryPolicy::default();
        let busy = StorageError::new("x", StorageErrorKind::Throttled, "");
        let pause = |failures| policy.pause(&busy, Op::Put, failures, u64::MAX - 1);
        assert!(pause(1).unwrap() < Duration::from_millis(250));
        let most = |failures| (0..999).filter_map(|i| policy.pause(&busy, Op::Put, failures, i * 7_777_777_777)).max();
        assert!(most(1).unwrap() < most(2).unwrap() && most(2).unwrap() < most(4).unwrap());
        assert_eq!(pause(5), None, "the fifth failure is the last");
        let told = busy.clone().after(Duration::from_secs(9));
        assert_eq!(policy.pause(&told, Op::Put, 1, 3), Some(Duration::from_secs(9)));
        let lost = StorageError::new("x", StorageErrorKind::TimedOut, "");
        assert_eq!(policy.pause(&lost, Op::Rename, 1, 3), None);
        assert_eq!(policy.pause(&StorageError::new("x", StorageErrorKind::NotAllowed, ""), Op::Get, 1, 3), None);
    }
}
