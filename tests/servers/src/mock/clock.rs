//! Time that tests may move on.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

/// The time of a mock: the system's, plus what a test has added.
#[derive(Debug, Clone, Default)]
pub struct Clock(Arc<Mutex<Duration>>);

impl Clock {
    /// Now, for the mock.
    pub fn now(&self) -> SystemTime {
        SystemTime::now() + *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets time pass at once.
    pub fn advance(&self, by: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += by;
    }
}

/// RFC 3339 with milliseconds, as all three services write times.
pub(super) fn shown(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}
