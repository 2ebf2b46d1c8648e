//! The only place that words errors for people and chooses exit codes.

use larder_protocol::control::{ControlError, ErrorKind};
use serde_json::json;

/// Exit code for "done".
pub(crate) const OK: u8 = 0;
/// Exit code for a command line that makes no sense.
pub(crate) const USAGE: u8 = 2;
/// Exit code after Ctrl-C.
pub(crate) const INTERRUPTED: u8 = 130;

/// How an error ends the command.
pub(crate) fn exit_code(kind: ErrorKind) -> u8 {
    use ErrorKind as K;
    match kind {
        K::BadRequest | K::SecretSetting => USAGE,
        K::Partial | K::Queued | K::LocationOffline | K::LocationSuspicious => 3,
        K::UnknownReference => 4,
        K::InviteMalformed
        | K::InviteWrong
        | K::InviteUsed
        | K::InviteExpired
        | K::InviteRevoked
        | K::InviteBurnt
        | K::WordsDiffer
        | K::NotAllowed
        | K::NeedsLogin
        | K::StoreUntrusted
        | K::OwnDevice
        | K::RecoveryWrong
        | K::LocationReadOnly
        | K::CredentialsLocked
        | K::CredentialRefused => 5,
        K::InUse
        | K::Occupied
        | K::LocationLocked
        | K::NameTaken
        | K::LocationExists
        | K::AlreadyInitialised
        | K::NodeRunning => 6,
        K::NotInitialised => 10,
        K::NodeNotRunning => 11,
        K::WrongPassphrase => 12,
        K::Interrupted => INTERRUPTED,
        K::AmbiguousReference
        | K::InviteUnreachable
        | K::InviteBusy
        | K::NameForbidden
        | K::NoSource
        | K::AuditBroken
        | K::Damaged
        | K::Changed
        | K::CredentialsBroken
        | K::DiskFull
        | K::Io
        | K::NotWritable
        | K::CredentialUntested
        | K::NoKeyring
        | K::Internal => 1,
    }
}

/// What happened, to what.
fn message(error: &ControlError) -> String {
    use ErrorKind as K;
    let subject = &error.subject;
    match error.kind {
        K::NotInitialised => format!("{subject} holds no Larder device yet"),
        K::AlreadyInitialised => format!("{subject} already belongs to a group"),
        K::NodeNotRunning => format!("no node answers at {subject}"),
        K::NodeRunning => format!("a node already runs in {subject}"),
        K::BadRequest => format!("cannot do that with '{subject}'"),
        K::UnknownReference => format!("nothing is known as '{subject}'"),
        K::AmbiguousReference => format!("'{subject}' fits several things"),
        K::InviteMalformed => "this is not a whole invite code".to_owned(),
        K::InviteWrong => "the invite code is wrong".to_owned(),
        K::InviteUsed => "the invite code was already used by another device".to_owned(),
        K::InviteExpired => "the invite code has expired".to_owned(),
        K::InviteRevoked => "the invite code was taken back".to_owned(),
        K::InviteBurnt => "the invite code was tried wrongly too often and is burnt".to_owned(),
        K::WordsDiffer => "the words on the two screens were not said to be the same; nobody was let in".to_owned(),
        K::InviteUnreachable => "the inviting device does not answer".to_owned(),
        K::InviteBusy => {
            "the inviting device takes no tries right now: there were too many in the last minute".to_owned()
        }
        K::NotAllowed => format!("this device may not do that: {subject}"),
        K::OwnDevice => format!("'{subject}' is this device, which cannot do that to itself"),
        K::RecoveryWrong => "these are not the recovery words of this group".to_owned(),
        K::WrongPassphrase => "wrong passphrase; the credentials stay locked".to_owned(),
        K::CredentialsBroken => "the credentials of this device cannot be used".to_owned(),
        K::CredentialsLocked => "the credentials of this device are locked".to_owned(),
        K::CredentialRefused => format!("the storage of '{subject}' does not take this credential; nothing was kept"),
        K::CredentialUntested => format!("the storage of '{subject}' could not be tried; nothing was kept"),
        K::SecretSetting => format!("'{subject}' is secret and is not kept in a profile, which all of the group reads"),
        K::NoKeyring => "the keyring cannot keep the key; all stays as it was".to_owned(),
        K::InUse => format!("'{subject}' is still in use"),
        K::NameTaken => format!("the name '{subject}' is taken"),
        K::LocationExists => format!("{subject} already belongs to a location"),
        K::LocationOffline if is_address(subject) => format!("'{subject}' cannot be reached now"),
        K::LocationOffline => format!("'{subject}' is not proven to be there; nothing was marked missing"),
        K::LocationSuspicious => format!("too much vanished from '{subject}' at once; nothing was marked missing"),
        K::NeedsLogin => format!("the credential of '{subject}' is missing or not accepted"),
        K::StoreUntrusted => format!("the profile '{subject}' would store files unencrypted with a cloud service"),
        K::LocationLocked => format!("another process is working on '{subject}'"),
        K::LocationReadOnly => format!("'{subject}' is read-only for Larder"),
        K::Occupied => format!("a different file stands at {subject}; it was left alone"),
        K::NameForbidden => format!("{subject} cannot be written under that name here"),
        K::NoSource => format!("no copy of {subject} can be reached now"),
        K::AuditBroken => format!("{subject} was changed"),
        K::Damaged => format!("{subject} does not match its hash; nothing of it was kept"),
        K::Changed => format!("{subject} changed since it was indexed"),
        K::DiskFull => format!("the disk is full: {subject}"),
        K::Io => format!("cannot read or write {subject}"),
        K::NotWritable => format!("{subject} cannot be written now"),
        K::Queued => format!("{subject} waits for its device to return"),
        K::Partial => format!("only part was done: {subject}"),
        K::Interrupted => "interrupted; what was done is kept".to_owned(),
        K::Internal => format!("something failed inside: {subject}"),
    }
}

