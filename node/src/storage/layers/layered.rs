//! A storage with something around every call.

use crate::storage::{
    Changes, IfAbsent, Listed, Multipart, ObjectKey, Page, Part, PartRules, Pending, Presign, Put, PutMode, Quota,
    Rename, Search, SignedUrl, Stat, StorageError, StorageErrorKind, StorageProvider, Upload, Usage, Watch,
};
use bytes::Bytes;
use std::{collections::BTreeMap, ops::Range, path::PathBuf, sync::Arc, time::Duration};

/// Which call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Op {
    Put,
    Get,
    Stat,
    List,
    Delete,
    Test,
    Presign,
    Begin,
    PutPart,
    Parts,
    Complete,
    Abort,
    Unfinished,
    Rename,
    Changes,
    Usage,
    Describe,
    Description,
    Find,
}

/// A call that is about to be made.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// Which.
    pub op: Op,
    /// Bytes that it sends.
    pub sends: u64,
    /// Most bytes that it asks for, where that is known.
    pub wants: Option<u64>,
    /// Which provider answers.
    pub provider: &'static str,
}

/// What a call answers.
pub trait Answer: Send + Sized {
    /// Bytes of an object in it.
    fn payload(&self) -> u64 {
        0
    }

    /// The same with its bytes changed, if there are any; for tests.
    #[must_use]
    fn spoiled(self, _how: &dyn Fn(Bytes) -> Bytes) -> Self {
        self
    }
}

impl Answer for Bytes {
    fn payload(&self) -> u64 {
        self.len() as u64
    }

    fn spoiled(self, how: &dyn Fn(Bytes) -> Bytes) -> Self {
        how(self)
    }
}

macro_rules! plain_answers {
    ($($answer:ty),*) => { $(impl Answer for $answer {})* };
}
plain_answers!(
    (),
    Put,
    Option<Stat>,
    Page,
    SignedUrl,
    Upload,
    Part,
    Vec<Part>,
    Vec<Upload>,
    Changes,
    Usage,
    BTreeMap<String, String>,
    Vec<Listed>
);

/// What is around a call.
pub trait Around: Send + Sync + 'static {
    /// Makes a call: `go` begins it, as often as it is called.
    fn around<'a, T: Answer + 'a>(
        &'a self,
        call: Call,
        go: impl Fn() -> Pending<'a, T> + Send + Sync + 'a,
    ) -> Pending<'a, T>;
}

/// A storage with something around every call.
pub struct Layered<A> {
    inner: Arc<dyn StorageProvider>,
    around: A,
}

impl<A: Around> Layered<A> {
    /// Puts it around a storage.
    pub fn new(inner: Arc<dyn StorageProvider>, around: A) -> Self {
        Self { inner, around }
    }

    /// What is around.
    pub fn layer(&self) -> &A {
        &self.around
    }

    fn call<'a, T: Answer + 'a>(
        &'a self,
        op: Op,
        go: impl Fn() -> Pending<'a, T> + Send + Sync + 'a,
    ) -> Pending<'a, T> {
        self.around.around(Call { op, sends: 0, wants: Some(0), provider: self.inner.name() }, go)
    }

    fn sending<'a, T: Answer + 'a>(
        &'a self,
        op: Op,
        bytes: &Bytes,
        go: impl Fn() -> Pending<'a, T> + Send + Sync + 'a,
    ) -> Pending<'a, T> {
        let call = Call { op, sends: bytes.len() as u64, wants: Some(0), provider: self.inner.name() };
        self.around.around(call, go)
    }

    fn able<'a, T: Answer + 'a, S: ?Sized + Sync + 'a>(
        &'a self,
        op: Op,
        ability: Option<&'a S>,
        go: impl Fn(&'a S) -> Pending<'a, T> + Send + Sync + 'a,
    ) -> Pending<'a, T> {
        match ability {
            Some(ability) => self.call(op, move || go(ability)),
            None => self.unable(),
        }
    }

    fn unable<'a, T>(&self) -> Pending<'a, T> {
        let error =
            StorageError::new(self.inner.name(), StorageErrorKind::Unsupported, "not an ability of this storage");
        Box::pin(async { Err(error) })
    }
}

