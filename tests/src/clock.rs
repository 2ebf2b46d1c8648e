//! A clock that a story moves while a process runs.
//!
//! The process finds the story's `clock_gettime` before the C library's. It asks the kernel, and adds to the time of day what
//! a file says; every other clock stays as it is.

use crate::process::Invocation;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *at) {
    int result = syscall(SYS_clock_gettime, clock, at), before = errno;
    const char *path = clock == CLOCK_REALTIME ? getenv("LARDER_STORY_CLOCK") : NULL;
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file >= 0) {
        char text[32] = {0};
        if (read(file, text, sizeof text - 1) > 0) at->tv_sec += atol(text);
        close(file);
    }
    errno = before;
    return result;
}
"#;

/// The clock of the processes that are started with it.
#[derive(Debug)]
pub struct Clock {
    library: PathBuf,
    offset: PathBuf,
}

impl Clock {
    /// A clock that is right, kept in a folder.
    ///
    /// # Panics
    /// When there is no C compiler, which the tests need anyway.
    pub fn new(folder: &Path) -> Self {
        let (source, library, offset) = (folder.join("clock.c"), folder.join("clock.so"), folder.join("offset"));
        fs::write(&source, SOURCE).unwrap();
        let compiled = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).args([&library, &source]).status();
        assert!(compiled.expect("a C compiler is there").success());
        let clock = Self { library, offset };
        clock.set(0);
        clock
    }

    /// Makes the clock differ from the right time by so many seconds.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn set(&self, seconds: i64) {
        let next = self.offset.with_extension("next");
        fs::write(&next, seconds.to_string()).unwrap();
        fs::rename(next, &self.offset).unwrap();
    }

    /// A command that goes by this clock, and whatever it starts.
    #[must_use]
    pub fn of(&self, command: Invocation) -> Invocation {
        command.env("LD_PRELOAD", &self.library).env("LARDER_STORY_CLOCK", &self.offset)
    }
}
