//! A few valid encodings of every wire type, always the same ones.

use ed25519_dalek::SigningKey;
use larder_protocol::{
    bounded::{Bytes, List, Text},
    codec::{Wire, encode},
    id::{ChunkId, ContentId, DeviceId, EpochId, FolderId, GroupId, LocationId, PlainChunkId, ShelfId, WantId},
    log::{Author, Batch, Op, SealedBatch, SignedBatch, VersionVector, genesis_hash},
    membership::{
        Admit, Create, Enrolment, MembershipOp, Recover, Remove, Role, Rotate, RotateRandomness, SealedName, SetRole,
        SignedOp, WrappedSecret, WrappingKey,
    },
    pairing::{Code, CodeInvite, Invite, InviteKey, InviteState, Message, Refusal, Ticket, WordsMessage},
    path::{NfcPath, RelPath},
    record::{
        Access, Alias, AuditHead, Checkpoint, Context, Custodian, Device, Entry, EntryValue, File, FolderEntry,
        FolderFile, FolderValue, Gateway, GatewayState, GoneReason, Location, LocationState, Profile, Purpose, Replica,
        ReplicaState, Storage, StorageState, StorageUsage, Suspicion, SuspicionReason, Want, WantOutcome, WantResult,
        Whom,
    },
    seal::{KeyBundle, Manifest, ManifestChunk, MembershipCopy, PageMark, SnapshotEntry, SnapshotIndex, SnapshotPage},
    sync::{Frame, Gossip, Locator},
    time::{Hlc, Timestamp},
    vault::{ListedObject, ObjectStat, VaultAnswer, VaultRefusal, VaultRequest},
};

pub const GROUP: GroupId = GroupId::new([1; 32]);
const EPOCH: EpochId = EpochId::new([2; 16]);
const LOCATION: LocationId = LocationId::new([3; 16]);
const CONTENT: ContentId = ContentId::new([4; 32]);
const CHUNK: ChunkId = ChunkId::new([5; 32]);
const SHELF: ShelfId = ShelfId::new([6; 16]);
const SEEN: Timestamp = Timestamp(1_700_000_000_000);

pub fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn device() -> DeviceId {
    DeviceId::new(key().verifying_key().to_bytes())
}

fn author(incarnation: u32) -> Author {
    Author { device: device(), incarnation }
}

fn text<const MAX: usize>(text: &str) -> Text<MAX> {
    Text::new(text).expect("a short text")
}

fn path(text: &str) -> RelPath {
    RelPath::new(text).expect("a path")
}

fn wrapped() -> WrappedSecret {
    let to = WrappingKey::from_bytes([8; 32]).public();
    WrappedSecret::wrap(&[9; 32], &to, [10; 32]).expect("a good key")
}

fn name() -> SealedName {
    SealedName::seal(&text("laptop"), EPOCH, &[11; 32], [12; 24])
}

fn remove() -> Remove {
    Remove { device: device(), cuts: List::truncated([(0, 7), (1, 2)]) }
}

fn rotate() -> Rotate {
    let to = WrappingKey::from_bytes([8; 32]).public();
    let random = RotateRandomness { secret: [14; 32], seed: [15; 32] };
    Rotate::new([(device(), to)], &to, [(EPOCH, [16; 32])], &random).expect("good keys")
}

fn enrolment() -> Enrolment {
    Enrolment::sign([13; 32], &key())
}

fn create() -> Create {
    Create {
        nonce: [14; 32],
        name: name(),
        founder: enrolment(),
        founder_name: name(),
        recovery_signing: [15; 32],
        recovery_wrapping: [16; 32],
        epoch: EPOCH,
        for_recovery: wrapped(),
        for_founder: wrapped(),
    }
}

fn admit(role: Role) -> Admit {
    Admit { member: enrolment(), name: name(), role, epochs: List::truncated([(EPOCH, wrapped())]) }
}

fn membership_op(kind: u16) -> MembershipOp {
    let body = encode(&admit(Role::Reader)).expect("encodes");
    MembershipOp {
        group: (kind != MembershipOp::CREATE).then_some(GROUP),
        author: device(),
        seq: 300,
        previous: List::truncated([larder_protocol::id::MembershipOpId::new([17; 32])]),
        kind,
        body: Bytes::new(body).expect("fits"),
    }
}

pub fn signed_op(kind: u16) -> SignedOp {
    SignedOp::sign(&membership_op(kind), &key()).expect("signs")
}

