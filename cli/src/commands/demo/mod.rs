//! `larder demo`: three real nodes on loopback, narrated and checked.
//!
//! Each node is a process of its own with a home of its own, driven through the command line as a user does. Whatever the
//! story claims is checked, and the first claim that does not hold ends the demo with an error.

mod files;
mod stage;
mod story;

use super::Outcome;
use crate::{args::DemoArgs, error};
use larder_protocol::control::{ControlError, ErrorKind};
use stage::Stage;

/// A claim that did not hold, or a step that failed.
type Failure = Box<dyn std::error::Error>;

pub(crate) fn run(args: &DemoArgs) -> Outcome {
    let told = Stage::new(args.keep).and_then(|mut stage| {
        let told = story::tell(&mut stage, args.data.as_deref());
        match told {
            Ok(()) => stage.finish(),
            Err(failure) => {
                stage.keep_for_inspection();
                Err(failure)
            }
        }
    });
    match told {
        Ok(()) => Ok(error::OK),
        Err(failure) => {
            Err(ControlError::new(ErrorKind::Internal, "a claim of the demo does not hold").detail(failure.to_string()))
        }
    }
}