impl<A: Around> StorageProvider for Layered<A> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn put<'a>(&'a self, key: &'a ObjectKey, bytes: Bytes, mode: PutMode) -> Pending<'a, Put> {
        let sent = bytes.clone();
        self.sending(Op::Put, &sent, move || self.inner.put(key, bytes.clone(), mode))
    }

    fn get_range<'a>(&'a self, key: &'a ObjectKey, range: Option<Range<u64>>) -> Pending<'a, Bytes> {
        let wants = range.as_ref().map(|range| range.end.saturating_sub(range.start));
        let call = Call { op: Op::Get, sends: 0, wants, provider: self.inner.name() };
        self.around.around(call, move || self.inner.get_range(key, range.clone()))
    }

    fn stat<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, Option<Stat>> {
        self.call(Op::Stat, move || self.inner.stat(key))
    }

    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a ObjectKey>, limit: usize) -> Pending<'a, Page> {
        self.call(Op::List, move || self.inner.list(prefix, after, limit))
    }

    fn delete<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, ()> {
        self.call(Op::Delete, move || self.inner.delete(key))
    }

    fn test(&self) -> Pending<'_, ()> {
        self.call(Op::Test, move || self.inner.test())
    }

    fn if_absent(&self) -> IfAbsent {
        self.inner.if_absent()
    }

    fn requests_max(&self) -> usize {
        self.inner.requests_max()
    }

    fn local_path(&self, key: &ObjectKey) -> Option<PathBuf> {
        self.inner.local_path(key)
    }

    fn presign(&self) -> Option<&dyn Presign> {
        self.inner.presign().map(|_| self as &dyn Presign)
    }

    fn multipart(&self) -> Option<&dyn Multipart> {
        self.inner.multipart().map(|_| self as &dyn Multipart)
    }

    fn rename(&self) -> Option<&dyn Rename> {
        self.inner.rename().map(|_| self as &dyn Rename)
    }

    fn watch(&self) -> Option<&dyn Watch> {
        self.inner.watch().map(|_| self as &dyn Watch)
    }

    fn quota(&self) -> Option<&dyn Quota> {
        self.inner.quota().map(|_| self as &dyn Quota)
    }

    fn search(&self) -> Option<&dyn Search> {
        self.inner.search().map(|_| self as &dyn Search)
    }
}

impl<A: Around> Presign for Layered<A> {
    fn presign_get<'a>(&'a self, key: &'a ObjectKey, lifetime: Duration) -> Pending<'a, SignedUrl> {
        self.able(Op::Presign, self.inner.presign(), move |inner| inner.presign_get(key, lifetime))
    }

    fn is_public(&self) -> bool {
        self.inner.presign().is_some_and(|inner| inner.is_public())
    }
}

impl<A: Around> Multipart for Layered<A> {
    fn rules(&self) -> PartRules {
        let none = PartRules {
            bytes_min: 0,
            bytes_max: 0,
            bytes_step: 1,
            parts_max: 0,
            in_order: true,
            lists_unfinished: false,
        };
        self.inner.multipart().map_or(none, |inner| inner.rules())
    }

    fn begin<'a>(&'a self, key: &'a ObjectKey, size: u64, mode: PutMode) -> Pending<'a, Upload> {
        self.able(Op::Begin, self.inner.multipart(), move |inner| inner.begin(key, size, mode))
    }

    fn put_part<'a>(&'a self, upload: &'a Upload, number: u32, offset: u64, bytes: Bytes) -> Pending<'a, Part> {
        let Some(inner) = self.inner.multipart() else { return self.unable() };
        let sent = bytes.clone();
        self.sending(Op::PutPart, &sent, move || inner.put_part(upload, number, offset, bytes.clone()))
    }

    fn parts<'a>(&'a self, upload: &'a Upload) -> Pending<'a, Vec<Part>> {
        self.able(Op::Parts, self.inner.multipart(), move |inner| inner.parts(upload))
    }

    fn complete<'a>(&'a self, upload: &'a Upload, parts: &'a [Part], mode: PutMode) -> Pending<'a, Put> {
        self.able(Op::Complete, self.inner.multipart(), move |inner| inner.complete(upload, parts, mode))
    }

    fn abort<'a>(&'a self, upload: &'a Upload) -> Pending<'a, ()> {
        self.able(Op::Abort, self.inner.multipart(), move |inner| inner.abort(upload))
    }

    fn unfinished<'a>(&'a self, prefix: &'a str) -> Pending<'a, Vec<Upload>> {
        self.able(Op::Unfinished, self.inner.multipart(), move |inner| inner.unfinished(prefix))
    }
}

impl<A: Around> Rename for Layered<A> {
    fn rename<'a>(&'a self, from: &'a ObjectKey, to: &'a ObjectKey, mode: PutMode) -> Pending<'a, ()> {
        self.able(Op::Rename, self.inner.rename(), move |inner| inner.rename(from, to, mode))
    }
}

impl<A: Around> Watch for Layered<A> {
    fn changes<'a>(&'a self, since: Option<&'a str>) -> Pending<'a, Changes> {
        self.able(Op::Changes, self.inner.watch(), move |inner| inner.changes(since))
    }
}

impl<A: Around> Quota for Layered<A> {
    fn usage(&self) -> Pending<'_, Usage> {
        self.able(Op::Usage, self.inner.quota(), |inner| inner.usage())
    }
}

impl<A: Around> Search for Layered<A> {
    fn describe<'a>(&'a self, key: &'a ObjectKey, fields: &'a BTreeMap<String, String>) -> Pending<'a, ()> {
        self.able(Op::Describe, self.inner.search(), move |inner| inner.describe(key, fields))
    }

    fn description<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, BTreeMap<String, String>> {
        self.able(Op::Description, self.inner.search(), move |inner| inner.description(key))
    }

    fn find<'a>(&'a self, words: &'a str, limit: usize) -> Pending<'a, Vec<Listed>> {
        self.able(Op::Find, self.inner.search(), move |inner| inner.find(words, limit))
    }
}
