//! One other member: what is on its way to it, and the threads that talk to it.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use prost::Message as _;
use ringraft_raft::PeerId;
use ringraft_transport::StreamKind;
use ringraft_transport::etcd::http::Answer;
use ringraft_transport::etcd::messages;
use ringraft_transport::etcd::raftpb::{Message, MessageType};

use super::super::queue::{Queue, Taken};
use super::inbox::Event;
use super::wire::Wire;
use super::{ANSWER_MAX, CONNECT, REDIAL, SILENCE, Shared, dial};

/// Messages that may wait for a stream, and for the pipeline; and bytes of them.
const STREAM_MESSAGES_MAX: usize = 4096;
const PIPELINE_MESSAGES_MAX: usize = 64;
const BYTES_MAX: usize = 64 << 20;

/// Messages on their way to one connection: what does not fit is dropped.
pub(super) type Outbox = Queue<Message>;

/// See the module.
pub(super) struct Peer {
    id: PeerId,
    addresses: Mutex<Addresses>,
    streams: Mutex<Streams>,
    pipeline: Outbox,
    closed: AtomicBool,
}

struct Addresses {
    all: Vec<String>,
    /// Which one is used.
    at: usize,
}

/// The streams that it reads from us.
#[derive(Default)]
struct Streams {
    append: Option<Arc<Outbox>>,
    message: Option<Arc<Outbox>>,
}

impl Streams {
    fn of(&mut self, kind: StreamKind) -> &mut Option<Arc<Outbox>> {
        match kind {
            StreamKind::Append => &mut self.append,
            StreamKind::Message => &mut self.message,
        }
    }
}

impl Peer {
    /// Begins to read its streams, and to send to it.
    pub(super) fn start(shared: &Arc<Shared>, id: PeerId, addresses: &[String]) -> Arc<Peer> {
        let peer = Arc::new(Peer {
            id,
            addresses: Mutex::new(Addresses { all: addresses.to_vec(), at: 0 }),
            streams: Mutex::default(),
            pipeline: Outbox::new(PIPELINE_MESSAGES_MAX, BYTES_MAX),
            closed: AtomicBool::new(false),
        });
        for kind in [StreamKind::Append, StreamKind::Message] {
            let (reader, all) = (peer.clone(), shared.clone());
            shared.spawn("etcd-read", move || dial::read_streams(&all, &reader, kind));
        }
        let (sender, all) = (peer.clone(), shared.clone());
        shared.spawn("etcd-post", move || sender.run_pipeline(&all));
        peer
    }

    pub(super) fn id(&self) -> PeerId {
        self.id
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Ends everything that has to do with it; streams that we read end with the next piece of them.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.pipeline.close_and_drop();
        let streams = std::mem::take(&mut *self.streams());
        for stream in [streams.append, streams.message].into_iter().flatten() {
            stream.close_and_drop();
        }
    }

    // Addresses.

    fn addresses(&self) -> MutexGuard<'_, Addresses> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_addresses(&self, all: &[String]) {
        let mut addresses = self.addresses();
        if addresses.all != all {
            *addresses = Addresses { all: all.to_vec(), at: 0 };
        }
    }

    /// Where it is to be reached; nothing if nobody knows.
    pub(super) fn address(&self) -> Option<String> {
        let addresses = self.addresses();
        addresses.all.get(addresses.at).cloned()
    }

    /// It was not reached there: on to the next one, unless somebody has gone on before.
    pub(super) fn skip_address(&self, tried: &str) {
        let mut addresses = self.addresses();
        if addresses.all.get(addresses.at).is_some_and(|address| address == tried) {
            addresses.at = (addresses.at + 1) % addresses.all.len();
        }
    }

    // Sending.

    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream that it reads from now on, in place of the one it read before. Whether something is lost with that.
    pub(super) fn attach(&self, kind: StreamKind) -> (Arc<Outbox>, bool) {
        let outbox = Arc::new(Outbox::new(STREAM_MESSAGES_MAX, BYTES_MAX));
        let before = self.streams().of(kind).replace(outbox.clone());
        if self.is_closed() {
            outbox.close_and_drop();
        }
        (outbox, before.is_some_and(|before| before.close_and_drop()))
    }

    /// A stream that it reads no more; whether something is lost with it.
    pub(super) fn detach(&self, kind: StreamKind, outbox: &Arc<Outbox>) -> bool {
        self.streams().of(kind).take_if(|current| Arc::ptr_eq(current, outbox));
        outbox.close_and_drop()
    }

    /// Queues a message where etcd would: an append on its own stream, everything on the message stream, and without
    /// streams in the pipeline. False if it is dropped.
    pub(super) fn send(&self, message: Message) -> bool {
        let is_append = message.r#type == i32::from(MessageType::App);
        let stream = {
            let streams = self.streams();
            streams.append.clone().filter(|_| is_append).or_else(|| streams.message.clone())
        };
        let bytes = message.encoded_len();
        match stream {
            Some(stream) => stream.try_put(message, bytes),
            None => self.pipeline.try_put(message, bytes),
        }
    }

    /// Posts what has no stream, one message after the other.
    fn run_pipeline(&self, shared: &Shared) {
        let (mut kept, mut messages) = (None, Vec::new());
        loop {
            match self.pipeline.take(Some(Instant::now() + SILENCE), &mut messages) {
                Taken::Items => {}
                // The other side gives up a connection about now.
                Taken::Nothing => kept = None,
                Taken::Closed => return,
            }
            for message in messages.drain(..) {
                let Some(address) = self.address().filter(|_| !self.is_closed()) else { break };
                match self.post(shared, &mut kept, &address, &message) {
                    Ok(204) => continue,
                    Ok(403) => shared.inbox.put(Event::Removed),
                    Ok(_) => {}
                    Err(_) => {
                        self.skip_address(&address);
                        shared.stop.pause(Instant::now() + REDIAL);
                    }
                }
                shared.inbox.put(Event::Unreachable(self.id));
            }
        }
    }

    /// Posts one message, on the connection that is there or a new one. Gives the status of the answer; 403 only if it
    /// says that we were removed.
    fn post(&self, shared: &Shared, kept: &mut Option<Wire>, address: &str, message: &Message) -> io::Result<u16> {
        if let Some(mut wire) = kept.take()
            && let Ok(status) = self.post_on(shared, &mut wire, address, message)
        {
            *kept = Some(wire);
            return Ok(status);
        }
        // The other side may have given it up just then, and raft does not mind a message that comes twice.
        let mut wire = Wire::connect(address, CONNECT, SILENCE)?;
        let status = self.post_on(shared, &mut wire, address, message)?;
        *kept = Some(wire);
        Ok(status)
    }

    fn post_on(&self, shared: &Shared, wire: &mut Wire, address: &str, message: &Message) -> io::Result<u16> {
        let _listed = shared.connections.enter(wire, usize::MAX)?;
        let body = messages::body(message);
        let head = shared.config.host.pipeline_request(body.len(), address);
        wire.write(&[&head[..], &body].concat())?;
        let head = wire.head()?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let answer = Answer::parse(&head).ok_or(io::ErrorKind::InvalidData)?;
        let body = wire.body(answer.body, ANSWER_MAX)?;
        // 403 may also mean that somebody else lives there now.
        let removed = body.windows(7).any(|word| word == b"removed");
        Ok(if answer.status == 403 && !removed { 500 } else { answer.status })
    }
}