/// A batch of one operation of this kind.
pub fn batch(kind: u16, body: &[u8]) -> Batch {
    let op = Op { hlc: Hlc(5), kind, body: Bytes::new(body.to_vec()).expect("fits") };
    let previous = genesis_hash(&GROUP, &author(0));
    Batch { group: GROUP, author: author(0), first_seq: 0, previous, ops: List::truncated([op]) }
}

pub fn signed(batch: &Batch) -> SignedBatch {
    SignedBatch::sign(batch, &key()).expect("signs")
}

pub fn sealed(batch: &Batch) -> SealedBatch {
    signed(batch).pack().expect("packs").seal(EPOCH, &[18; 32], [19; 24])
}

fn checkpoint(ranges: u64) -> Checkpoint {
    Checkpoint::new((0..ranges).map(|at| at * 1_000..at * 1_000 + 300)).expect("in order")
}

fn vector() -> VersionVector {
    [(author(0), 3), (author(1), 70_000), (Author { device: DeviceId::new([20; 32]), incarnation: 0 }, 1 << 33)]
        .into_iter()
        .collect()
}

fn device_record() -> Device {
    Device {
        name: text("laptop"),
        control: List::truncated([text("/ip4/127.0.0.1/udp/4001/quic-v1"), text("/ip4/127.0.0.1/tcp/4001")]),
        data: List::truncated([text("udp://127.0.0.1:4002")]),
    }
}

fn location(storage: Storage) -> Location {
    Location {
        id: LOCATION,
        name: text("photos"),
        mount_epoch: 2,
        storage,
        profile: text("folder"),
        purposes: List::truncated([Purpose::Inbox, Purpose::Archive]),
        read_only: false,
        trust_store: true,
        settings: List::truncated([(text("endpoint"), text("http://localhost"))]),
        removed: false,
    }
}

fn entry(value: EntryValue) -> Entry {
    Entry { location: LOCATION, mount_epoch: 1, path: path("2024/été/beach.jpg"), value }
}

fn replica(state: ReplicaState) -> Replica {
    Replica {
        location: LOCATION,
        mount_epoch: 1,
        content: CONTENT,
        size: 9_000_000,
        manifest: CHUNK,
        state,
        verified: SEEN,
    }
}

fn invite(state: InviteState) -> Invite {
    Invite { key: InviteKey::from_secret(&[21; 16]), role: Role::Writer, not_after: SEEN, state, bad_proofs: 2 }
}

pub fn ticket() -> Ticket {
    let addresses = ["127.0.0.1:4003", "[::1]:4003"].map(|address| address.parse().expect("an address"));
    Ticket::new(GROUP, device(), addresses, [22; 16], Role::Writer, SEEN)
}

pub fn manifest() -> Manifest {
    let chunk = |offset: u64| ManifestChunk {
        offset,
        length: 4_000_000,
        stored: 4_194_304,
        chunk: CHUNK,
        plain: PlainChunkId::new([23; 32]),
    };
    Manifest { content: CONTENT, size: 8_000_000, epoch: None, chunks: List::truncated([chunk(0), chunk(4_000_000)]) }
}

pub fn page() -> SnapshotPage {
    let entry =
        |text: &str| SnapshotEntry { path: path(text), content: CONTENT, size: 7, modified: SEEN, manifest: CHUNK };
    SnapshotPage::empty(LOCATION, 9).with([entry("a/b.txt"), entry("c.txt")])
}

fn all<T: Wire>(values: &[T]) -> Vec<Vec<u8>> {
    values.iter().map(|value| encode(value).expect("a sample encodes")).collect()
}

