//! Locations as folders: their signature, what is in them, and writing into them safely.
//!
//! Plain blocking functions that know neither the catalog nor the network: what was known before comes in, changes go out.

mod place;
mod scan;
mod signature;
mod walk;

pub use place::{PARTIAL_SUFFIX, PlaceError, Placed, Placing, clean_partials, partial_path, place_all};
pub use scan::{Change, Found, Known, ScanError, ScanOptions, ScanProgress, Summary, Why, scan};
pub use signature::{Signature, SignatureError};

/// The folder in a location's root that is Larder's own.
pub const OWN_FOLDER: &str = ".larder";

/// Media type by the extension of a name.
pub fn media_type(name: &str) -> String {
    mime_guess::from_path(name).first_or_octet_stream().essence_str().to_owned()
}
