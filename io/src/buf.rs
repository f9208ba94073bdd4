//! Memory that crosses the seam: aligned blocks for the disk, receive buffers from the network.

use std::fmt;
use std::ops::{Deref, DerefMut};

use crate::BLOCK_ALIGN;

/// Heap memory whose address and length are multiples of [`BLOCK_ALIGN`], zeroed when made. Its address does not
/// change when the value moves.
pub struct AlignedBuf {
    // Over-allocated by one block so that an aligned start exists without unsafe code.
    memory: Box<[u8]>,
    start: usize,
    len: usize,
}

impl AlignedBuf {
    /// Zeroed memory of `len` bytes.
    ///
    /// # Panics
    /// If `len` is not a multiple of [`BLOCK_ALIGN`].
    #[must_use]
    pub fn zeroed(len: usize) -> AlignedBuf {
        assert!(len.is_multiple_of(BLOCK_ALIGN), "aligned buffer of {len} bytes");
        let memory = vec![0; len + BLOCK_ALIGN].into_boxed_slice();
        let start = memory.as_ptr().align_offset(BLOCK_ALIGN);
        assert!(start < BLOCK_ALIGN, "an aligned address lies within one block");
        AlignedBuf { memory, start, len }
    }

    /// The bytes allocated, whatever [`AlignedBuf::set_len`] says.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.memory.len() - BLOCK_ALIGN
    }

    /// Shows fewer or more of the allocated bytes; content is kept.
    ///
    /// # Panics
    /// If `len` exceeds the capacity or is not a multiple of [`BLOCK_ALIGN`].
    pub fn set_len(&mut self, len: usize) {
        assert!(len.is_multiple_of(BLOCK_ALIGN) && len <= self.capacity(), "length {len} of {}", self.capacity());
        self.len = len;
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuf({} bytes)", self.len)
    }
}

/// Received bytes, read in place. Dropping it gives the memory back to the world's pool.
pub struct RecvBuf(pub(crate) Memory);

pub(crate) enum Memory {
    /// A buffer the kernel filled.
    Provided(crate::uring::Provided),
    /// A buffer of a portable shard.
    Pooled(crate::portable::Pooled),
    /// Plain heap memory, as the simulated network delivers.
    #[cfg_attr(not(feature = "sim"), allow(dead_code, reason = "only the simulated world makes these"))]
    Heap(Vec<u8>),
}

impl Deref for RecvBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Memory::Provided(provided) => provided,
            Memory::Pooled(pooled) => pooled,
            Memory::Heap(bytes) => bytes,
        }
    }
}

impl fmt::Debug for RecvBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecvBuf({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligned_and_stable() {
        let mut buf = AlignedBuf::zeroed(3 * BLOCK_ALIGN);
        buf[0] = 7;
        let address = buf.as_ptr().addr();
        assert_eq!(address % BLOCK_ALIGN, 0);
        let moved = Box::new(buf);
        assert_eq!(moved.as_ptr().addr(), address);
        assert_eq!((moved[0], moved.len(), moved.capacity()), (7, 3 * BLOCK_ALIGN, 3 * BLOCK_ALIGN));
    }

    #[test]
    #[should_panic(expected = "aligned buffer")]
    fn odd_lengths_are_refused() {
        let _ = AlignedBuf::zeroed(100);
    }
}
