//! A bound on bytes a second.

use super::{Answer, Around, Call};
use crate::storage::Pending;
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// Bytes a second up and down, 0 for no bound. Shared by all storages that are to share them.
#[derive(Debug, Default)]
pub struct Rates {
    up: Lane,
    down: Lane,
}

impl Rates {
    /// With so many bytes a second.
    pub fn new(up: u64, down: u64) -> Self {
        let rates = Self::default();
        rates.set(up, down);
        rates
    }

    /// Changes them; what already waits keeps its turn.
    pub fn set(&self, up: u64, down: u64) {
        self.up.rate.store(up, Ordering::Relaxed);
        self.down.rate.store(down, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Lane {
    rate: AtomicU64,
    /// When the bytes promised so far will have gone.
    free: Mutex<Option<Instant>>,
}

impl Lane {
    /// How long these bytes wait for those before them; reserves their time.
    fn reserve(&self, bytes: u64, now: Instant) -> Duration {
        let rate = self.rate.load(Ordering::Relaxed);
        if rate == 0 || bytes == 0 {
            return Duration::ZERO;
        }
        let takes = Duration::from_nanos(
            u64::try_from(u128::from(bytes) * 1_000_000_000 / u128::from(rate)).unwrap_or(u64::MAX),
        );
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = free.map_or(now, |free| free.max(now));
        *free = turn.checked_add(takes).or(Some(turn));
        turn - now
    }

    async fn pass(&self, bytes: u64) {
        let wait = self.reserve(bytes, Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

/// Keeps to [`Rates`]: a call waits until the bytes of those before it have gone.
pub struct Bandwidth(pub Arc<Rates>);

impl Around for Bandwidth {
    fn around<'a, T: Answer + 'a>(
        &'a self,
        call: Call,
        go: impl Fn() -> Pending<'a, T> + Send + Sync + 'a,
    ) -> Pending<'a, T> {
        Box::pin(async move {
            self.0.up.pass(call.sends).await;
            self.0.down.pass(call.wants.unwrap_or(0)).await;
            let answer = go().await?;
            if call.wants.is_none() {
                // Its length is known only now: those behind it wait.
                self.0.down.reserve(answer.payload(), Instant::now());
            }
            Ok(answer)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_wait_for_those_before_them_and_idle_time_is_not_saved_up() {
        let (lane, start) = (Rates::new(1000, 0), Instant::now());
        let (up, s) = (&lane.up, Duration::from_secs);
        assert_eq!(up.reserve(5000, start), s(0));
        assert_eq!(up.reserve(1000, start), s(5));
        assert_eq!(up.reserve(1000, start + s(2)), s(4));
        assert_eq!(up.reserve(1000, start + s(100)), s(0));
        assert_eq!(up.reserve(1000, start + s(100)), s(1));
        assert_eq!(lane.down.reserve(u64::MAX, start), s(0), "no bound");
    }
}
