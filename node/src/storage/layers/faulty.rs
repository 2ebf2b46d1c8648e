//! A storage that fails on purpose, for tests.

use super::{Answer, Around, Call};
use crate::storage::{Pending, StorageError, StorageErrorKind};
use std::sync::atomic::{AtomicU32, Ordering};

/// What goes wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails and nothing was done.
    Refused,
    /// It was done, and the answer is lost.
    AnswerLost,
    /// No answer ever comes.
    Hangs,
    /// Of the bytes read, the end is missing.
    Truncates,
    /// Other bytes of the same length come.
    OtherBytes,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Refused, Self::AnswerLost, Self::Hangs, Self::Truncates, Self::OtherBytes];
}

/// Every so many-th call goes wrong, by the faults in turn.
pub struct Faulty {
    every: u32,
    faults: Vec<Fault>,
    calls: AtomicU32,
}

impl Faulty {
    /// Every `every`-th call (from 1), by these faults in turn. Without faults, or with 0, none does.
    pub fn new(every: u32, faults: Vec<Fault>) -> Self {
        Self { every, faults, calls: AtomicU32::new(0) }
    }

    /// Calls so far.
    pub fn calls(&self) -> u32 {
        self.calls.load(Ordering::Relaxed)
    }

    fn next(&self) -> Option<Fault> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let turn = call.checked_div(self.every).filter(|_| call.is_multiple_of(self.every))?;
        let at = (turn as usize - 1).checked_rem(self.faults.len())?;
        self.faults.get(at).copied()
    }
}

impl Around for Faulty {
    fn around<'a, T: Answer + 'a>(
        &'a self,
        call: Call,
        go: impl Fn() -> Pending<'a, T> + Send + Sync + 'a,
    ) -> Pending<'a, T> {
        Box::pin(async move {
            let lost = || StorageError::new(call.provider, StorageErrorKind::Unavailable, "an injected fault");
            match self.next() {
                None => go().await,
                Some(Fault::Refused) => Err(lost()),
                Some(Fault::AnswerLost) => go().await.and_then(|_| Err(lost())),
                Some(Fault::Hangs) => std::future::pending().await,
                Some(Fault::Truncates) => Ok(go().await?.spoiled(&|bytes| bytes.slice(..bytes.len() / 2))),
                Some(Fault::OtherBytes) => Ok(go().await?.spoiled(&|bytes| {
                    let flip = |(at, byte): (usize, &u8)| if at == bytes.len() / 2 { byte ^ 0x40 } else { *byte };
                    bytes.iter().enumerate().map(flip).collect::<Vec<u8>>().into()
                })),
            }
        })
    }
}
