//! How much of this device one member may take up at once, over both transports together.
//!
//! A member that asks for much and takes nothing only keeps itself waiting. What a member can make this device hold is at
//! most: the pieces of its answers, wherever they wait, the small blobs that are read whole, and its requests.

use crate::transfer::wire::{self, Wanted};
use larder_protocol::id::DeviceId;
use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, PoisonError, Weak},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Answers to one member that are encoded at once; later ones wait. A fetch has three exchanges with a source at once.
const ANSWERS_MAX: usize = 8;
/// Bytes of blobs that are held whole for one member; beyond that they are read twice instead.
const WHOLE_BYTES_MAX: usize = 8 << 20;
/// Bytes of answers to one member that are encoded and not delivered: room for two pieces of each answer, and for what
/// three fetches have in flight. A piece counts until the transport lets go of it, also after its connection.
const ROOM_BYTES: usize = 12 << 20;

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
    room: Arc<Semaphore>,
    decoding: Mutex<()>,
}

impl Quota {
    fn new() -> Self {
        Self {
            answers: Arc::new(Semaphore::new(ANSWERS_MAX)),
            whole_bytes: Arc::new(Semaphore::new(WHOLE_BYTES_MAX)),
            room: Arc::new(Semaphore::new(ROOM_BYTES)),
            decoding: Mutex::default(),
        }
    }

    /// Room for so many bytes of an answer, once there is; [`ROOM_BYTES`] at most.
    pub(super) async fn room(self: &Arc<Self>, bytes: usize) -> Option<Room> {
        let permit = self.room.clone().acquire_many_owned(u32::try_from(bytes.min(ROOM_BYTES)).ok()?).await.ok()?;
        Some(Room { _permit: permit, _quota: self.clone() })
    }

    /// Decodes a request. One at a time: it takes a multiple of the request's length meanwhile.
    pub(super) fn decode(&self, request: &[u8]) -> io::Result<Wanted> {
        let _one_at_a_time = self.decoding.lock().unwrap_or_else(PoisonError::into_inner);
        wire::decode(request)
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

/// Room that part of an answer takes, for as long as it is there.
#[derive(Debug)]
pub(super) struct Room {
    _permit: OwnedSemaphorePermit,
    /// Who connects anew meets what it left behind.
    _quota: Arc<Quota>,
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
        let room = quota.room(ROOM_BYTES).now_or_never().flatten().unwrap();
        assert!(quotas.of(&one).room(1).now_or_never().is_none());
        drop((whole, answers, quota));
        assert!(quotas.of(&one).room(1).now_or_never().is_none(), "a piece counts for as long as it is there");
        drop(room);
        assert!(quotas.of(&one).whole(1).is_some());
        assert_eq!(quotas.0.lock().unwrap().len(), 1, "who holds nothing is forgotten");
    }
}
