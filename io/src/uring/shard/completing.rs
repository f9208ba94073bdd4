//! What completes: each completion finds its slot, and becomes what the caller is told.

use std::io;

use io_uring::cqueue;

use super::{CANCEL, KICKING, Op, SLOTLESS, Uring, WriteOp};
use crate::host::files;
use crate::host::slots::Key;
use crate::uring::send::SendOp;
use crate::{CloseReason, Completion, StreamId};

impl Uring {
    /// Takes all completions that have arrived.
    pub(super) fn reap(&mut self, out: &mut Vec<Completion>) -> io::Result<()> {
        loop {
            while let Some(entry) = self.ring.next() {
                self.complete(&entry, out);
            }
            if !self.ring.overflowed() {
                return Ok(());
            }
            self.ring.enter(0, None)?;
        }
    }

    fn complete(&mut self, entry: &cqueue::Entry, out: &mut Vec<Completion>) {
        let (data, result) = (entry.user_data(), entry.result());
        if data & SLOTLESS != 0 {
            if result < 0 {
                self.slotless_failed(data & !u64::from(u32::MAX), data & u64::from(u32::MAX));
            }
            return;
        }
        let key = Key::from_bits(data);
        let more = cqueue::more(entry.flags());
        if more {
            match self.slots.get_mut(key).expect("a completion finds its slot") {
                Op::Receive(id) => {
                    let id = *id;
                    self.received(id, entry, out);
                }
                _ => unreachable!("only receives complete more than once"),
            }
            return;
        }
        match self.slots.remove(key).expect("a completion finds its slot") {
            Op::Receive(id) => self.receive_ended(id, entry, out),
            Op::Send(op) => self.send_ended(op, result, out),
            Op::Write(op) => self.write_ended(op, result, out),
            Op::Event(_) => self.listen_for_kicks(),
        }
    }

    fn slotless_failed(&mut self, kind: u64, number: u64) {
        match kind {
            // The other shard must not sleep on because of that.
            KICKING => self.common.signals[usize::try_from(number).expect("32 bits fit")].kick(),
            // A receive cannot be found while the kernel moves it from one of its lists to another.
            CANCEL => {
                let Some(key) = self.slots.current(number) else { return };
                if let Some(Op::Receive(id)) = self.slots.get_mut(key)
                    && let Some(stream) = self.streams.get(*id)
                    && stream.cancelling
                {
                    self.cancel(key);
                }
            }
            _ => {}
        }
    }

    fn received(&mut self, id: StreamId, entry: &cqueue::Entry, out: &mut Vec<Completion>) {
        let len = usize::try_from(entry.result()).unwrap_or(0);
        let Some(buffer) = cqueue::buffer_select(entry.flags()) else {
            assert_eq!(len, 0, "received bytes lie in a provided buffer");
            return;
        };
        let open = self.streams.open(id).is_some();
        self.pool.take(buffer, len, |data| {
            if open {
                out.push(Completion::Received { stream: id, data });
            }
        });
    }

    fn receive_ended(&mut self, id: StreamId, entry: &cqueue::Entry, out: &mut Vec<Completion>) {
        self.received(id, entry, out);
        let stream = self.streams.get(id).expect("a stream stays while something is in flight on it");
        stream.receiving = None;
        stream.cancelling = false;
        if stream.closing {
            return self.release(id);
        }
        let result = entry.result();
        match -result {
            0 => self.end(id, CloseReason::Eof, out),
            libc::ENOBUFS => {
                stream.starved = true;
                self.starved.push(id);
            }
            // Paused, or interrupted for reasons of the kernel: go on if wanted.
            libc::ECANCELED | libc::EINTR | libc::EAGAIN => self.arm(id),
            errno if errno > 0 => self.end(id, CloseReason::Error(kind(errno)), out),
            _ => self.arm(id),
        }
    }

    fn send_ended(&mut self, mut op: Box<SendOp>, result: i32, out: &mut Vec<Completion>) {
        let id = op.stream;
        let stream = self.streams.get(id).expect("a stream stays while something is in flight on it");
        stream.sending = None;
        if stream.closing {
            self.recycle(op);
            return self.release(id);
        }
        match usize::try_from(result) {
            Ok(0) => {
                self.recycle(op);
                self.end(id, CloseReason::Error(io::ErrorKind::WriteZero), out);
            }
            Ok(sent) => {
                if op.advance(sent) {
                    out.push(Completion::Sent { stream: id, bytes: op.total });
                    self.recycle(op);
                } else {
                    self.submit_send(op);
                }
            }
            // Nothing was taken; nothing is wrong with the stream.
            Err(_) if matches!(-result, libc::EINTR | libc::EAGAIN) => self.submit_send(op),
            Err(_) => {
                self.recycle(op);
                self.end(id, CloseReason::Error(kind(-result)), out);
            }
        }
    }

    fn write_ended(&mut self, mut op: WriteOp, result: i32, out: &mut Vec<Completion>) {
        let result = match left_after(op.buf.len() - op.done, result) {
            Ok(0) => Ok(()),
            Ok(left) => {
                op.done = op.buf.len() - left;
                return self.submit_write(op);
            }
            Err(error) => Err(error),
        };
        if let Some(handle) = self.common.files.end_write(op.file) {
            self.table.remove(&self.ring.submitter, handle);
        }
        out.push(Completion::Written { file: op.file, token: op.token, buf: op.buf, result });
    }
}

fn kind(errno: i32) -> io::ErrorKind {
    io::Error::from_raw_os_error(errno).kind()
}

/// How many of `left` bytes a durable write must still write after the kernel said `result`.
fn left_after(left: usize, result: i32) -> io::Result<usize> {
    match usize::try_from(result) {
        Ok(written) => files::left_after_write(left, written),
        Err(_) => Err(io::Error::from_raw_os_error(-result)),
    }
}
