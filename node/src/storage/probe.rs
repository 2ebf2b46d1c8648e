//! Objects that only tests of a storage write: put, read, removed.

use super::{
    PutMode, StorageError, StorageErrorKind, StorageProvider,
    layout::{PROBE_PREFIX, probe_key},
    list_all,
};
use bytes::Bytes;
use larder_protocol::time::Timestamp;
use std::time::Duration;

/// A test that is still under way is far younger than this.
const LEFT_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// Puts an object, reads it and removes it: whether the credential may do all of that.
///
/// # Errors
/// [`StorageError`] of the first thing that fails. What was put is removed in any case, where that can be done.
#[cfg_attr(not(feature = "clouds"), allow(dead_code))]
pub(super) async fn write_and_read(storage: &dyn StorageProvider) -> Result<(), StorageError> {
    let key = probe_key();
    let bytes: [u8; 16] = crate::keys::random();
    let put = storage.put(&key, Bytes::copy_from_slice(&bytes), PutMode::Replace).await;
    // Of a put that got no answer the object may be there.
    if put.as_ref().is_err_and(|error| !error.may_retry()) {
        return put.map(|_| ());
    }
    let got = if put.is_ok() { storage.get_range(&key, None).await } else { Ok(Bytes::new()) };
    let removed = storage.delete(&key).await;
    put?;
    let got = got?;
    removed?;
    if got == bytes[..] {
        Ok(())
    } else {
        Err(StorageError::new(storage.name(), StorageErrorKind::Damaged, "what was written is not what is read"))
    }
}

/// Removes what tests left that were killed more than a day before `now`; gives how many. One whose time the storage does not
/// tell stays.
///
/// # Errors
/// [`StorageError`] of the first call that fails.
pub async fn sweep_probes(storage: &dyn StorageProvider, now: Timestamp) -> Result<usize, StorageError> {
    let age = i64::try_from(LEFT_AFTER.as_nanos()).unwrap_or(i64::MAX);
    let mut gone = 0;
    for listed in list_all(storage, PROBE_PREFIX).await? {
        if listed.modified.is_some_and(|modified| now.0.saturating_sub(modified.0) > age) {
            storage.delete(&listed.key).await?;
            gone += 1;
        }
    }
    Ok(gone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{
        ObjectKey,
        layers::{
            Layered,
            faulty::{Fault, Faulty},
        },
        memory::MemoryProvider,
    };
    use std::sync::Arc;

    /// Keys that are there.
    async fn left(storage: &dyn StorageProvider) -> Vec<String> {
        list_all(storage, "").await.unwrap().into_iter().map(|listed| listed.key.to_string()).collect()
    }

    #[tokio::test]
    async fn tests_at_the_same_time_do_not_meet() {
        // A test that has put its object waits for the other to be through.
        let storage = MemoryProvider::default();
        let mine = probe_key();
        storage.put(&mine, "mine".into(), PutMode::Replace).await.unwrap();
        write_and_read(&storage).await.unwrap();
        assert_eq!(left(&storage).await, [mine.to_string()]);
        assert_eq!(storage.get_range(&mine, None).await.unwrap(), "mine");
    }

    #[tokio::test]
    async fn nothing_is_left_whatever_fails() {
        // The calls are: put, read, remove. The last one of each case is not failed.
        for (every, fault, kind) in [
            (1, vec![Fault::AnswerLost, Fault::AnswerLost], StorageErrorKind::Unavailable),
            (2, vec![Fault::Refused], StorageErrorKind::Unavailable),
            (2, vec![Fault::OtherBytes], StorageErrorKind::Damaged),
            (2, vec![Fault::Truncates], StorageErrorKind::Damaged),
        ] {
            let inner = Arc::new(MemoryProvider::default());
            let storage = Layered::new(inner.clone(), Faulty::new(every, fault.clone()));
            assert_eq!(write_and_read(&storage).await.unwrap_err().kind, kind, "{fault:?}");
            assert!(left(&*inner).await.is_empty(), "{fault:?}");
        }
    }

    #[tokio::test]
    async fn what_a_killed_test_left_goes_after_a_day() {
        let storage = MemoryProvider::default();
        let (probe, old) = (probe_key(), ObjectKey::new(PROBE_PREFIX).unwrap());
        let keys = [probe, old, ObjectKey::new(".larder/keys").unwrap(), ObjectKey::new("objects/x").unwrap()];
        for key in &keys {
            storage.put(key, "x".into(), PutMode::Replace).await.unwrap();
        }
        let put = storage.stat(&keys[0]).await.unwrap().unwrap().modified.unwrap();
        let hours = |hours: i64| Timestamp(put.0 + hours * 3_600_000_000_000);
        assert_eq!(sweep_probes(&storage, hours(23)).await.unwrap(), 0);
        assert_eq!(sweep_probes(&storage, hours(25)).await.unwrap(), 2);
        assert_eq!(left(&storage).await, [".larder/keys", "objects/x"]);
    }
}
