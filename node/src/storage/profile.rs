//! Profiles: provider settings × encrypted × chunked.

use larder_protocol::record::Profile;

/// What the pipeline needs to know of a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProfileSpec {
    /// Content is sealed with the group's keys.
    pub encrypted: bool,
    /// Content is split into chunks.
    pub chunked: bool,
}

impl ProfileSpec {
    /// The user's own files in place: neither sealed nor split.
    pub const RAW: Self = Self { encrypted: false, chunked: false };
    /// Encrypted chunks.
    pub const SEALED: Self = Self { encrypted: true, chunked: true };

    /// Whether the location holds the user's files under their own names.
    pub fn is_in_place(self) -> bool {
        self == Self::RAW
    }
}

impl From<&Profile> for ProfileSpec {
    fn from(profile: &Profile) -> Self {
        Self { encrypted: profile.encrypted, chunked: profile.chunked }
    }
}

/// A profile that every group has.
pub fn built_in(name: &str) -> Option<ProfileSpec> {
    match name {
        "raw" => Some(ProfileSpec::RAW),
        "sealed" => Some(ProfileSpec::SEALED),
        _ => None,
    }
}
