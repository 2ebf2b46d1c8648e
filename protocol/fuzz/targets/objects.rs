//! Manifests, snapshot pages and their index, copies of the membership log, key bundles and chunk headers as a storage place
//! gives them back.

#![no_main]

use ed25519_dalek::SigningKey;
use larder_protocol::{
    codec::{decode, encode},
    id::{EpochId, PlainChunkId},
    seal::{EpochSecret, KeyBundle, Manifest, MembershipCopy, SnapshotIndex, SnapshotPage, open_chunk},
};
use libfuzzer_sys::fuzz_target;

fn secret(_: &EpochId) -> Option<EpochSecret> {
    Some(EpochSecret::new([9; 32]))
}

fuzz_target!(|input: &[u8]| {
    let key = SigningKey::from_bytes(&[7; 32]);
    let _ = Manifest::open(input, secret);
    let _ = SnapshotPage::open(input, secret);
    let _ = SnapshotIndex::open(input, secret);
    let _ = MembershipCopy::open(input, secret);
    if let Some((header, rest)) = input.split_first_chunk::<64>() {
        let len = rest.len() as u64;
        let _ = open_chunk(secret, header, &PlainChunkId::new([1; 32]), len, len);
    }
    if let Ok(bundle) = decode::<KeyBundle>(input) {
        let _ = bundle.is_known();
    }
    if let Ok(manifest) = decode::<Manifest>(input) {
        assert_eq!(encode(&manifest).as_deref(), Ok(input));
        let object = manifest.close(&key, secret(&EpochId::new([2; 16])).as_ref(), [3; 24]).expect("fits");
        if let Ok((opened, _)) = Manifest::open(&object, secret) {
            let pieces = opened.pieces(0..opened.size);
            let total: u64 = pieces.iter().map(|piece| piece.range.end - piece.range.start).sum();
            assert_eq!(total, opened.size, "the pieces are the content");
            let _ = opened.pieces(opened.size / 3..u64::MAX);
        }
    }
    if let Ok(page) = decode::<SnapshotPage>(input) {
        let object = page.close(&key, EpochId::new([2; 16]), &EpochSecret::new([9; 32]), [3; 24]).expect("fits");
        if let Ok((opened, _)) = SnapshotPage::open(&object, secret) {
            assert_eq!(opened, page);
            let entries = opened.entries.to_vec();
            let _ = opened.with(entries);
        }
    }
    if let Ok(index) = decode::<SnapshotIndex>(input) {
        let object = index.close(&key, EpochId::new([2; 16]), &EpochSecret::new([9; 32]), [3; 24]).expect("fits");
        assert!(SnapshotIndex::open(&object, secret).is_ok_and(|(opened, _)| opened == index));
    }
});
