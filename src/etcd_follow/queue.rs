//! A bounded queue between threads: what its two ends may do differs from use to use, what it holds is counted the same.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// See the module.
pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    arrived: Condvar,
    room: Condvar,
    count_max: usize,
    bytes_max: usize,
}

struct State<T> {
    items: VecDeque<T>,
    bytes: usize,
    closed: bool,
}

/// What came of waiting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Taken {
    /// There was something.
    Items,
    /// There was nothing in time.
    Nothing,
    /// There will be nothing any more.
    Closed,
}

impl<T> Queue<T> {
    /// Holds so many items, and so many bytes of them; one item of any size fits if it is alone.
    pub(super) fn new(count_max: usize, bytes_max: usize) -> Queue<T> {
        let state = State { items: VecDeque::new(), bytes: 0, closed: false };
        Queue { state: Mutex::new(state), arrived: Condvar::new(), room: Condvar::new(), count_max, bytes_max }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_full(&self, state: &State<T>, more: usize) -> bool {
        let count = state.items.len();
        count > 0 && (count >= self.count_max || state.bytes + more > self.bytes_max)
    }

    fn push(&self, mut state: MutexGuard<'_, State<T>>, item: T, bytes: usize) -> bool {
        if state.closed {
            return false;
        }
        state.bytes += bytes;
        state.items.push_back(item);
        drop(state);
        self.arrived.notify_one();
        true
    }

    /// Puts an item behind the others, when there is room for it. False if the queue is closed.
    pub(super) fn put(&self, item: T, bytes: usize) -> bool {
        let full = |state: &mut State<T>| !state.closed && self.is_full(state, bytes);
        let state = self.room.wait_while(self.state(), full).unwrap_or_else(PoisonError::into_inner);
        self.push(state, item, bytes)
    }

    /// Puts an item behind the others, if there is room for it. False if it is dropped.
    pub(super) fn try_put(&self, item: T, bytes: usize) -> bool {
        let state = self.state();
        !self.is_full(&state, bytes) && self.push(state, item, bytes)
    }

    /// Puts an item behind the others, even if there is no room for it.
    pub(super) fn put_over(&self, item: T, bytes: usize) {
        self.push(self.state(), item, bytes);
    }

    /// Whether there is room for one more, of no size.
    pub(super) fn has_room(&self) -> bool {
        let state = self.state();
        !self.is_full(&state, 0)
    }

    /// Takes all there is into `out`, after waiting for the first item until `until`.
    pub(super) fn take(&self, until: Option<Instant>, out: &mut Vec<T>) -> Taken {
        let mut state = self.state();
        while state.items.is_empty() && !state.closed {
            state = match until {
                None => self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Taken::Nothing;
                    }
                    self.arrived.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        if state.items.is_empty() {
            return Taken::Closed;
        }
        out.extend(state.items.drain(..));
        state.bytes = 0;
        drop(state);
        self.room.notify_all();
        Taken::Items
    }

    /// Nothing goes in any more; what is in it can still be taken.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.arrived.notify_all();
        self.room.notify_all();
    }

    /// Nothing goes in any more, and what is in it is dropped; whether there was something.
    pub(super) fn close_and_drop(&self) -> bool {
        let mut state = self.state();
        state.closed = true;
        let items = std::mem::take(&mut state.items);
        drop(state);
        self.arrived.notify_all();
        self.room.notify_all();
        !items.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    fn take(queue: &Queue<u32>) -> Vec<u32> {
        let mut out = Vec::new();
        queue.take(Some(Instant::now()), &mut out);
        out
    }

    #[test]
    fn bounds_hold() {
        let queue = Queue::new(3, 100);
        assert!(queue.try_put(1, 500), "one alone fits, whatever its size");
        assert!(!queue.try_put(2, 1));
        assert_eq!(take(&queue), [1]);
        assert!([(1, 50), (2, 50)].into_iter().all(|(item, bytes)| queue.try_put(item, bytes)));
        assert!(!queue.try_put(3, 1));
        assert!(queue.try_put(3, 0) && !queue.has_room() && !queue.try_put(4, 0));
        assert_eq!(take(&queue), [1, 2, 3]);
        assert_eq!(queue.take(Some(Instant::now()), &mut Vec::new()), Taken::Nothing);
    }

    #[test]
    fn who_waits_for_room_gets_it() {
        let queue = Arc::new(Queue::new(1, 100));
        assert!(queue.put(1, 0));
        let waits = queue.clone();
        let thread = std::thread::spawn(move || waits.put(2, 0) && waits.put(3, 0));
        let (mut out, until) = (Vec::new(), Instant::now() + Duration::from_secs(60));
        while out.len() < 3 {
            assert_eq!(queue.take(Some(until), &mut out), Taken::Items);
        }
        assert!(thread.join().unwrap());
        assert_eq!(out, [1, 2, 3]);
    }

    #[test]
    fn closing_ends_all_waiting() {
        for drops in [false, true] {
            let queue = Arc::new(Queue::new(1, 100));
            assert!(queue.put(1, 0));
            let waits = queue.clone();
            let thread = std::thread::spawn(move || waits.put(2, 0));
            if drops {
                assert!(queue.close_and_drop());
            } else {
                queue.close();
            }
            assert!(!queue.try_put(3, 0));
            let (mut out, mut ends) = (Vec::new(), 0);
            while queue.take(None, &mut out) != Taken::Closed {
                ends += 1;
            }
            assert!(!thread.join().unwrap(), "what came too late is told so");
            assert_eq!((out.len(), ends), if drops { (0, 0) } else { (1, 1) });
        }
    }
}