/// Encodings of the type of this name; none for a name that is unknown here.
pub fn of(name: &str) -> Vec<Vec<u8>> {
    let file = EntryValue::File(File { content: CONTENT, size: 500, modified: Timestamp(-5), verified: SEEN });
    let head = Gossip::Head { author: author(0), next_seq: 9 };
    match name {
        "Header" => all(&[signed(&batch(5, b"one")).header.decode().expect("decodes")]),
        "Ops" => all(&[batch(5, &all(&[entry(file)])[0]).ops, batch(60_000, b"of a later version").ops]),
        "SignedHeader" => all(&[signed(&batch(999, &[1, 2, 3])).header]),
        "Checkpoint" => all(&[checkpoint(1), checkpoint(9)]),
        "SignedBatch" => all(&[signed(&batch(999, &[1, 2, 3]))]),
        "SealedBatch" => all(&[
            sealed(&batch(999, &[1, 2, 3])),
            signed(&batch(999, &[1, 2, 3])).header.pack().seal(EPOCH, &[18; 32], [20; 24]),
        ]),
        "VersionVector" => all(&[VersionVector::default(), vector()]),
        "Create" => all(&[create()]),
        "Admit" => all(&[admit(Role::Admin), Admit { epochs: List::default(), ..admit(Role::Vault) }]),
        "MembershipOp" => all(&[membership_op(MembershipOp::CREATE), membership_op(MembershipOp::ADMIT)]),
        "SignedOp" => all(&[signed_op(MembershipOp::ADMIT), signed_op(60_000)]),
        "Invite" => all(&[invite(InviteState::Open), invite(InviteState::Used(device()))]),
        "Message" => all(&[
            Message::Open { invite: invite(InviteState::Open).id(), nonce: [24; 32] },
            Message::Prove { enrolment: enrolment(), name: text("laptop"), proof: [25; 32] },
            Message::Welcome {
                proof: [26; 32],
                ops: List::truncated([signed_op(2)]),
                contacts: List::truncated([(device(), device_record())]),
            },
            Message::Refuse(Refusal::Busy),
        ]),
        "Ticket" => all(&[ticket()]),
        "Device" => all(&[device_record()]),
        "Location" => all(&[location(Storage::Local), location(Storage::Cloud { uri: text("s3://bucket/prefix") })]),
        "Profile" => all(&[Profile {
            name: text("sealed"),
            provider: text("folder"),
            config: List::truncated([(text("chunk"), text("4 MiB")), (text(""), text(""))]),
            encrypted: true,
            chunked: true,
            removed: false,
        }]),
        "LocationState" => {
            all(&[LocationState { location: LOCATION, mount_epoch: 1, state: StorageState::Offline, seen: SEEN }])
        }
        "Entry" => all(&[entry(file), entry(EntryValue::Gone(GoneReason::Moved))]),
        "Replica" => all(&[replica(ReplicaState::Present), replica(ReplicaState::Damaged)]),
        "Suspicion" => {
            all(&[Suspicion { location: LOCATION, content: CONTENT, reason: SuspicionReason::Changed, seen: SEEN }])
        }
        "Want" => all(&[Want { id: WantId::new([27; 16]), content: CONTENT, location: LOCATION, path: path("a/b") }]),
        "WantOutcome" => all(&[
            WantOutcome { id: WantId::new([27; 16]), result: WantResult::Done },
            WantOutcome { id: WantId::new([27; 16]), result: WantResult::Failed(text("no room")) },
        ]),
        "Gateway" => all(&[
            Gateway { location: LOCATION, mount_epoch: 1, state: GatewayState::Offline, seen: SEEN, usage: None },
            Gateway {
                location: LOCATION,
                mount_epoch: 300,
                state: GatewayState::Serving,
                seen: SEEN,
                usage: Some(StorageUsage { used: 1 << 40, total: Some(1 << 41) }),
            },
        ]),
        "VaultRequest" => all(&[
            VaultRequest::Put { shelf: SHELF, key: text("objects/05/x"), size: 5 << 20, replace: false },
            VaultRequest::Get { shelf: SHELF, key: text("objects/05/x"), range: Some((7, 300)) },
            VaultRequest::Stat { shelf: SHELF, key: text(".larder/location") },
            VaultRequest::List {
                shelf: SHELF,
                prefix: text("objects/"),
                after: Some(text("objects/05/x")),
                limit: 256,
            },
            VaultRequest::Delete { shelf: SHELF, key: text("objects/05/x") },
            VaultRequest::Test { shelf: SHELF },
            VaultRequest::Usage,
            VaultRequest::Meet {
                devices: List::truncated([(device(), List::truncated([text("/ip4/127.0.0.1/tcp/1")]))]),
            },
        ]),
        "VaultAnswer" => all(&[
            VaultAnswer::Ready,
            VaultAnswer::Stored { new: true },
            VaultAnswer::Object { size: 300 },
            VaultAnswer::Found(Some(ObjectStat { size: 300, modified: SEEN, version: text("1.2-3") })),
            VaultAnswer::Page {
                objects: List::truncated([ListedObject { key: text("objects/05/x"), size: 300, modified: SEEN }]),
                next: Some(text("objects/05/x")),
            },
            VaultAnswer::Done,
            VaultAnswer::Usage { used: 1 << 30, free: 1 << 40 },
            VaultAnswer::Refused(VaultRefusal::Full),
        ]),
        "Access" => all(&[
            Access::open(LOCATION),
            Access {
                read: Whom::Only { roles: List::truncated([Role::Admin, Role::Writer]), devices: List::default() },
                write: Whom::Only { roles: List::default(), devices: List::truncated([device()]) },
                delete: Whom::Only { roles: List::default(), devices: List::default() },
                ..Access::open(LOCATION)
            },
        ]),
        "Custodian" => all(&[Custodian { location: LOCATION, device: device() }]),
        "AuditHead" => all(&[AuditHead { lines: 7, head: [33; 32] }]),
        "Alias" => all(&[Alias { content: CONTENT, sha256: [32; 32] }]),
        "KeyBundle" => all(&[KeyBundle::new(GROUP, [(EPOCH, wrapped()), (EPOCH, wrapped())])]),
        "Manifest" => all(&[Manifest { size: 0, chunks: List::default(), ..manifest() }, manifest()]),
        // Private to its module: author, signature and payload as `docs/formats.md` has them.
        "Signed" => vec![[&[28; 32][..], &[64], &[29; 64], &[3, 1, 2, 3]].concat()],
        "SnapshotPage" => all(&[SnapshotPage::empty(LOCATION, 0), page()]),
        "SnapshotIndex" => all(&[
            SnapshotIndex::empty(LOCATION),
            SnapshotIndex::empty(LOCATION).with(PageMark { page: 9, generation: 300, object: CHUNK }),
        ]),
        "MembershipCopy" => {
            all(&[MembershipCopy { group: GROUP, ops: List::truncated([signed_op(2), signed_op(60_000)]) }])
        }
        "Frame" => all(&[
            Frame::Hello { group: GROUP, epoch: Some(EPOCH), catalog: [30; 32], membership: [31; 32] },
            Frame::MembershipIds(List::truncated([signed_op(2).id()])),
            Frame::MembershipOps { ops: List::truncated([signed_op(2), signed_op(60_000)]), last: true },
            Frame::Summary {
                vector: vector(),
                held: List::truncated([(author(2), 0, 5)]),
                tips: List::truncated([(author(0), [32; 32])]),
            },
            Frame::Batches(List::truncated([sealed(&batch(5, b"one")), sealed(&batch(60_000, b"two"))])),
            Frame::Ack,
            Frame::End { vector: vector() },
            Frame::Diverged(List::truncated([Locator {
                author: author(0),
                points: List::truncated([(3, [33; 32]), (1, [34; 32])]),
            }])),
        ]),
        "Remove" => all(&[remove()]),
        "SetRole" => all(&[SetRole { device: device(), role: Role::Vault, cuts: List::default() }]),
        "Rotate" => all(&[rotate()]),
        "Recover" => {
            all(&[Recover { remove: List::truncated([remove()]), admin: admit(Role::Admin), rotate: rotate() }])
        }
        "WordsMessage" => all(&[
            WordsMessage::Answer {
                nonce: [33; 32],
                group_tag: [34; 32],
                element: Bytes::new(vec![35; 33]).expect("33 bytes"),
            },
            WordsMessage::Confirmed { confirmation: [36; 32], group: GROUP },
            WordsMessage::Refuse(Refusal::Wrong),
        ]),
        "CodeInvite" => all(&[CodeInvite::open(&Code::new(37, [1; 6]), Role::Writer, SEEN, SEEN.plus_millis(1000))]),
        "FolderEntry" => all(&[
            FolderEntry {
                folder: FolderId::new([38; 16]),
                path: NfcPath::of(&path("2024/été/beach.jpg")).expect("a short path"),
                value: FolderValue::File(FolderFile { content: CONTENT, size: 7, modified: SEEN }),
                context: Context::new(vec![(author(0), 3), (author(1), 70_000)]).expect("sorted"),
                moved_from: Some(path("beach.jpg")),
            },
            FolderEntry {
                folder: FolderId::new([38; 16]),
                path: NfcPath::of(&path("beach.jpg")).expect("a short path"),
                value: FolderValue::Deleted,
                context: Context::default(),
                moved_from: None,
            },
        ]),
        "Gossip" => all(&[Gossip::of(author(0), 0, 1, &sealed(&batch(5, b"one"))), head]),
        _ => Vec::new(),
    }
}
