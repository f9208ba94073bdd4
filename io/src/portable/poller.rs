//! Waiting for sockets, by epoll. Each change is told once (edge-triggered), so nothing is asked twice.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Changes taken from the kernel at a time; further ones wait for the next look.
const EVENTS_MAX: usize = 256;
/// The kernel's own waits know whole milliseconds only.
const TICK: Duration = Duration::from_millis(1);
/// The longest wait; longer ones take a form of it that old seccomp profiles do not know.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// What has become of a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Change {
    pub(super) key: u64,
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The remote side sends no more, or the connection has failed: reading will say so, after what is still there.
    pub(super) ended: bool,
}

/// The sockets of a shard, each under a key.
pub(super) struct Poller {
    epoll: OwnedFd,
    events: Vec<Event>,
}

impl Poller {
    pub(super) fn new() -> io::Result<Poller> {
        Ok(Poller { epoll: epoll::create(CreateFlags::CLOEXEC)?, events: Vec::with_capacity(EVENTS_MAX) })
    }

    /// Watches a socket; what it is like now is told first.
    pub(super) fn add_socket(&self, socket: impl AsFd, key: u64) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(&self.epoll, socket, EventData::new_u64(key), flags)?)
    }

    /// Watches an eventfd, which needs no reading: each time somebody adds to it is a change.
    pub(super) fn add_event(&self, event: impl AsFd, key: u64) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, event, EventData::new_u64(key), EventFlags::IN | EventFlags::ET)?)
    }

    pub(super) fn remove(&self, socket: impl AsFd) {
        // Failing means that it is not watched, which is what we want.
        let _ = epoll::delete(&self.epoll, socket);
    }

    /// Waits for a change, at most for `timeout` (`None`: for ever); may return early without one.
    pub(super) fn wait(&mut self, timeout: Option<Duration>, mut each: impl FnMut(Change)) -> io::Result<()> {
        let timeout = match timeout {
            None => None,
            Some(span) if span.is_zero() => Some(Timespec::default()),
            Some(span) if span < TICK => {
                self.wait_finely(span)?;
                Some(Timespec::default())
            }
            // The caller comes back for the rest.
            Some(span) => {
                let span = span.min(WAIT_MAX);
                Some(timespec(span - Duration::from_nanos(u64::from(span.subsec_nanos() % 1_000_000))))
            }
        };
        self.events.clear();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &self.events {
            let (flags, data) = (event.flags, event.data);
            let ended = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
            each(Change {
                key: data.u64(),
                readable: ended || flags.contains(EventFlags::IN),
                writable: ended || flags.contains(EventFlags::OUT),
                ended,
            });
        }
        Ok(())
    }

    /// Waits for less than a tick.
    fn wait_finely(&self, span: Duration) -> io::Result<()> {
        match poll(&mut [PollFd::new(&self.epoll, PollFlags::IN)], Some(&timespec(span))) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn timespec(span: Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(span.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(span.subsec_nanos()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::time::Instant;

    use super::*;
    use crate::host::sys;

    fn look(poller: &mut Poller, timeout: Duration) -> Vec<Change> {
        let mut changes = Vec::new();
        poller.wait(Some(timeout), |change| changes.push(change)).expect("a look");
        changes
    }

    #[test]
    fn a_change_is_told_once() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut far = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
        let (near, _) = listener.accept().expect("accepted");
        let event = sys::eventfd().expect("an event");
        let mut poller = Poller::new().expect("a poller");
        poller.add_socket(&near, 7).expect("watched");
        poller.add_event(&event, 8).expect("watched");
        let second = Duration::from_secs(1);
        let quiet = Change { key: 7, readable: false, writable: true, ended: false };
        assert_eq!(look(&mut poller, second), [quiet]);
        assert_eq!(look(&mut poller, Duration::ZERO), []);
        far.write_all(b"x").expect("written");
        assert_eq!(look(&mut poller, second), [Change { readable: true, ..quiet }]);
        assert_eq!(look(&mut poller, Duration::from_micros(100)), []);
        for _ in 0..2 {
            sys::eventfd_add(&event);
            assert_eq!(look(&mut poller, second), [Change { key: 8, readable: true, writable: false, ended: false }]);
        }
        drop(far);
        assert_eq!(look(&mut poller, second), [Change { readable: true, ended: true, ..quiet }]);
        poller.remove(&near);
        assert_eq!(look(&mut poller, Duration::ZERO), []);
    }

    #[test]
    fn short_waits_are_short() {
        let mut poller = Poller::new().expect("a poller");
        let shortest = (0..100).map(|_| {
            let start = Instant::now();
            look(&mut poller, Duration::from_micros(50));
            start.elapsed()
        });
        // Each may be held up by other work, but hardly all.
        let shortest = shortest.min().expect("a hundred");
        assert!((Duration::from_micros(50)..TICK).contains(&shortest), "{shortest:?}");
    }
}
