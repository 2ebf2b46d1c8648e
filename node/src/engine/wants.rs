//! Doing what others want of this device's locations.

use crate::node::Node;
use larder_protocol::id::LocationId;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::Notify;

/// How soon what a cloud refused is tried again when nothing changes.
const AGAIN: Duration = Duration::from_secs(30);

/// Looks after wants: for each location one round at a time, so that a slow one holds up no other.
pub(super) struct Wants {
    node: Arc<Node>,
    states: Mutex<BTreeMap<LocationId, Arc<State>>>,
}

#[derive(Default)]
struct State {
    running: AtomicBool,
    again: AtomicBool,
    asked: Notify,
}

impl Wants {
    pub(super) fn new(node: Arc<Node>) -> Self {
        Self { node, states: Mutex::default() }
    }

    /// Something may be wanted.
    pub(super) fn look(&self) {
        let places = self.node.places.all().into_iter().map(|place| place.id);
        let clouds = self.node.clouds.all().into_iter().map(|cloud| cloud.id);
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        for id in places.chain(clouds) {
            let state = states.entry(id).or_default().clone();
            state.again.store(true, Ordering::Release);
            state.asked.notify_one();
            if !state.running.swap(true, Ordering::AcqRel) {
                self.node.tasks.spawn(run(self.node.clone(), id, state));
            }
        }
    }
}

async fn run(node: Arc<Node>, id: LocationId, state: Arc<State>) {
    loop {
        while state.again.swap(false, Ordering::AcqRel) {
            let waits = tokio::select! {
                waits = crate::operations::ensure::fulfil(&node, &id) => waits,
                () = node.stop.cancelled() => false,
            };
            // Nothing tells when a service that refused for a while takes requests again.
            if waits && node.clouds.get(&id).is_some() {
                tokio::select! {
                    () = tokio::time::sleep(AGAIN) => state.again.store(true, Ordering::Release),
                    () = state.asked.notified() => {}
                    () = node.stop.cancelled() => {}
                }
            }
        }
        state.running.store(false, Ordering::Release);
        // Somebody may have looked between the last two lines.
        if !state.again.load(Ordering::Acquire) || state.running.swap(true, Ordering::AcqRel) {
            return;
        }
    }
}