/// What to do next.
fn hint(error: &ControlError) -> &'static str {
    use ErrorKind as K;
    match error.kind {
        K::NotInitialised => "run 'larder init' for a new group, or 'larder join CODE' with a code from another device",
        K::AlreadyInitialised => "use another --home for another group",
        K::NodeNotRunning => "start it with 'larder up'",
        K::NodeRunning => "stop it first with 'larder down'",
        K::BadRequest => "see 'larder COMMAND --help'",
        K::UnknownReference => "search with 'larder find', or list with 'larder location list'",
        K::AmbiguousReference => "give more letters, or use LOCATION:path",
        K::InviteMalformed => "copy the code whole, from 'larder1' to its end",
        K::InviteWrong | K::InviteUsed | K::InviteExpired | K::InviteRevoked | K::InviteBurnt => {
            "get a new one with 'larder invite' on a device of the group"
        }
        K::WordsDiffer => {
            "somebody may sit in between: try again with a new code, or use 'larder invite' without --words"
        }
        K::InviteUnreachable => {
            "check that its node runs, that this machine can reach it, and that 'larder invite list' there still shows it open"
        }
        K::InviteBusy => "wait a minute and join with the same code",
        K::NotAllowed => "ask an admin of the group",
        K::OwnDevice => "run it on another device of the group",
        K::RecoveryWrong => "give the 24 words that 'larder init' showed, in their order",
        K::WrongPassphrase => "try again with 'larder credential unlock'",
        K::CredentialsBroken => "'larder doctor' says what to do",
        K::CredentialsLocked => "run 'larder credential unlock'",
        K::CredentialRefused => "check its values and what they permit, or log in again with 'larder connect'",
        K::CredentialUntested => "check the address and the network, or keep it untested with --no-test",
        K::SecretSetting => {
            "leave it out and give it to 'larder credential set' on stdin; what was typed may be in the shell's history"
        }
        K::NoKeyring => "log in to a desktop whose keyring is unlocked, or use a passphrase",
        K::InUse => "see 'larder location list'",
        K::NameTaken => "choose another name",
        K::LocationExists => "see 'larder location list'",
        K::LocationOffline if is_address(&error.subject) => "check the address and the network, then try again",
        K::LocationOffline => "plug it in, mount it or check the network, then try again",
        K::LocationSuspicious => "if the files are really gone, run 'larder index --accept-loss'",
        K::NeedsLogin => "run 'larder credential set PROFILE' or 'larder connect', then 'larder location test'",
        K::StoreUntrusted => "use an encrypted profile, or say that you trust the service with --trust-store",
        K::LocationLocked => "wait until it is done, then try again",
        K::LocationReadOnly => "choose another location",
        K::Occupied => "choose another path, or replace it with --force where the command has it",
        K::NameForbidden => "choose another name with -o or --as",
        K::NoSource => "'larder where' says what would make a copy reachable",
        K::AuditBroken => "compare it with a copy, or with a head that you noted earlier",
        K::Damaged => "other copies are tried first; 'larder where' shows them",
        K::Changed => "run 'larder index' where it is",
        K::DiskFull => "make room, then run the same command again: it goes on where it stopped",
        K::Io => "check that it is there and that you may read or write it",
        K::NotWritable => "mend the disk, then run the same command again: the node need not be restarted",
        K::Queued => "nothing more to do: it happens when the device is back",
        K::Partial => "the lines above say what was not; run the same command again after mending it",
        K::Interrupted => "run the same command again to go on",
        K::Internal => "the node's log file says more",
    }
}

/// Prints an error to stderr, as JSON where that was asked for.
pub(crate) fn print(error: &ControlError, as_json: bool) {
    print_with(error, hint(error), as_json);
}

/// The same with another hint, where the usual one does not fit what is being done.
pub(crate) fn print_with(error: &ControlError, hint: &str, as_json: bool) {
    if as_json {
        let body = json!({
            "error": {
                "kind": error.kind,
                "subject": error.subject,
                "message": full_message(error),
                "hint": hint,
                "retry": error.retry,
            }
        });
        eprintln!("{body}");
    } else {
        eprintln!("larder: {}", crate::render::escape(&full_message(error)));
        eprintln!("  {hint}");
    }
}

fn is_address(subject: &str) -> bool {
    subject.contains("://")
}

fn full_message(error: &ControlError) -> String {
    let message = message(error);
    if error.detail.is_empty() { message } else { format!("{message} ({})", error.detail) }
}
