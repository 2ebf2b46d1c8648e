//! Sources that did not keep their word lately: they are asked last, so that who claims everything and gives nothing delays
//! a fetch once and not each time.

use larder_protocol::{fetch::Reason, id::DeviceId};
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How long a source is asked last.
const TIME: Duration = Duration::from_secs(300);

/// Who is doubted, and since when.
#[derive(Debug, Default)]
pub(super) struct Doubts(Mutex<BTreeMap<DeviceId, Instant>>);

impl Doubts {
    /// A source failed; some reasons say nothing against it.
    pub(super) fn note(&self, source: DeviceId, reason: Reason) {
        if reason == Reason::Lied {
            tracing::warn!(device = %source, "data plane: the source sent other bytes than it was asked for");
        }
        if matches!(reason, Reason::Unreachable | Reason::Lied | Reason::Stalled | Reason::Broken) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(source, Instant::now());
        }
    }

    /// A source gave what it was asked for.
    pub(super) fn clear(&self, source: &DeviceId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(source);
    }

    /// The same sources, those that are doubted last.
    pub(super) fn order(&self, mut sources: Vec<DeviceId>) -> Vec<DeviceId> {
        let mut doubted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        doubted.retain(|_, since| since.elapsed() < TIME);
        sources.sort_by_key(|source| doubted.contains_key(source));
        sources
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_failed_is_asked_last_until_it_gives() {
        let doubts = Doubts::default();
        let [a, b, c] = [1, 2, 3].map(|number| DeviceId::new([number; 32]));
        doubts.note(a, Reason::Unreachable);
        doubts.note(b, Reason::NotThere);
        assert_eq!(doubts.order(vec![a, b, c]), [b, c, a]);
        doubts.note(b, Reason::Lied);
        assert_eq!(doubts.order(vec![a, b, c]), [c, a, b]);
        doubts.clear(&a);
        assert_eq!(doubts.order(vec![a, b, c]), [a, c, b]);
    }
}
