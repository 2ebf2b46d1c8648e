//! How much of this device one member may take up at once, over both transports together.
//!
//! A member that asks for much and takes nothing only keeps itself waiting. What a member can make this device hold is at
//! most: its answers times a few pieces, the small blobs that are read whole, and the send windows of its connections.

use larder_protocol::id::DeviceId;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Answers to one member that are encoded at once; later ones wait. A fetch has three exchanges with a source at once.
const ANSWERS_MAX: usize = 8;
/// Bytes of blobs that are held whole for one member; beyond that they are read twice instead.
const WHOLE_BYTES_MAX: usize = 16 << 20;

/// The quotas of all members that are connected.
#[derive(Debug, Default)]
pub(in crate::transfer) struct Quotas(Mutex<BTreeMap<DeviceId, Weak<Quota>>>);

impl Quotas {
    /// The quota of a member: the same one for as long as anybody holds it.
    pub(in crate::transfer) fn of(&self, device: &DeviceId) -> Arc<Quota> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(quota) = all.get(device).and_then(Weak::upgrade) {
            return quota;
        }
        all.retain(|_, quota| quota.strong_count() > 0);
        let quota = Arc::new(Quota::new());
        all.insert(*device, Arc::downgrade(&quota));
        quota
    }
}

/// What one member has left.
#[derive(Debug)]
pub(in crate::transfer) struct Quota {
    answers: Arc<Semaphore>,
    whole_bytes: Arc<Semaphore>,
}

impl Quota {
    fn new() -> Self {
        Self { answers: Arc::new(Semaphore::new(ANSWERS_MAX)), whole_bytes: Arc::new(Semaphore::new(WHOLE_BYTES_MAX)) }
    }

    /// A place for an answer, once there is one.
    pub(super) async fn answer(&self) -> Option<OwnedSemaphorePermit> {
        self.answers.clone().acquire_owned().await.ok()
    }

    /// Leave to hold so many bytes, if there is.
    pub(in crate::transfer) fn whole(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        self.whole_bytes.clone().try_acquire_many_owned(u32::try_from(bytes).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn a_member_waits_for_itself_and_for_nobody_else() {
        let quotas = Quotas::default();
        let (one, other) = (DeviceId::new([1; 32]), DeviceId::new([2; 32]));
        let quota = quotas.of(&one);
        let answers: Vec<_> =
            (0..ANSWERS_MAX).map(|_| quotas.of(&one).answer().now_or_never().flatten().unwrap()).collect();
        assert!(quota.answer().now_or_never().is_none());
        assert!(quotas.of(&other).answer().now_or_never().flatten().is_some());
        let whole = quota.whole(WHOLE_BYTES_MAX).unwrap();
        assert!(quotas.of(&one).whole(1).is_none());
        drop((whole, answers, quota));
        assert!(quotas.of(&one).whole(1).is_some());
        assert_eq!(quotas.0.lock().unwrap().len(), 1, "who holds nothing is forgotten");
    }
}
