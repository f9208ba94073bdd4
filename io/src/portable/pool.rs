//! Receive buffers: as many as configured, lent to the caller until it drops them.

use std::cell::RefCell;
use std::mem;
use std::ops::Deref;
use std::rc::Rc;

use crate::RecvBuf;
use crate::buf::Memory;

type Free = Rc<RefCell<Vec<Box<[u8]>>>>;

/// The buffers of one shard that nobody uses now.
pub(super) struct Pool(Free);

impl Pool {
    /// `count` buffers of `size` bytes.
    pub(super) fn new(count: u16, size: usize) -> Pool {
        assert!(count > 0 && size > 0, "{count} receive buffers of {size} bytes");
        let free = (0..count).map(|_| vec![0; size].into_boxed_slice()).collect();
        Pool(Rc::new(RefCell::new(free)))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// A buffer to receive into.
    pub(super) fn take(&self) -> Option<Box<[u8]>> {
        self.0.borrow_mut().pop()
    }

    /// Gives a buffer back that was not used.
    pub(super) fn give_back(&self, memory: Box<[u8]>) {
        self.0.borrow_mut().push(memory);
    }

    /// The first `len` bytes of a buffer, for the caller.
    pub(super) fn lend(&self, memory: Box<[u8]>, len: usize) -> RecvBuf {
        assert!(len <= memory.len(), "{len} bytes in a buffer of {}", memory.len());
        RecvBuf(Memory::Pooled(Pooled { memory, len, home: self.0.clone() }))
    }
}

/// Received bytes in a buffer of a shard. Dropping it gives the buffer back.
pub struct Pooled {
    memory: Box<[u8]>,
    len: usize,
    home: Free,
}

impl Deref for Pooled {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.memory[..self.len]
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        self.home.borrow_mut().push(mem::take(&mut self.memory));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back() {
        let pool = Pool::new(2, 4096);
        let (mut first, second) = (pool.take().expect("two"), pool.take().expect("two"));
        assert!(pool.is_empty() && pool.take().is_none());
        first[..2].copy_from_slice(b"ab");
        let lent = pool.lend(first, 2);
        assert_eq!(*lent, *b"ab");
        pool.give_back(second);
        drop(lent);
        let sizes: Vec<usize> = std::iter::from_fn(|| pool.take()).map(|memory| memory.len()).collect();
        assert_eq!(sizes, [4096, 4096]);
    }
}
