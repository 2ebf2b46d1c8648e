//! Switches by which a test makes requests fail.

use bytes::Bytes;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a request is for, in any of the services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A user's browser at the authorization page.
    Authorize,
    /// The token endpoint: codes, refreshes and polls of the device flow.
    Token,
    /// The start of the device flow.
    DeviceCode,
    /// The end of a grant.
    Revoke,
    /// Account and quota.
    About,
    /// One page of a listing.
    List,
    /// One page of changes, or where they begin.
    Changes,
    /// Metadata of one file.
    Stat,
    /// Bytes of one file; in Graph the redirect to them is [`Kind::Locate`].
    Download,
    /// Where the bytes of a file are to be had.
    Locate,
    /// A whole file in one request.
    Put,
    /// A folder, or a file without bytes.
    CreateFolder,
    /// Metadata of a file: name, place, trash.
    Update,
    /// Deletion.
    Delete,
    /// A copy made by the service.
    Copy,
    /// The start of an upload in parts.
    BeginUpload,
    /// One part.
    Part,
    /// How much of an upload has arrived.
    UploadStatus,
    /// The end of an upload in parts, where it is a request of its own.
    CompleteUpload,
    /// An upload that is given up.
    CancelUpload,
    /// Several requests in one.
    Batch,
    /// Nothing that the mock knows.
    Unknown,
}

/// What happens to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Answered with this and not carried out. Its body is read first.
    Status {
        /// Status code.
        status: u16,
        /// Headers, such as `Retry-After`.
        headers: Vec<(String, String)>,
        /// Body.
        body: Bytes,
    },
    /// Not carried out; the connection is reset.
    Reset,
    /// Carried out; then the connection is reset instead of an answer.
    ResetAfterwards,
    /// The connection is reset when this many bytes of the request's body have been read; those are handed on, and an upload
    /// session keeps of them what the service would keep.
    CutBody(usize),
    /// Carried out, and never answered.
    Hang,
    /// The answer's body stops after this many bytes, and the connection stays open.
    Stall(usize),
    /// The answer's body breaks off after this many bytes; of large ones some of the last may be lost too.
    Truncate(usize),
    /// One bit of the answer's body is wrong, in its middle.
    WrongBytes,
    /// An upload session keeps only this many bytes of the part, rounded down to the service's unit, and says so.
    KeepOnly(usize),
}

impl Fault {
    /// A status without body.
    pub fn status(status: u16) -> Self {
        Self::Status { status, headers: Vec::new(), body: Bytes::new() }
    }

    /// A status that says when to come again.
    pub fn retry_after(status: u16, seconds: u64) -> Self {
        let headers = vec![("retry-after".to_owned(), seconds.to_string())];
        Self::Status { status, headers, body: Bytes::new() }
    }
}

/// The faults of one mock.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Mutex<Vec<Rule>>>);

#[derive(Debug)]
struct Rule {
    kind: Kind,
    skip: u64,
    /// How often it still strikes.
    left: u64,
    fault: Fault,
}

impl Faults {
    /// The next request of a kind fails.
    pub fn next(&self, kind: Kind, fault: Fault) {
        self.add(kind, 0, 1, fault);
    }

    /// The n-th request of a kind from now on fails; the first is 1.
    pub fn nth(&self, kind: Kind, n: u64, fault: Fault) {
        self.add(kind, n.saturating_sub(1), 1, fault);
    }

    /// The next `times` requests of a kind fail.
    pub fn times(&self, kind: Kind, times: u64, fault: Fault) {
        self.add(kind, 0, times, fault);
    }

    /// Every request of a kind fails, until [`Faults::clear`].
    pub fn every(&self, kind: Kind, fault: Fault) {
        self.add(kind, 0, u64::MAX, fault);
    }

    /// All goes well again.
    pub fn clear(&self) {
        self.rules().clear();
    }

    /// How many faults have been ordered and have not struck; [`Faults::every`] never counts. A test that orders one and
    /// finds it here at its end has tested nothing.
    pub fn outstanding(&self) -> usize {
        self.rules().iter().filter(|rule| rule.left != u64::MAX).count()
    }

    /// What befalls a request of a kind. The first rule that is due strikes; the others count the request too.
    pub(super) fn strike(&self, kind: Kind) -> Option<Fault> {
        let mut struck = None;
        self.rules().retain_mut(|rule| {
            if rule.kind != kind {
                return true;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
            } else if struck.is_none() {
                struck = Some(rule.fault.clone());
                if rule.left != u64::MAX {
                    rule.left -= 1;
                }
            }
            rule.left > 0
        });
        struck
    }

    fn add(&self, kind: Kind, skip: u64, left: u64, fault: Fault) {
        self.rules().push(Rule { kind, skip, left, fault });
    }

    fn rules(&self) -> MutexGuard<'_, Vec<Rule>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strikes_when_ordered() {
        let faults = Faults::default();
        faults.nth(Kind::Part, 2, Fault::Reset);
        faults.every(Kind::List, Fault::Hang);
        assert_eq!(faults.strike(Kind::Part), None);
        assert_eq!(faults.outstanding(), 1);
        assert_eq!(faults.strike(Kind::Part), Some(Fault::Reset));
        assert_eq!(faults.strike(Kind::Part), None);
        assert_eq!(faults.outstanding(), 0);
        assert_eq!((faults.strike(Kind::List), faults.strike(Kind::List)), (Some(Fault::Hang), Some(Fault::Hang)));
        faults.clear();
        assert_eq!(faults.strike(Kind::List), None);
    }
}
