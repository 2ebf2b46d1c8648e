//! What a process of the same user sends over the control socket, and the texts that people paste.

#![no_main]

use larder_protocol::{
    control::{
        AddLocation, CatQuery, EnsureRequest, FindQuery, GetRequest, IndexRequest, InviteRequest, LogQuery,
        NamedRequest, OpenInvite, WhereQuery,
    },
    id::ContentId,
    membership::RecoveryKey,
    pairing::Ticket,
    path::RelPath,
};
use libfuzzer_sys::fuzz_target;
use serde::{Serialize, de::DeserializeOwned};

fn json<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    if let Ok(value) = serde_json::from_slice::<T>(bytes) {
        let again = serde_json::to_vec(&value).expect("writes");
        assert_eq!(serde_json::from_slice::<T>(&again).expect("reads"), value);
    }
}

fuzz_target!(|input: &[u8]| {
    json::<OpenInvite>(input);
    json::<InviteRequest>(input);
    json::<AddLocation>(input);
    json::<NamedRequest>(input);
    json::<IndexRequest>(input);
    json::<FindQuery>(input);
    json::<WhereQuery>(input);
    json::<GetRequest>(input);
    json::<EnsureRequest>(input);
    json::<CatQuery>(input);
    json::<LogQuery>(input);
    if let Ok(path) = RelPath::from_bytes(input) {
        assert_eq!(path.to_bytes(), input);
        let _ = path.nfc();
    }
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(path) = RelPath::new(text) {
        assert_eq!(RelPath::from_bytes(&path.to_bytes()).as_ref(), Ok(&path));
    }
    if let Ok(ticket) = Ticket::from_text(text) {
        assert_eq!(Ticket::from_text(&ticket.to_text()), Ok(ticket));
    }
    let _ = RecoveryKey::from_words(text);
    let _ = text.parse::<ContentId>();
});
