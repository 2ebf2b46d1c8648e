//! What surrounds a storage: each layer is a storage itself and passes every ability on.
//!
//! The order, from the caller to the storage, is [`Layers`]: cache, retry, bandwidth, concurrency, timeout. Retry stands
//! outside the timeout, so that a connection that died in silence is given up and tried again. Who waits for bandwidth
//! holds no place among the concurrent requests, and neither wait counts towards the timeout. Each location has layers of
//! its own: a slow or dead one slows no other.

mod bandwidth;
mod cache;
mod concurrency;
pub mod faulty;
mod layered;
mod retry;
mod timeout;

pub use bandwidth::{Bandwidth, Rates};
pub use cache::{Cache, CacheLimits, KeptLong};
pub use concurrency::Concurrency;
pub use layered::{Answer, Around, Call, Layered, Op};
pub use retry::{Retries, RetryPolicy};
pub use timeout::{Timeout, TimeoutPolicy};

use super::{StorageError, StorageProvider};
use std::{path::PathBuf, sync::Arc};

/// The usual layers of one location.
///
/// ```
/// use larder_node::storage::{StorageProvider, layers::Layers, memory::MemoryProvider};
/// use std::sync::Arc;
///
/// let storage = Layers::default().around(Arc::new(MemoryProvider::default()))?;
/// assert_eq!(storage.name(), "memory");
/// assert!(storage.abilities().multipart.is_some());
/// # Ok::<(), larder_node::storage::StorageError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Layers {
    /// How often and how long to try again.
    pub retry: RetryPolicy,
    /// When an answer counts as lost.
    pub timeout: TimeoutPolicy,
    /// Bytes a second; shared, so that they can be changed while they are in use.
    pub rates: Arc<Rates>,
    /// Where objects are kept that were read, and how many.
    pub cache: Option<(PathBuf, CacheLimits)>,
}

impl Layers {
    /// Puts all of them around a storage.
    ///
    /// # Errors
    /// [`StorageError`] when the folder of the cache cannot be used.
    pub fn around(&self, storage: Arc<dyn StorageProvider>) -> Result<Arc<dyn StorageProvider>, StorageError> {
        let requests_max = storage.requests_max();
        let storage = Arc::new(Layered::new(storage, Timeout(self.timeout)));
        let storage = Arc::new(Layered::new(storage, Concurrency::new(requests_max)));
        let storage = Arc::new(Layered::new(storage, Bandwidth(self.rates.clone())));
        let storage = Arc::new(Layered::new(storage, Retries(self.retry)));
        Ok(match &self.cache {
            Some((folder, limits)) => Arc::new(Cache::open(storage, folder.clone(), *limits)?),
            None => storage,
        })
    }
}
