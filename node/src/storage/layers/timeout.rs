//! An answer that does not come counts as lost.

use super::{Answer, Around, Call};
use crate::storage::{Pending, StorageError, StorageErrorKind};
use std::time::Duration;

/// Bytes that an answer of unknown length is given time for.
const UNKNOWN_BYTES: u64 = 8 << 20;

/// When an answer counts as lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeoutPolicy {
    /// For any call.
    pub call: Duration,
    /// The slowest that bytes may come or go, in bytes a second; their time is added.
    pub rate_min: u64,
}

impl Default for TimeoutPolicy {
    fn default() -> Self {
        Self { call: Duration::from_secs(30), rate_min: 64 << 10 }
    }
}

impl TimeoutPolicy {
    fn of(&self, call: Call) -> Duration {
        let bytes = call.sends + call.wants.unwrap_or(UNKNOWN_BYTES);
        self.call + Duration::from_millis(bytes.saturating_mul(1000) / self.rate_min.max(1))
    }
}

/// Gives up calls that take too long.
pub struct Timeout(pub TimeoutPolicy);

impl Around for Timeout {
    fn around<'a, T: Answer + 'a>(
        &'a self,
        call: Call,
        go: impl Fn() -> Pending<'a, T> + Send + Sync + 'a,
    ) -> Pending<'a, T> {
        let time = self.0.of(call);
        Box::pin(async move {
            tokio::time::timeout(time, go()).await.unwrap_or_else(|_| {
                let detail = format!("no answer in {} ms", time.as_millis());
                Err(StorageError::new(call.provider, StorageErrorKind::TimedOut, detail))
            })
        })
    }
}
