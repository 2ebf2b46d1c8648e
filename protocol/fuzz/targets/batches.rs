//! Batches behind their seal and signature: what a member's key signed is still outside data.

#![no_main]

use ed25519_dalek::SigningKey;
use larder_protocol::{
    codec::{decode, encode},
    id::{DeviceId, EpochId, GroupId},
    log::{Author, Batch, Opened, Ops, Packed, SealedBatch, SignedBatch, genesis_hash},
    record::Record,
    sync::Gossip,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(ops) = decode::<Ops>(input) {
        assert_eq!(encode(&ops).as_deref(), Ok(input));
        let key = SigningKey::from_bytes(&[7; 32]);
        let author = Author { device: DeviceId::new(key.verifying_key().to_bytes()), incarnation: 0 };
        let group = GroupId::new([1; 32]);
        let batch = Batch { group, author, first_seq: 0, previous: genesis_hash(&group, &author), ops };
        let signed = SignedBatch::sign(&batch, &key).expect("what was decoded fits");
        let verified = signed.verify(&group);
        assert!(batch.ops.is_empty() || verified.as_ref() == Ok(&batch));
        let seal = |packed: Packed| packed.seal(EpochId::new([2; 16]), &[3; 32], [4; 24]);
        let sealed = seal(signed.pack().expect("fits"));
        assert_eq!(seal(signed.header.pack()).open(&[3; 32]), Ok(Opened::Husk(signed.header.clone())));
        assert_eq!(sealed.open(&[3; 32]), Ok(Opened::Whole(signed)));
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
        && let Ok(header) = signed.header.decode()
    {
        let _ = (signed.verify(&header.group), signed.decode());
        assert!(header.next_seq() >= header.first_seq);
    }
    Gossip::message_id(input);
});
