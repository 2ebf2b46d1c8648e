//! A storage whose callers take turns in any order that a test chooses.

use crate::storage::{memory::MemoryProvider, *};
use bytes::Bytes;
use std::{
    ops::Range,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

/// Gives way to whoever is polled next.
#[derive(Default)]
pub(super) struct Turn(bool);

impl Future for Turn {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// A storage at which each call takes one turn.
pub(super) struct InTurn(pub(super) Arc<MemoryProvider>);

impl StorageProvider for InTurn {
    fn name(&self) -> &'static str {
        "in-turn"
    }

    fn put<'a>(&'a self, key: &'a ObjectKey, bytes: Bytes, mode: PutMode) -> Pending<'a, Put> {
        Box::pin(async move {
            Turn::default().await;
            self.0.put(key, bytes, mode).await
        })
    }

    fn get_range<'a>(&'a self, key: &'a ObjectKey, range: Option<Range<u64>>) -> Pending<'a, Bytes> {
        Box::pin(async move {
            Turn::default().await;
            self.0.get_range(key, range).await
        })
    }

    fn stat<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, Option<Stat>> {
        Box::pin(async move {
            Turn::default().await;
            self.0.stat(key).await
        })
    }

    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a ObjectKey>, limit: usize) -> Pending<'a, Page> {
        Box::pin(async move {
            Turn::default().await;
            self.0.list(prefix, after, limit).await
        })
    }

    fn delete<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, ()> {
        Box::pin(async move {
            Turn::default().await;
            self.0.delete(key).await
        })
    }

    fn test(&self) -> Pending<'_, ()> {
        self.0.test()
    }
}

/// Works alone until it is done.
pub(super) fn now<T>(work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    let mut context = Context::from_waker(std::task::Waker::noop());
    loop {
        if let Poll::Ready(done) = work.as_mut().poll(&mut context) {
            return done;
        }
    }
}

/// What somebody does, one call a turn.
pub(super) type Work<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Lets several work in turns until all are done; how many crashes there were.
///
/// `work` gives what one of them does, and after how many crashes of its own. A turn with a 0 crashes whoever's it is; when no
/// turns are left, all go on one after the other.
pub(super) fn run_in_turns<'a>(many: usize, turns: Vec<(usize, u8)>, work: impl Fn(usize, usize) -> Work<'a>) -> usize {
    let mut context = Context::from_waker(std::task::Waker::noop());
    let mut works: Vec<Option<Work<'a>>> = (0..many).map(|which| Some(work(which, 0))).collect();
    let mut crashes = vec![0; many];
    for (which, chance) in turns.into_iter().chain((0..many).cycle().map(|which| (which, 1))) {
        if works.iter().all(Option::is_none) {
            break;
        }
        let Some(running) = &mut works[which] else { continue };
        if chance == 0 {
            crashes[which] += 1;
            works[which] = Some(work(which, crashes[which]));
        } else if let Poll::Ready(()) = running.as_mut().poll(&mut context) {
            works[which] = None;
        }
    }
    crashes.into_iter().sum()
}
