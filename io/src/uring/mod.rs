//! `Io` on io_uring.
#![allow(unsafe_code)]

/// A buffer that the kernel filled.
pub struct Provided {
    bytes: Vec<u8>,
}

impl std::ops::Deref for Provided {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}
