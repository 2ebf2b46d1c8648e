//! The command line: what can be typed.

use clap::{Args, Parser, Subcommand, ValueEnum};
use larder_protocol::membership::Role;
use std::{path::PathBuf, time::Duration};

/// Knows where every file of a household or team is, and brings it where it is wanted.
#[derive(Debug, Parser)]
#[command(name = "larder", version, disable_help_subcommand = true, max_term_width = 100)]
pub(crate) struct Cli {
    /// Keep config, keys, catalog, socket and logs under DIR instead of the XDG folders.
    #[arg(long, global = true, value_name = "DIR", env = "LARDER_HOME")]
    pub(crate) home: Option<PathBuf>,
    /// Print stable JSON objects, one per line.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print results and errors only.
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Say more; twice for everything.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// How progress is shown on stderr.
    #[arg(long, global = true, value_enum, default_value_t = ProgressStyle::Auto, value_name = "STYLE")]
    pub(crate) progress: ProgressStyle,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressStyle {
    /// One line that is rewritten, on a terminal only.
    Auto,
    /// A line now and then.
    Plain,
    /// A JSON object a line.
    Json,
    /// Nothing.
    None,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make this machine the first device of a new group.
    Init(InitArgs),
    /// Start the node in the background, and return when it answers.
    Up(UpArgs),
    /// Stop the node.
    Down,
    /// Show devices, locations and what is going on.
    Status,
    /// Print a one-time code with which another machine joins.
    Invite(InviteArgs),
    /// Join a group with an invite code, and start the node.
    Join(JoinArgs),
    /// The group's devices.
    #[command(subcommand)]
    Device(DeviceCommand),
    /// Places that store files.
    #[command(subcommand)]
    Location(LocationCommand),
    /// The kinds of storage that this node can use.
    #[command(subcommand)]
    Provider(ProviderCommand),
    /// Named storage settings, shared in the group.
    #[command(subcommand)]
    Profile(ProfileCommand),
    /// What this device logs in to storage with; told nobody.
    #[command(subcommand)]
    Credential(CredentialCommand),
    /// Log in to Google Drive or OneDrive.
    Connect(ConnectArgs),
    /// Read a location and note what is in it.
    Index(IndexArgs),
    /// Find files by words and parts of words of their names.
    Find(FindArgs),
    /// Show every known copy of a file.
    Where(ReferenceArgs),
    /// Bring files here.
    Get(GetArgs),
    /// Make sure that files are stored at a location.
    Ensure(EnsureArgs),
    /// Store files, folders or stdin at a location.
    Put(PutArgs),
    /// Write a file's bytes to stdout.
    Cat(CatArgs),
    /// Print an address under which a file can be read for a while.
    Url(UrlArgs),
    /// Show what this device did.
    Log(LogArgs),
    /// The catalog as a whole.
    #[command(subcommand)]
    Catalog(CatalogCommand),
    /// Find out what is wrong with this device, and what to do.
    Doctor(DoctorArgs),
    /// Run three nodes on this machine and show what Larder does.
    Demo(DemoArgs),
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Name of this device [default: the host's name].
    #[arg(long, value_name = "DEVICE")]
    pub(crate) name: Option<String>,
    /// Name of the group.
    #[arg(long, default_value = "home")]
    pub(crate) group: String,
    /// Write the recovery words to FILE instead of showing them.
    #[arg(long, value_name = "FILE")]
    pub(crate) recovery_out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// Stay in the foreground and log to stderr.
    #[arg(long)]
    pub(crate) foreground: bool,
    /// Listen here instead of where the settings say; may be repeated.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) listen: Vec<std::net::SocketAddr>,
    /// Unlock this device's credentials with the passphrase in the first line of stdin.
    #[arg(long)]
    pub(crate) passphrase_stdin: bool,
    /// Set by `up` for the process that it leaves behind.
    #[arg(long, hide = true)]
    pub(crate) detached: bool,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct InviteArgs {
    #[command(subcommand)]
    pub(crate) command: Option<InviteCommand>,
    /// How long the code is good for, at most 24h.
    #[arg(long, default_value = "15m", value_parser = parse_ttl)]
    pub(crate) ttl: Duration,
    /// What the new device may do.
    #[arg(long, value_enum, default_value_t = RoleArg::Writer)]
    pub(crate) role: RoleArg,
    /// Print a short code to say aloud, for a machine on this network, and wait until it is used; at most 5 minutes.
    ///
    /// Both screens then show four words, and both people say whether they are the same.
    #[arg(long)]
    pub(crate) words: bool,
    /// Do not ask whether the words are the same.
    #[arg(long, requires = "words")]
    pub(crate) yes: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum InviteCommand {
    /// Show the invites of this device.
    List,
    /// Take an invite back.
    Revoke {
        /// Its id, as `invite list` shows it.
        id: String,
    },
}

/// What a device may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleArg {
    /// Everything, and admit others.
    Admin,
    /// Read and write.
    Writer,
    /// Read only.
    Reader,
    /// Hold sealed chunks, without keys.
    Vault,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Admin => Self::Admin,
            RoleArg::Writer => Self::Writer,
            RoleArg::Reader => Self::Reader,
            RoleArg::Vault => Self::Vault,
        }
    }
}

fn parse_ttl(text: &str) -> Result<Duration, String> {
    let ttl = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if ttl.as_secs() < 1 || ttl > Duration::from_secs(24 * 60 * 60) {
        return Err("must lie between 1s and 24h".to_owned());
    }
    Ok(ttl)
}

#[derive(Debug, Args)]
pub(crate) struct JoinArgs {
    /// The invite code, or a short one such as 37-apple-river-onion; '-' or nothing reads it from stdin.
    #[arg(value_name = "CODE")]
    pub(crate) code: Option<String>,
    /// Name of this device [default: the host's name].
    #[arg(long, value_name = "DEVICE")]
    pub(crate) name: Option<String>,
    /// Where the device that shows a short code is, as it says itself; found by mDNS where that is on; may be repeated.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) at: Vec<std::net::SocketAddr>,
    /// Do not ask whether the four words that follow a short code are the same.
    #[arg(long)]
    pub(crate) yes: bool,
    /// Listen here instead of where the settings say; may be repeated.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) listen: Vec<std::net::SocketAddr>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeviceCommand {
    /// List the group's devices.
    List,
    /// Show one device.
    Show {
        /// Its name or id.
        device: String,
    },
    /// Remove a device for good, and say what it could still read.
    ///
    /// Devices that are connected hear of it now, others when they meet one that has. An admin removes who is junior to
    /// it; against a senior one it is a vote, which takes effect when more than half of the admins have cast it.
    Revoke {
        /// Its name or id.
        device: String,
        /// Decide by the recovery words, read from FILE or, with '-', from stdin; this device becomes the senior admin.
        #[arg(long, value_name = "FILE")]
        recovery: Option<PathBuf>,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Change what a device may do.
    SetRole {
        /// Its name or id.
        device: String,
        /// What it may do from now on.
        #[arg(value_enum)]
        role: RoleArg,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum LocationCommand {
    /// Add a folder of this machine, or a bucket or cloud drive.
    Add(LocationAddArgs),
    /// List every location of the group.
    List,
    /// Show one location.
    Show {
        /// Its name or id.
        location: String,
    },
    /// Try a location from this device.
    ///
    /// A device whose credential works becomes a gateway: it serves the location to devices without one.
    Test {
        /// Its name or id.
        location: String,
    },
    /// Say which devices and roles may read, store and delete there.
    ///
    /// WHO is a role (admin, writer, reader), a device, `everyone` or `nobody`; several are separated by commas.
    Allow(LocationAllowArgs),
    /// Show or set where new files go when no location is named.
    ///
    /// It is a setting of this device. A cloud location is tried before it becomes the default.
    Default {
        /// Name or id of the location to set.
        #[arg(conflicts_with = "unset")]
        location: Option<String>,
        /// Forget what was set.
        #[arg(long)]
        unset: bool,
    },
    /// Change the name, purposes or settings of a location.
    Set(LocationSetArgs),
    /// Show or hand over who alone deletes in a cloud location.
    Custodian {
        /// Name or id of the location.
        location: String,
        /// Name or id of the device that shall do it from now on.
        device: Option<String>,
    },
    /// Forget a location; its files stay as they are.
    Remove {
        /// Its name or id.
        location: String,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct LocationAddArgs {
    /// How to call it.
    pub(crate) name: String,
    /// The folder, or an address: s3://bucket/prefix, peer://DEVICE, …
    #[arg(value_name = "URI")]
    pub(crate) path: PathBuf,
    /// How files are kept there: `raw` in place, `sealed` as encrypted chunks, or a profile of your own.
    #[arg(long)]
    pub(crate) profile: Option<String>,
    /// What it is for; may be repeated.
    #[arg(long = "purpose", value_enum)]
    pub(crate) purposes: Vec<PurposeArg>,
    /// Never write there.
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Store unencrypted files with a cloud service.
    #[arg(long)]
    pub(crate) trust_store: bool,
    /// A setting of its cloud, before the profile's; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_setting)]
    pub(crate) set: Vec<(String, String)>,
    /// Index it at once.
    #[arg(long)]
    pub(crate) scan: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LocationAllowArgs {
    /// Its name or id.
    pub(crate) location: String,
    /// Who gets the bytes of what is there.
    #[arg(long, value_name = "WHO,...", value_delimiter = ',')]
    pub(crate) read: Option<Vec<String>>,
    /// Who stores there, or asks for it.
    #[arg(long, value_name = "WHO,...", value_delimiter = ',')]
    pub(crate) write: Option<Vec<String>>,
    /// Who deletes there, or asks for it.
    #[arg(long, value_name = "WHO,...", value_delimiter = ',')]
    pub(crate) delete: Option<Vec<String>>,
    /// Let everybody do again what the role allows.
    #[arg(long, conflicts_with_all = ["read", "write", "delete"], required_unless_present_any = ["read", "write", "delete"])]
    pub(crate) everyone: bool,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("change").required(true).multiple(true))]
pub(crate) struct LocationSetArgs {
    /// Its name or id.
    pub(crate) location: String,
    /// How to call it from now on.
    #[arg(long, value_name = "NAME", group = "change")]
    pub(crate) name: Option<String>,
    /// What it is for, in place of what was said; may be repeated.
    #[arg(long = "purpose", value_enum, group = "change")]
    pub(crate) purposes: Vec<PurposeArg>,
    /// It is for nothing in particular.
    #[arg(long, conflicts_with = "purposes", group = "change")]
    pub(crate) no_purpose: bool,
    /// A setting of its cloud, before the profile's; without a value the profile's again.
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_setting, group = "change")]
    pub(crate) set: Vec<(String, String)>,
}

/// What a location is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PurposeArg {
    /// New files arrive here.
    Inbox,
    /// Files have their place here.
    Organized,
    /// Rarely read, kept for long.
    Archive,
    /// A further copy.
    Backup,
    /// Room when other places are full.
    Overflow,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProviderCommand {
    /// List providers with their settings.
    List {
        /// Only this one.
        provider: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProfileCommand {
    /// Add a profile.
    Add(ProfileAddArgs),
    /// List every profile of the group.
    List,
    /// Show one profile.
    Show {
        /// Its name.
        profile: String,
    },
    /// Remove a profile that no location uses.
    Remove {
        /// Its name.
        profile: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ProfileAddArgs {
    /// How to call it.
    pub(crate) name: String,
    /// Which kind of storage, as `provider list` shows it.
    #[arg(long)]
    pub(crate) provider: String,
    /// A setting; may be repeated. Secrets go to `credential set`.
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_setting)]
    pub(crate) set: Vec<(String, String)>,
    /// Encrypt what is stored; the default for all but folders.
    #[arg(long, conflicts_with = "no_encrypted")]
    pub(crate) encrypted: bool,
    /// Store as it is.
    #[arg(long)]
    pub(crate) no_encrypted: bool,
    /// Store in chunks; the default for all but folders.
    #[arg(long, conflicts_with = "no_chunked")]
    pub(crate) chunked: bool,
    /// Store each file as one object.
    #[arg(long)]
    pub(crate) no_chunked: bool,
}

fn parse_setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

#[derive(Debug, Subcommand)]
pub(crate) enum CredentialCommand {
    /// Keep this device's credential for a profile, from stdin.
    ///
    /// Gives name=value lines on stdin; `provider list` shows the names. The storage is tried with it before it is kept,
    /// and with every location of the profile that there is.
    Set {
        /// Name of the profile.
        profile: String,
        /// Keep it without trying it.
        #[arg(long)]
        no_test: bool,
    },
    /// List what is set on this device; values are never shown.
    List,
    /// Remove this device's credential for a profile.
    Remove {
        /// Name of the profile.
        profile: String,
    },
    /// Unlock the credentials, with the passphrase from stdin.
    Unlock,
    /// Change what they are sealed with.
    Protect {
        /// What gives the key.
        #[arg(long, value_enum)]
        by: ProtectionArg,
    },
}

/// What gives the key of the credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProtectionArg {
    /// A file that only this user can read.
    File,
    /// A passphrase, given on stdin.
    Passphrase,
    /// The keyring of the desktop.
    Keyring,
}

#[derive(Debug, Args)]
pub(crate) struct ConnectArgs {
    /// Where to log in.
    #[arg(value_enum)]
    pub(crate) service: ServiceArg,
    /// Show a code to enter on any device, instead of waiting for a browser on this one.
    #[arg(long)]
    pub(crate) device_code: bool,
    /// Profile that the login is for; made when it is not there [default: the only one].
    #[arg(long, value_name = "NAME")]
    pub(crate) profile: Option<String>,
}

/// Where people log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ServiceArg {
    /// Google Drive.
    Google,
    /// OneDrive.
    Microsoft,
}

#[derive(Debug, Args)]
pub(crate) struct IndexArgs {
    /// Name of the location [default: all of this device].
    pub(crate) location: Option<String>,
    /// Look only whether files are there, with their size and time.
    #[arg(long, conflicts_with_all = ["smart", "full"])]
    pub(crate) quick: bool,
    /// Hash what is new or changed by size, time or inode; this is the default.
    #[arg(long, conflicts_with = "full")]
    pub(crate) smart: bool,
    /// Hash everything.
    #[arg(long)]
    pub(crate) full: bool,
    /// Believe that more than a tenth of the files is gone.
    #[arg(long)]
    pub(crate) accept_loss: bool,
}

#[derive(Debug, Args)]
pub(crate) struct FindArgs {
    /// Words and parts of words; all must occur in the path.
    #[arg(required = true)]
    pub(crate) query: Vec<String>,
    /// Only in this location.
    #[arg(long)]
    pub(crate) location: Option<String>,
    /// Only this media type, such as `image` or `image/jpeg`.
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) media_type: Option<String>,
    /// Only with a copy that can be reached now.
    #[arg(long)]
    pub(crate) reachable: bool,
    /// Show at most so many.
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct ReferenceArgs {
    /// A content id or a prefix of it, LOCATION:path, or a path on this machine.
    #[arg(value_name = "REF")]
    pub(crate) reference: String,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// Content ids, LOCATION:path, LOCATION:folder/ or LOCATION: for everything.
    #[arg(value_name = "REF", required = true)]
    pub(crate) references: Vec<String>,
    /// File to write, or the folder for several [default: the current folder].
    #[arg(short, long, value_name = "PATH")]
    pub(crate) output: Option<PathBuf>,
    /// Replace a different file.
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct EnsureArgs {
    /// Content ids, LOCATION:path, LOCATION:folder/ or LOCATION: for everything.
    #[arg(value_name = "REF", required = true)]
    pub(crate) references: Vec<String>,
    /// The location.
    #[arg(long, value_name = "LOCATION")]
    pub(crate) at: String,
    /// Path there, for a single file [default: the path that it came from].
    #[arg(long = "as", value_name = "PATH")]
    pub(crate) path: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    /// Files and folders of this machine, or '-' for stdin.
    #[arg(value_name = "FILE", required = true)]
    pub(crate) sources: Vec<PathBuf>,
    /// A location [default: the inbox of this device, or its only location].
    #[arg(long, value_name = "LOCATION")]
    pub(crate) to: Option<String>,
    /// Path there; a folder when it ends in / or several things are put [default: the name that each has].
    #[arg(long = "as", value_name = "PATH")]
    pub(crate) path: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CatArgs {
    /// A content id, LOCATION:path, or a path on this machine.
    #[arg(value_name = "REF")]
    pub(crate) reference: String,
    /// Only these bytes, counted from 0; both ends are included.
    #[arg(long, value_name = "A-B", value_parser = parse_range)]
    pub(crate) range: Option<(u64, Option<u64>)>,
}

fn parse_range(text: &str) -> Result<(u64, Option<u64>), String> {
    let wrong = || "expected A-B or A-".to_owned();
    let (first, last) = text.split_once('-').ok_or_else(wrong)?;
    let first: u64 = first.parse().map_err(|_| wrong())?;
    let last = if last.is_empty() { None } else { Some(last.parse().map_err(|_| wrong())?) };
    match last {
        Some(last) if last < first => Err("ends before it begins".to_owned()),
        last => Ok((first, last)),
    }
}

#[derive(Debug, Args)]
pub(crate) struct UrlArgs {
    /// A content id, LOCATION:path, or a path on this machine.
    #[arg(value_name = "REF")]
    pub(crate) reference: String,
    /// How long it is good for, at most 7d.
    #[arg(long, default_value = "1h", value_parser = parse_url_ttl)]
    pub(crate) ttl: Duration,
    /// Never an address of the storage: one that this device serves.
    #[arg(long)]
    pub(crate) local: bool,
}

fn parse_url_ttl(text: &str) -> Result<Duration, String> {
    let ttl = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let fits = (1..=7 * 24 * 60 * 60).contains(&ttl.as_secs()) && ttl.subsec_nanos() == 0;
    if fits { Ok(ttl) } else { Err("must be whole seconds between 1s and 7d".to_owned()) }
}

#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// Only what concerns this reference.
    #[arg(value_name = "REF")]
    pub(crate) reference: Option<String>,
    /// Check that no line was changed or taken out; prints the number of lines and the hash of the last one.
    #[arg(long, conflicts_with = "reference")]
    pub(crate) verify: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CatalogCommand {
    /// Print the digest that is equal on every device that has caught up.
    Digest,
    /// Build the database anew from the log, or get all files back from a sealed location.
    Rebuild(RebuildArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RebuildArgs {
    /// Folder or address of a sealed location: its files are written to --to, on any machine.
    #[arg(long, value_name = "FOLDER|ADDRESS", requires_all = ["recovery", "to"])]
    pub(crate) from: Option<PathBuf>,
    /// A setting of the address's storage; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_setting, requires = "from")]
    pub(crate) set: Vec<(String, String)>,
    /// The recovery words, from FILE or, with '-', from stdin.
    ///
    /// Lines with '=' are the credential of the storage, name=value; `provider list` shows the names. The other lines are
    /// the words.
    #[arg(long, value_name = "FILE", requires = "from")]
    pub(crate) recovery: Option<PathBuf>,
    /// Profile under which this home keeps the storage's credential; else the provider's name.
    ///
    /// A login that the service replaces is kept there. With no credential beside the words the one that is kept is used. The
    /// home's node must be stopped.
    #[arg(long, value_name = "NAME", requires = "from")]
    pub(crate) profile: Option<String>,
    /// Folder to write the files into; made when it is missing, and nothing in it is replaced.
    #[arg(long, value_name = "FOLDER", requires = "from")]
    pub(crate) to: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Read all of a large catalog and a vault too; the node must be stopped.
    #[arg(long)]
    pub(crate) full: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Use the files of this folder; they are copied, not touched.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Leave the nodes running, and print what to try.
    #[arg(long)]
    pub(crate) keep: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn ranges_include_both_ends() {
        assert_eq!(parse_range("100-199"), Ok((100, Some(199))));
        assert_eq!(parse_range("7-"), Ok((7, None)));
        assert!(parse_range("9-3").is_err() && parse_range("-5").is_err() && parse_range("5").is_err());
    }
}
