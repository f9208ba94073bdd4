//! One send: the buffers, and how far they have gone. Pure.

use std::io::IoSlice;

use bytes::Bytes;

use crate::SEND_BUFS_MAX;

/// Slices given to the kernel in one call.
pub(super) const SLICES: usize = 64;

/// A send under way.
pub(super) struct Sending {
    bufs: Vec<Bytes>,
    /// What is left begins at byte `skip` of `bufs[first]`.
    first: usize,
    skip: usize,
    total: usize,
    left: usize,
}

impl Sending {
    /// # Panics
    /// If there are no buffers, or too many.
    pub(super) fn new(bufs: Vec<Bytes>) -> Sending {
        assert!(!bufs.is_empty() && bufs.len() <= SEND_BUFS_MAX, "a send of {} buffers", bufs.len());
        let total = bufs.iter().map(Bytes::len).sum();
        Sending { bufs, first: 0, skip: 0, total, left: total }
    }

    /// Bytes in all.
    pub(super) fn total(&self) -> usize {
        self.total
    }

    pub(super) fn is_done(&self) -> bool {
        self.left == 0
    }

    /// The buffers, done with.
    pub(super) fn into_bufs(self) -> Vec<Bytes> {
        self.bufs
    }

    /// Puts the next slices that are not empty into `slices`: how many, their bytes, and whether there are more.
    pub(super) fn next<'a>(&'a self, slices: &mut [IoSlice<'a>; SLICES]) -> (usize, usize, bool) {
        let (mut count, mut bytes, mut skip) = (0, 0, self.skip);
        for buf in &self.bufs[self.first..] {
            let rest = &buf[skip..];
            skip = 0;
            if rest.is_empty() {
                continue;
            }
            if count == SLICES {
                break;
            }
            slices[count] = IoSlice::new(rest);
            count += 1;
            bytes += rest.len();
        }
        (count, bytes, bytes < self.left)
    }

    /// Counts `sent` bytes as gone.
    pub(super) fn advance(&mut self, sent: usize) {
        assert!(sent <= self.left, "sent {sent} of {} bytes", self.left);
        self.left -= sent;
        let mut sent = sent;
        while sent > 0 {
            let rest = self.bufs[self.first].len() - self.skip;
            if sent < rest {
                self.skip += sent;
                return;
            }
            sent -= rest;
            self.first += 1;
            self.skip = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(sending: &Sending) -> (Vec<u8>, bool) {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let (count, bytes, more) = sending.next(&mut slices);
        let left: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect();
        assert_eq!(left.len(), bytes);
        assert!(slices[..count].iter().all(|slice| !slice.is_empty()));
        (left, more)
    }

    #[test]
    fn advances_over_buffers() {
        let bufs = || vec![Bytes::new(), Bytes::from_static(b"abc"), Bytes::new(), Bytes::from_static(b"defg")];
        for first in 0..=7 {
            for second in 0..=7 - first {
                let mut sending = Sending::new(bufs());
                sending.advance(first);
                assert_eq!(left(&sending), (b"abcdefg"[first..].to_vec(), false));
                sending.advance(second);
                assert_eq!(left(&sending), (b"abcdefg"[first + second..].to_vec(), false));
                assert_eq!(sending.is_done(), first + second == 7);
                assert_eq!(sending.total(), 7);
            }
        }
    }

    #[test]
    fn many_buffers_take_several_calls() {
        let count = 2 * SLICES + 1;
        let mut sending = Sending::new((0..count).map(|_| Bytes::from_static(b"xy")).collect());
        let mut calls = Vec::new();
        while !sending.is_done() {
            let (bytes, more) = left(&sending);
            calls.push((bytes.len(), more));
            sending.advance(bytes.len());
        }
        assert_eq!(calls, [(2 * SLICES, true), (2 * SLICES, true), (2, false)]);
    }
}
