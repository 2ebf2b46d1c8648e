//! Objects in parts.

use super::*;
use crate::{
    shelves::{UPLOAD_AGE_MAX, uploads::UPLOADS_MAX},
    storage::{
        Multipart, Upload,
        upload::{self, Journal, Object, Progress},
    },
};
use larder_protocol::vault::Key;
use std::time::{Duration, SystemTime};

const MIB: usize = 1 << 20;

fn noise(len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    blake3::Hasher::new_derive_key("test").finalize_xof().fill(&mut bytes);
    bytes.into()
}

async fn used(bench: &Bench) -> u64 {
    bench.owner().quota().unwrap().usage().await.unwrap().used
}

/// Puts the parts of those numbers, of 10 MiB each.
async fn put_parts(provider: &PeerProvider, upload: &Upload, bytes: &Bytes, numbers: &[u32]) {
    for number in numbers {
        let start = (*number as usize - 1) * 10 * MIB;
        let piece = bytes.slice(start..(start + 10 * MIB).min(bytes.len()));
        provider.put_part(upload, *number, start as u64, piece).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_outlives_both_ends_and_counts_what_it_holds() {
    let bench = Bench::new(Space { quota: Some(60 << 20), reserve: 0 });
    let bytes = noise(25 * MIB);
    let key = named(&bytes);
    let notes = tempfile::tempdir().unwrap();
    let journal = Journal::open(notes.path().to_owned()).unwrap();
    let provider = bench.owner();
    let upload = provider.begin(&key, bytes.len() as u64, PutMode::IfAbsent).await.unwrap();
    assert_eq!(used(&bench).await, 0, "nothing came yet");
    put_parts(&provider, &upload, &bytes, &[3, 1]).await;
    put_parts(&provider, &upload, &bytes, &[3]).await;
    assert_eq!(used(&bench).await, 15 << 20, "a part that comes again counts once");
    journal.note(&upload::Noted { upload: upload.clone(), fingerprint: "same".to_owned() }).unwrap();

    let bench = bench.again();
    assert_eq!(used(&bench).await, 15 << 20);
    let provider = bench.owner();
    assert_eq!(provider.unfinished("").await.unwrap(), [upload]);
    assert_eq!(provider.stat(&key).await.unwrap(), None);
    let steps: Mutex<Vec<Progress>> = Mutex::default();
    let object = Object { key: &key, source: Arc::new(bytes.clone()), mode: PutMode::IfAbsent, fingerprint: "same" };
    let put = upload::upload(&provider, object, Some(&journal), &|step| steps.lock().unwrap().push(step)).await;
    assert_eq!(put.unwrap(), Put::New);
    assert_eq!(steps.into_inner().unwrap().len(), 1, "only the part that was missing is sent");
    assert_eq!(provider.get_range(&key, None).await.unwrap(), bytes);
    assert_eq!(used(&bench).await, 25 << 20);
    assert_eq!(used(&bench.again()).await, 25 << 20);
    assert!(provider.unfinished("").await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_began_an_upload_goes_on_with_it() {
    let bench = Bench::new(ROOMY);
    let (writer, _) = bench.reached_by(DeviceId::new([2; 32]), Rights::Store);
    let (other, rights) = bench.reached_by(DeviceId::new([3; 32]), Rights::Store);
    bench.owner().test().await.unwrap();
    let bytes = noise(12 * MIB);
    let upload = writer.begin(&key("a"), bytes.len() as u64, PutMode::IfAbsent).await.unwrap();
    put_parts(&writer, &upload, &bytes, &[1, 2]).await;
    let kind = |error: StorageErrorKind| assert_eq!(error, StorageErrorKind::NotAllowed);
    kind(other.put_part(&upload, 1, 0, bytes.slice(..MIB)).await.unwrap_err().kind);
    kind(other.parts(&upload).await.unwrap_err().kind);
    kind(other.complete(&upload, &[], PutMode::IfAbsent).await.unwrap_err().kind);
    kind(other.abort(&upload).await.unwrap_err().kind);
    assert!(other.unfinished("").await.unwrap().is_empty());
    // An admin, and whose shelf it is, may end what others left.
    *rights.lock().unwrap() = Rights::Decide;
    other.abort(&upload).await.unwrap();
    assert_eq!(writer.parts(&upload).await.unwrap_err().kind, StorageErrorKind::NotFound);
    assert_eq!(used(&bench).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_do_not_make_the_object_up_make_none() {
    let bench = Bench::new(ROOMY);
    let provider = bench.owner();
    let bytes = noise(12 * MIB);
    let key = named(&bytes);
    let begin = || provider.begin(&key, bytes.len() as u64, PutMode::IfAbsent);
    let upload = begin().await.unwrap();
    for (number, offset, len) in
        [(0, 0, MIB), (10_001, 0, MIB), (1, 5, MIB), (1, 0, 5), (2, 10 << 20, 2 * MIB + 1), (1, 0, 0)]
    {
        let error = provider.put_part(&upload, number, offset, bytes.slice(..len)).await.unwrap_err();
        assert_eq!(error.kind, StorageErrorKind::Invalid, "{number} {offset} {len}");
    }
    assert_eq!(provider.complete(&upload, &[], PutMode::IfAbsent).await.unwrap_err().kind, StorageErrorKind::Invalid);
    put_parts(&provider, &upload, &bytes, &[2]).await;
    assert_eq!(provider.complete(&upload, &[], PutMode::IfAbsent).await.unwrap_err().kind, StorageErrorKind::Invalid);
    // All of it, but other bytes than the name says: nothing of it is kept.
    provider.put_part(&upload, 1, 0, bytes.slice(2 * MIB..)).await.unwrap();
    assert_eq!(provider.complete(&upload, &[], PutMode::IfAbsent).await.unwrap_err().kind, StorageErrorKind::Damaged);
    assert_eq!(provider.parts(&upload).await.unwrap_err().kind, StorageErrorKind::NotFound);
    assert_eq!(provider.stat(&key).await.unwrap(), None);
    assert_eq!(used(&bench).await, 0);
    // Another device was quicker.
    let upload = begin().await.unwrap();
    put_parts(&provider, &upload, &bytes, &[1, 2]).await;
    provider.put(&key, bytes.clone(), PutMode::IfAbsent).await.unwrap();
    assert_eq!(provider.complete(&upload, &[], PutMode::IfAbsent).await.unwrap(), Put::AlreadyThere);
    assert_eq!(used(&bench).await, 12 << 20);
    // What makes no sense, or is the vault's own.
    for text in [".larder/uploads/../x/object", ".larder/uploads/", ".larder/uploads", ".larder/sums/x", ".larder/sums"]
    {
        let put = VaultRequest::Put { shelf: SHELF, key: Key::new(text).unwrap(), size: 1, replace: true };
        let (answer, _) = bench.raw(&[codec::encode(&put).unwrap()]).await;
        assert_eq!(answer, Some(VaultAnswer::Refused(VaultRefusal::Invalid)), "{text}");
    }
    for inner in ["../../x", ".larder/uploads/x", ".larder/damaged/x", ".larder/sums/x"] {
        let id = "0123456789abcdef0123456789abcdef";
        let text = Key::new(format!(".larder/uploads/{id}/object")).unwrap();
        let body = [&9_u64.to_be_bytes()[..], inner.as_bytes()].concat();
        let put = VaultRequest::Put { shelf: SHELF, key: text, size: body.len() as u64, replace: false };
        let (answer, _) = bench.raw(&[codec::encode(&put).unwrap(), body]).await;
        assert_eq!(answer, Some(VaultAnswer::Refused(VaultRefusal::Invalid)), "{inner}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_goes_on_with_is_removed_after_a_time() {
    let bench = Bench::new(Space { quota: Some(30 << 20), reserve: 0 });
    let provider = bench.owner();
    let bytes = noise(12 * MIB);
    let old = provider.begin(&key("old"), bytes.len() as u64, PutMode::IfAbsent).await.unwrap();
    let new = provider.begin(&key("new"), bytes.len() as u64, PutMode::IfAbsent).await.unwrap();
    for upload in [&old, &new] {
        put_parts(&provider, upload, &bytes, &[1]).await;
    }
    let error = provider.begin(&key("more"), bytes.len() as u64, PutMode::IfAbsent).await.unwrap_err();
    assert_eq!(error.kind, StorageErrorKind::Full, "there is no room for a third one");
    let long_ago = SystemTime::now() - UPLOAD_AGE_MAX - Duration::from_secs(60);
    fs::File::open(bench.folder().join(".larder/uploads").join(&old.id)).unwrap().set_modified(long_ago).unwrap();
    assert_eq!(bench.shelves.tidy(SystemTime::now()).await.unwrap(), 1);
    assert_eq!(provider.unfinished("").await.unwrap(), std::slice::from_ref(&new));
    assert_eq!(used(&bench).await, 10 << 20);
    fs::File::open(bench.folder().join(".larder/uploads").join(&new.id)).unwrap().set_modified(long_ago).unwrap();
    let bench = bench.again();
    assert!(bench.owner().unfinished("").await.unwrap().is_empty(), "a start removes them too");
    assert_eq!(used(&bench).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_device_has_only_so_many_uploads() {
    let bench = Bench::new(ROOMY);
    let provider = bench.owner();
    for _ in 0..UPLOADS_MAX {
        provider.begin(&key("a"), 9, PutMode::IfAbsent).await.unwrap();
    }
    let error = provider.begin(&key("a"), 9, PutMode::IfAbsent).await.unwrap_err();
    assert_eq!(error.kind, StorageErrorKind::Throttled);
    let (other, _) = bench.reached_by(DeviceId::new([3; 32]), Rights::Store);
    other.begin(&key("a"), 9, PutMode::IfAbsent).await.unwrap();
}

/// A crash at any moment of the end of an upload leaves the upload or the object, counted once.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_while_an_upload_ends_leaves_it_or_the_object() {
    for object_is_there in [false, true] {
        let bench = Bench::new(ROOMY);
        let provider = bench.owner();
        let bytes = noise(12 * MIB);
        let key = named(&bytes);
        let upload = provider.begin(&key, bytes.len() as u64, PutMode::IfAbsent).await.unwrap();
        put_parts(&provider, &upload, &bytes, &[1, 2]).await;
        let uploads = bench.folder().join(".larder/uploads");
        let ending = uploads.join(format!("{}.ending", upload.id));
        fs::rename(uploads.join(&upload.id), &ending).unwrap();
        fs::create_dir(uploads.join("0123.new")).unwrap();
        if object_is_there {
            let to = bench.folder().join(key.as_str());
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::rename(ending.join("data"), to).unwrap();
        }
        let bench = bench.again();
        let provider = bench.owner();
        assert_eq!(used(&bench).await, 12 << 20);
        let completed = provider.complete(&upload, &[], PutMode::IfAbsent).await;
        if object_is_there {
            assert_eq!(completed.unwrap_err().kind, StorageErrorKind::NotFound);
        } else {
            assert_eq!(completed.unwrap(), Put::New);
        }
        assert_eq!(provider.get_range(&key, None).await.unwrap(), bytes);
        assert_eq!(fs::read_dir(&uploads).unwrap().count(), 0);
        assert_eq!(used(&bench.again()).await, 12 << 20);
    }
}
