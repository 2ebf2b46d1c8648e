//! Any wire type: the one that `LARDER_TYPE` names, or else the one whose number is the first byte.

#![no_main]

use larder_protocol::wire::{TYPES, WireType, named};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static CHOSEN: LazyLock<Option<&'static WireType>> =
    LazyLock::new(|| std::env::var("LARDER_TYPE").ok().map(|name| named(&name).expect("a wire type")));

fuzz_target!(|input: &[u8]| {
    let (wire, bytes) = match (*CHOSEN, input) {
        (Some(wire), bytes) => (wire, bytes),
        (None, [number, bytes @ ..]) => (&TYPES[usize::from(*number) % TYPES.len()], bytes),
        (None, []) => return,
    };
    if let Ok(again) = wire.recode(bytes) {
        assert_eq!(again, bytes, "{}: a value has one encoding", wire.name);
    }
});
