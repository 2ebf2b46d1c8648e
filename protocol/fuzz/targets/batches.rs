//! Batches behind their seal and signature: what a member's key signed is still outside data.

#![no_main]

use ed25519_dalek::SigningKey;
use larder_protocol::{
    codec::{decode, encode},
    id::EpochId,
    log::{Batch, SealedBatch, SignedBatch},
    record::Record,
    sync::Gossip,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(batch) = decode::<Batch>(input) {
        assert_eq!(encode(&batch).as_deref(), Ok(input));
        let key = SigningKey::from_bytes(&[7; 32]);
        let signed = SignedBatch::sign(&batch, &key).expect("what was decoded fits");
        let _ = signed.verify(&batch.group);
        let sealed = signed.pack().expect("fits").seal(EpochId::new([2; 16]), &[3; 32], [4; 24]);
        assert_eq!(sealed.open(&[3; 32]), Ok(signed));
        assert!(batch.next_seq() >= batch.first_seq);
        let _ = encode(&Gossip::of(batch.author, batch.first_seq, batch.next_seq(), &sealed)).expect("fits");
        for op in batch.ops.iter() {
            if let Ok(Some(record)) = Record::decode(op.kind, &op.body) {
                assert_eq!(record.encode().as_deref(), Ok(&op.body[..]));
            }
        }
    }
    if let Ok(sealed) = decode::<SealedBatch>(input) {
        let _ = sealed.open(&[3; 32]);
    }
    if let Ok(signed) = decode::<SignedBatch>(input)
        && let Ok(batch) = signed.decode()
    {
        let _ = signed.verify(&batch.group);
    }
    Gossip::message_id(input);
});
