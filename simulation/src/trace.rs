//! A hash over everything that happened.

/// The trace of a run.
#[derive(Debug)]
pub(crate) struct Trace {
    hasher: blake3::Hasher,
    pub(crate) events: u64,
}

impl Trace {
    pub(crate) fn new() -> Self {
        Self { hasher: blake3::Hasher::new_derive_key("larder simulation trace v1"), events: 0 }
    }

    /// Notes an event.
    pub(crate) fn note(&mut self, time_ns: u64, what: &str, node: usize, detail: &[u8]) {
        self.events += 1;
        self.hasher.update(&time_ns.to_le_bytes()).update(what.as_bytes()).update(&(node as u64).to_le_bytes());
        self.hasher.update(blake3::hash(detail).as_bytes());
    }

    pub(crate) fn hash(&self) -> String {
        self.hasher.finalize().to_hex().to_string()
    }
}
