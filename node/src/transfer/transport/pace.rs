//! Whether a peer keeps up: a watchdog that a drip of single bytes does not satisfy.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    time::{Duration, Instant},
};

/// What a peer must move to count as alive: one group, the least that can be verified.
const PACE_BYTES_MIN: u64 = 16 * 1024;
/// How long a thread waits for a socket before it looks whether it is still wanted.
pub(super) const TICK: Duration = Duration::from_millis(250);

/// How long a peer was waited for, and what it moved meanwhile.
///
/// Only waiting counts: the time that this side spends on hashing or on its disk is not the peer's fault.
#[derive(Debug)]
pub(super) struct Pace {
    time: Duration,
    bytes_min: u64,
    waited: Duration,
    moved: u64,
}

impl Pace {
    /// In each `time` of waiting a group must move.
    pub(super) const fn steady(time: Duration) -> Self {
        Self { time, bytes_min: PACE_BYTES_MIN, waited: Duration::ZERO, moved: 0 }
    }

    /// All waiting together may take `time`, whatever moves.
    pub(super) const fn deadline(time: Duration) -> Self {
        Self { time, bytes_min: u64::MAX, waited: Duration::ZERO, moved: 0 }
    }

    /// How much longer the peer may take; `TimedOut` when it took too long.
    pub(super) fn left(&self) -> io::Result<Duration> {
        self.time.checked_sub(self.waited).filter(|left| !left.is_zero()).ok_or_else(|| io::ErrorKind::TimedOut.into())
    }

    /// Notes a wait and what moved in it.
    pub(super) fn note(&mut self, waited: Duration, bytes: usize) {
        self.waited = self.waited.saturating_add(waited);
        self.moved = self.moved.saturating_add(bytes as u64);
        if self.moved >= self.bytes_min {
            (self.waited, self.moved) = (Duration::ZERO, 0);
        }
    }
}

/// A blocking socket whose peer must keep up, and that is given up when nobody wants it any more.
pub(super) struct Watched {
    socket: TcpStream,
    pace: Pace,
    wanted: Box<dyn Fn() -> bool + Send>,
}

impl Watched {
    /// `wanted` is asked about every 250 ms of waiting.
    pub(super) fn new(socket: TcpStream, pace: Pace, wanted: Box<dyn Fn() -> bool + Send>) -> io::Result<Self> {
        socket.set_nonblocking(false)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(TICK))?;
        socket.set_write_timeout(Some(TICK))?;
        Ok(Self { socket, pace, wanted })
    }

    /// Begins another phase of the conversation.
    pub(super) fn pace(&mut self, pace: Pace) {
        self.pace = pace;
    }

    /// Begins to work for somebody else.
    pub(super) fn want(&mut self, wanted: Box<dyn Fn() -> bool + Send>) {
        self.wanted = wanted;
    }

    fn wait(&mut self, mut io: impl FnMut(&mut TcpStream) -> io::Result<usize>) -> io::Result<usize> {
        loop {
            self.pace.left()?;
            let began = Instant::now();
            let done = io(&mut self.socket);
            self.pace.note(began.elapsed(), *done.as_ref().unwrap_or(&0));
            match done {
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    if !(self.wanted)() {
                        let _ = self.socket.shutdown(Shutdown::Both);
                        return Err(io::ErrorKind::ConnectionAborted.into());
                    }
                }
                done => return done,
            }
        }
    }
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.wait(|socket| socket.read(buffer))
    }
}

impl Write for Watched {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wait(|socket| socket.write(bytes))
    }

    fn write_vectored(&mut self, bytes: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.wait(|socket| socket.write_vectored(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_drip_runs_out_of_time_and_a_slow_stream_does_not() {
        let mut drip = Pace::steady(20 * SECOND);
        for _ in 0..20 {
            assert!(drip.left().is_ok());
            drip.note(SECOND, 1);
        }
        assert_eq!(drip.left().unwrap_err().kind(), io::ErrorKind::TimedOut);
        let mut slow = Pace::steady(20 * SECOND);
        for _ in 0..100 {
            slow.note(SECOND, 1000);
            assert!(slow.left().is_ok());
        }
    }

    #[test]
    fn a_deadline_does_not_move() {
        let mut deadline = Pace::deadline(2 * SECOND);
        deadline.note(SECOND, 1 << 30);
        assert_eq!(deadline.left().unwrap(), SECOND);
        deadline.note(SECOND, 1 << 30);
        assert!(deadline.left().is_err());
    }
}
