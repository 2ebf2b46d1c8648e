//! Doing what others want of this device's locations.

use crate::node::Node;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Looks after wants, one round at a time.
pub(super) struct Wants {
    node: Arc<Node>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    running: AtomicBool,
    again: AtomicBool,
}

impl Wants {
    pub(super) fn new(node: Arc<Node>) -> Self {
        Self { node, state: Arc::default() }
    }

    /// Something may be wanted.
    pub(super) fn look(&self) {
        self.state.again.store(true, Ordering::Release);
        if self.state.running.swap(true, Ordering::AcqRel) {
            return;
        }
        let (node, state) = (self.node.clone(), self.state.clone());
        self.node.tasks.spawn(async move {
            loop {
                while state.again.swap(false, Ordering::AcqRel) {
                    tokio::select! {
                        () = crate::operations::ensure::fulfil(&node) => {}
                        () = node.stop.cancelled() => {}
                    }
                }
                state.running.store(false, Ordering::Release);
                // Somebody may have looked between the last two lines.
                if !state.again.load(Ordering::Acquire) || state.running.swap(true, Ordering::AcqRel) {
                    return;
                }
            }
        });
    }
}
