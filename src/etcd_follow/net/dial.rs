//! Reading the streams of a peer: dial, read, dial again.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use ringraft_transport::StreamKind;
use ringraft_transport::etcd::http::{Answer, NoStream};
use ringraft_transport::etcd::streams::StreamReader;

use super::inbox::Event;
use super::peer::Peer;
use super::wire::{Wire, invalid};
use super::{ANSWER_MAX, CONNECT, REDIAL, SILENCE, Shared};

/// Reads a stream of the peer, over and over, until the peer or everything is closed.
pub(super) fn read_streams(shared: &Arc<Shared>, peer: &Peer, kind: StreamKind) {
    let mut said = HashSet::new();
    while !shared.stop.is_set() && !peer.is_closed() {
        let next = Instant::now() + REDIAL;
        if let Some(address) = peer.address() {
            let (ended, began) = match read(shared, peer, kind, &address) {
                Ok(()) => ("it was ended at the other side".to_owned(), true),
                Err(Failure { began, error }) => (error.to_string(), began),
            };
            if !began {
                peer.skip_address(&address);
            }
            if began {
                said.clear();
            }
            // What fails ten times a second is told once.
            if said.insert(ended.clone()) && (began || !peer.is_closed()) {
                shared.inbox.put(Event::Stream { peer: peer.id(), kind, ended: Some(ended) });
            }
        }
        shared.stop.pause(next);
    }
}

/// Why a stream is not read any more.
struct Failure {
    /// Whether it had begun.
    began: bool,
    error: io::Error,
}

fn read(shared: &Shared, peer: &Peer, kind: StreamKind, address: &str) -> Result<(), Failure> {
    let early = |error| Failure { began: false, error };
    let late = |error| Failure { began: true, error };
    let host = &shared.config.host;
    let mut wire = Wire::connect(address, CONNECT, SILENCE).map_err(early)?;
    let _listed = shared.connections.enter(&wire, usize::MAX).map_err(early)?;
    wire.write(&host.stream_request(kind, peer.id(), address)).map_err(early)?;
    begin(shared, &mut wire).map_err(early)?;

    shared.inbox.put(Event::Stream { peer: peer.id(), kind, ended: None });
    let mut reader = StreamReader::new(kind, peer.id().0, host.id.0, shared.config.limits);
    loop {
        let piece = wire.piece().map_err(late)?;
        if piece.is_empty() {
            return reader.end().map_err(invalid).map_err(late);
        }
        let deliver = |message: ringraft_transport::etcd::raftpb::Message| {
            if !message.is_link_heartbeat() {
                shared.inbox.put(Event::Message(Box::new(message)));
            }
        };
        reader.push(&piece, deliver).map_err(invalid).map_err(late)?;
        if peer.is_closed() {
            return Ok(());
        }
    }
}

/// Reads the head that a stream begins with.
fn begin(shared: &Shared, wire: &mut Wire) -> io::Result<()> {
    let head = wire.head()?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let answer = Answer::parse(&head).ok_or(io::ErrorKind::InvalidData)?;
    match answer.check_stream(&shared.config.host) {
        Ok(()) => Ok(()),
        Err(NoStream::Status(status)) => {
            let body = wire.body(answer.body, ANSWER_MAX)?;
            let why = String::from_utf8_lossy(&body).trim().to_owned();
            Err(io::Error::other(format!("refused with status {status}: {why}")))
        }
        Err(why) => {
            if why == NoStream::Removed {
                shared.inbox.put(Event::Removed);
            }
            Err(io::Error::other(why))
        }
    }
}
