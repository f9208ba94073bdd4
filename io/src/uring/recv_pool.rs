//! Receive buffers: memory the kernel picks from when bytes arrive, lent to the caller until it drops them.

use std::cell::RefCell;
use std::io;
use std::ops::Deref;
use std::ptr::{self, NonNull};
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

use crate::RecvBuf;
use crate::buf::Memory;

/// The one group of buffers of a ring.
pub(super) const GROUP: u16 = 0;

const PAGE: usize = 4096;

/// One mapping: the ring of entries, then the buffers. Unmapped when the pool and every lent buffer are gone.
struct Mapping {
    start: NonNull<u8>,
    len: usize,
    buffers_at: usize,
    size: usize,
    /// Ids that came back since the last [`RecvPool::publish`]. Never grows beyond the number of buffers.
    returned: RefCell<Vec<u16>>,
}

impl Mapping {
    fn buffer(&self, id: u16) -> NonNull<u8> {
        let at = self.buffers_at + usize::from(id) * self.size;
        assert!(at + self.size <= self.len, "buffer {id} lies in the mapping");
        // SAFETY: within the mapping, as just asserted.
        unsafe { self.start.add(at) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by `mmap` with this length; the last owner is gone, and the ring was unregistered before its
        // pool was dropped (else the pool is leaked, see `RecvPool::leak`).
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// Bytes in a buffer that the kernel filled. Dropping it gives the buffer back.
pub struct Provided {
    mapping: Rc<Mapping>,
    id: u16,
    len: usize,
}

impl Deref for Provided {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `mapping` keeps the memory; the kernel does not write to a buffer before its id is published again,
        // which happens only after this value is dropped; `len` was checked against the size when it was made.
        unsafe { std::slice::from_raw_parts(self.mapping.buffer(self.id).as_ptr(), self.len) }
    }
}

impl Drop for Provided {
    fn drop(&mut self) {
        self.mapping.returned.borrow_mut().push(self.id);
    }
}

/// The buffers of one ring.
pub(super) struct RecvPool {
    mapping: Rc<Mapping>,
    count: u16,
    mask: u16,
    /// Entries ever published, modulo 2^16.
    tail: u16,
    /// Which id stands at which place of the ring, and where each id stands: the kernel takes them in ring order.
    id_at: Vec<u16>,
    place_of: Vec<u16>,
    /// Ids that the kernel may fill, as far as we know.
    free: u16,
}

impl RecvPool {
    /// Maps and registers `count` buffers (a power of two) of `size` bytes.
    pub(super) fn new(submitter: &Submitter<'_>, count: u16, size: usize) -> io::Result<RecvPool> {
        assert!(count.is_power_of_two() && count <= 1 << 15, "{count} receive buffers: a power of two up to 32768");
        assert!(size > 0 && size.is_multiple_of(PAGE), "receive buffers of {size} bytes: whole pages");
        let buffers_at = (usize::from(count) * size_of::<BufRingEntry>()).next_multiple_of(PAGE);
        let len = buffers_at + usize::from(count) * size;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
        // SAFETY: asks for new memory, touches none.
        let start = unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast::<u8>()).expect("a mapping does not start at zero");
        let returned = RefCell::new((0..count).collect());
        let mapping = Rc::new(Mapping { start, len, buffers_at, size, returned });
        let address = u64::try_from(start.as_ptr().addr()).expect("addresses have 64 bits");
        // SAFETY: `mapping` keeps the entries; it is unregistered in `unregister` or leaked in `leak`.
        unsafe { submitter.register_buf_ring_with_flags(address, count, GROUP, 0) }?;
        let places = vec![0; usize::from(count)];
        let mut pool =
            RecvPool { mapping, count, mask: count - 1, tail: 0, id_at: places.clone(), place_of: places, free: 0 };
        pool.publish();
        Ok(pool)
    }

    /// Gives the buffers that came back to the kernel, with one store.
    pub(super) fn publish(&mut self) {
        let mut returned = self.mapping.returned.borrow_mut();
        if returned.is_empty() {
            return;
        }
        let base = self.mapping.start.cast::<BufRingEntry>().as_ptr();
        for id in returned.drain(..) {
            let place = self.tail & self.mask;
            // SAFETY: `place` is below `count`, so the entry lies in the mapping; the kernel reads entries only below
            // the tail that is stored further down.
            let entry = unsafe { &mut *base.add(usize::from(place)) };
            let address = self.mapping.buffer(id).as_ptr().addr();
            entry.set_addr(u64::try_from(address).expect("addresses have 64 bits"));
            entry.set_len(u32::try_from(self.mapping.size).expect("buffers are small"));
            entry.set_bid(id);
            self.id_at[usize::from(place)] = id;
            self.place_of[usize::from(id)] = place;
            self.tail = self.tail.wrapping_add(1);
            self.free += 1;
        }
        assert!(self.free <= self.count, "no buffer is published twice");
        // SAFETY: `base` points to the entries of a registered ring; its tail lies in their first one.
        let tail = unsafe { BufRingEntry::tail(base) }.cast::<AtomicU16>();
        // SAFETY: aligned, and alive as long as `mapping`; the kernel only reads it.
        unsafe { &*tail }.store(self.tail, Ordering::Release);
    }

    /// Whether so few buffers are out that it makes sense to receive again after running dry.
    pub(super) fn has_room(&self) -> bool {
        self.free >= (self.count / 4).max(1)
    }

    /// The buffers that one completion of `len` bytes has filled, starting at `id`; `each` gets them in order.
    pub(super) fn take(&mut self, id: u16, len: usize, mut each: impl FnMut(RecvBuf)) {
        let mut place = self.place_of[usize::from(id)];
        let mut left = len;
        loop {
            let id = self.id_at[usize::from(place)];
            let part = left.min(self.mapping.size);
            self.free = self.free.checked_sub(1).expect("the kernel fills only published buffers");
            let provided = Provided { mapping: self.mapping.clone(), id, len: part };
            // A completion without bytes (end of stream) may still have taken a buffer: dropping gives it back.
            if part > 0 {
                each(RecvBuf(Memory::Provided(provided)));
            }
            left -= part;
            if left == 0 {
                return;
            }
            place = (place + 1) & self.mask;
        }
    }

    /// Takes the buffers back from the kernel. Nothing may be receiving any more.
    pub(super) fn unregister(&self, submitter: &Submitter<'_>) {
        if submitter.unregister_buf_ring(GROUP).is_err() {
            self.leak();
        }
    }

    /// Keeps the memory for ever: the kernel may still write to it.
    pub(super) fn leak(&self) {
        std::mem::forget(self.mapping.clone());
    }
}
