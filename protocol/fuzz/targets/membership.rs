//! Membership operations that a device signed: a log takes or refuses them, and its roster is computed from whatever it took.

#![no_main]

use ed25519_dalek::SigningKey;
use larder_protocol::{
    codec::{decode, encode},
    id::DeviceId,
    membership::{Admit, Create, MembershipLog, MembershipOp, SignedOp},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(signed) = decode::<SignedOp>(input) {
        assert_eq!(encode(&signed).as_deref(), Ok(input));
        let _ = signed.verify();
    }
    if let Ok(create) = decode::<Create>(input) {
        let _ = create.founder.verify();
    }
    if let Ok(admit) = decode::<Admit>(input) {
        let _ = admit.member.verify();
    }
    let Ok(mut op) = decode::<MembershipOp>(input) else { return };
    let key = SigningKey::from_bytes(&[7; 32]);
    op.author = DeviceId::new(key.verifying_key().to_bytes());
    let signed = SignedOp::sign(&op, &key).expect("what was decoded fits");
    assert_eq!(signed.verify().as_ref(), Ok(&op));
    let group = op.group.unwrap_or(larder_protocol::id::GroupId::new(*signed.id().as_bytes()));
    let mut log = MembershipLog::empty(group);
    if log.insert(signed.clone()).is_ok() {
        assert_eq!(log.get(&signed.id()), Some(&signed), "kept untouched, whatever its kind");
        let _ = log.roster().member(&op.author);
        let _ = log.heads();
    }
});
