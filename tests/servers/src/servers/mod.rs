//! Real servers as processes on loopback, each with a port, a folder and credentials of its own.
//!
//! `start()` waits until the server answers and panics when it is not installed or does not start: a test that needs it fails
//! with that message. Dropping the value ends the process; one in a static (`LazyLock<SeaweedS3>`) ends with the test binary.

mod gcs;
mod seaweed;
mod sftp;
mod sigv4;
mod webdav;

pub use gcs::FakeGcs;
pub use seaweed::SeaweedS3;
pub use sftp::Sftp;
pub use webdav::WebDav;

use data_encoding::HEXLOWER;

/// Random text, so that a client can reach the server that it was meant for and no other.
pub(crate) fn random_text() -> String {
    let mut bytes = [0; 12];
    getrandom::fill(&mut bytes).expect("the system gives random bytes");
    HEXLOWER.encode(&bytes)
}
