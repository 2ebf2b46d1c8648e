//! What a node and its users say to each other over the control socket: requests, replies, progress and errors.
//!
//! HTTP carries them as JSON; `docs/protocol.md` lists the routes. Replies are the objects that `--json` prints, so their
//! field names are a contract. Sizes are bytes, times RFC 3339 text, ids hex.

mod credential;
mod error;
mod finding;
mod reply;
mod request;

pub use credential::{
    AddProfile, ConnectRequest, ConnectView, CredentialView, LoginService, ProfileView, ProtectCredentials, Protection,
    ProtectionView, ProviderView, Secret, SetCredential, SettingView, UnlockCredentials,
};
pub use error::{ControlError, ErrorKind};
pub use finding::{ExaminedView, FindingKind, FindingView, Severity};
pub use reply::{
    AccessView, AheadView, AuditLine, CopyView, CustodianView, DefaultView, DefaultWhy, DeviceView, DigestView,
    DisputedView, EnsureView, Evidence, ForkView, FoundView, GatewayView, GotView, HeldView, IndexView, InviteView,
    JoinView, LocationSummary, LocationView, LogCheckView, PathKind, PeerView, Progress, PutView, ReadableView,
    RebuildView, RestoredView, RevokeOutcome, RevokedView, SourceKind, SourceView, StatusView, StreamItem, TroubleView,
    UrlKind, UrlView, WhereView,
};
pub use request::{
    AddLocation, AllowLocation, CatQuery, CompareWords, CustodianRequest, DefaultLocation, EnsureRequest, FindQuery,
    GetRequest, IndexRequest, InviteRequest, LogQuery, NamedRequest, OpenInvite, PutRequest, RecoveryWords,
    RevokeDevice, ScanMode, SetDeviceRole, SetLocation, UrlRequest, WhereQuery,
};
