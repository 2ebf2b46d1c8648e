//! No more requests at a time than a storage bears.

use super::{Answer, Around, Call};
use crate::storage::{Pending, StorageError, StorageErrorKind};
use tokio::sync::Semaphore;

/// Lets so many requests through at a time; the others wait in order.
pub struct Concurrency {
    places: Semaphore,
}

impl Concurrency {
    /// With so many at a time, at least one.
    pub fn new(requests_max: usize) -> Self {
        Self { places: Semaphore::new(requests_max.max(1)) }
    }
}

impl Around for Concurrency {
    fn around<'a, T: Answer + 'a>(
        &'a self,
        call: Call,
        go: impl Fn() -> Pending<'a, T> + Send + Sync + 'a,
    ) -> Pending<'a, T> {
        Box::pin(async move {
            let closed = |_| StorageError::new(call.provider, StorageErrorKind::Unavailable, "closed");
            let _place = self.places.acquire().await.map_err(closed)?;
            go().await
        })
    }
}
