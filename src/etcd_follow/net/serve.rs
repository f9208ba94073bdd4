//! Answering those who dial us.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use ringraft_raft::PeerId;
use ringraft_transport::StreamKind;
use ringraft_transport::etcd::http::{Body, Purpose, Refusal, Request};
use ringraft_transport::etcd::raftpb::Message;
use ringraft_transport::etcd::snapshots::SnapshotError;
use ringraft_transport::etcd::streams::StreamWriter;
use ringraft_transport::etcd::{WireError, chunks, messages, snapshots};

use super::super::queue::Taken;
use super::inbox::{Arrived, Event};
use super::peer::Outbox;
use super::wire::Wire;
use super::{SILENCE, Shared};

/// Connections taken at a time, ours to others included.
const CONNECTIONS_MAX: usize = 1024;

/// How long a connection may be kept between two requests.
const IDLE: Duration = Duration::from_secs(300);

/// How often a stream says that it is alive.
const LINK_HEARTBEAT: Duration = Duration::from_millis(5000 / 3);

/// Messages that are written at once.
const CHUNK_MESSAGES_MAX: usize = 2048;

/// How long accepting rests when no more connections can be had.
const ACCEPT_REST: Duration = Duration::from_millis(100);

pub(super) fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    while !shared.stop.is_set() {
        match listener.accept() {
            Ok((stream, _)) => {
                let all = shared.clone();
                shared.spawn("etcd-serve", move || {
                    // Whoever is at the other end sees that it ends; there is nobody else to tell.
                    let _ = Wire::new(stream, SILENCE).and_then(|mut wire| serve(&all, &mut wire));
                });
            }
            Err(_) => shared.stop.pause(Instant::now() + ACCEPT_REST),
        }
    }
}

/// Answers one request after the other.
fn serve(shared: &Shared, wire: &mut Wire) -> io::Result<()> {
    let _listed = shared.connections.enter(wire, CONNECTIONS_MAX)?;
    let host = &shared.config.host;
    loop {
        wire.stream().set_read_timeout(Some(IDLE))?;
        let Some(head) = wire.head()? else { return Ok(()) };
        wire.stream().set_read_timeout(Some(SILENCE))?;
        let request = Request::parse(&head).ok_or(io::ErrorKind::InvalidData)?;
        let judged = host.judge(&request, |peer| shared.peers().contains_key(&peer));
        let answer = match judged {
            Ok(Purpose::Stream { kind, from }) => return write_stream(shared, wire, kind, from),
            Ok(Purpose::Pipeline) => match take_message(shared, wire, request.body) {
                Ok(()) => host.done(),
                Err(refusal) => {
                    wire.write(&host.refuse(&refusal))?;
                    return Ok(());
                }
            },
            Ok(Purpose::Snapshot) => match take_snapshot(shared, wire, request.body) {
                Ok(()) => host.done(),
                Err(refusal) => {
                    wire.write(&host.refuse(&refusal))?;
                    return Ok(());
                }
            },
            Ok(Purpose::Probing) => host
                .answer("application/json", &format!("{{\"OK\":true,\"Now\":\"{}\"}}", timestamp(SystemTime::now()))),
            Ok(Purpose::Members) => host.answer("application/json", &shared.sayings().members),
            Ok(Purpose::Version) => {
                let cluster = shared.sayings().cluster_version;
                let body = format!("{{\"etcdserver\":\"{}\",\"etcdcluster\":\"{cluster}\"}}", host.version);
                host.answer("application/json", &body)
            }
            Ok(Purpose::DowngradeEnabled) => host.answer("text/plain", "false"),
            Err(refusal) => {
                // What it sends along is not waited for.
                if request.body != Body::Length(0) {
                    wire.write(&host.refuse(&refusal))?;
                    return Ok(());
                }
                host.refuse(&refusal)
            }
        };
        wire.write(&answer)?;
    }
}

fn take_message(shared: &Shared, wire: &mut Wire, body: Body) -> Result<(), Refusal> {
    let limits = &shared.config.limits;
    let bytes = wire.body(body, limits.message_bytes_max).map_err(|_| Refusal::Reading)?;
    let message = messages::decode(bytes, limits).map_err(|_| Refusal::Unmarshalling)?;
    shared.inbox.put(Event::Message(Box::new(message)));
    Ok(())
}

/// Numbers files that snapshots arrive in.
static ARRIVALS: AtomicU64 = AtomicU64::new(0);

/// Stores a snapshot in files of its own, and waits until the member has taken it.
fn take_snapshot(shared: &Shared, wire: &mut Wire, body: Body) -> Result<(), Refusal> {
    let dir = shared.config.snapshot_dir.as_ref();
    let dir = dir.ok_or_else(|| Refusal::SaveSnapshot("this member takes none".into()))?;
    if body != Body::Chunks {
        return Err(Refusal::Reading);
    }
    let name = format!("incoming-{}-{}", std::process::id(), ARRIVALS.fetch_add(1, Ordering::Relaxed));
    let (words, database) = (Arriving(dir.join(&name)), Arriving(dir.join(name + ".db")));
    let message = Box::new(store(shared, wire, &words.0, &database.0)?);
    let (taken, answer) = mpsc::sync_channel(1);
    let arrived = Arrived { message, words: words.0.clone(), database: database.0.clone(), taken };
    shared.inbox.put(Event::Snapshot(arrived));
    // It is either answered, or dropped with all that waits.
    answer.recv().unwrap_or_else(|_| Err("this member ends".into())).map_err(Refusal::SaveSnapshot)
}

/// A file that is removed, unless somebody has moved it away.
struct Arriving(PathBuf);

impl Drop for Arriving {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn store(shared: &Shared, wire: &mut Wire, words: &Path, database: &Path) -> Result<Message, Refusal> {
    let failed = |error: io::Error| Refusal::SaveSnapshot(error.to_string());
    let mut file = File::create(database).map_err(failed)?;
    let (mut message, mut input, mut refusal) = (None, BytesMut::new(), None);
    let read = wire.chunks(|piece| {
        if message.is_some() {
            return file.write_all(piece);
        }
        input.extend_from_slice(piece);
        message = snapshots::take(&mut input, &shared.config.limits).map_err(|error| {
            refusal = Some(Refusal::Snapshot(error));
            io::Error::from(io::ErrorKind::InvalidData)
        })?;
        if message.is_some() { file.write_all(&std::mem::take(&mut input)) } else { Ok(()) }
    });
    if let Some(refusal) = refusal {
        return Err(refusal);
    }
    read.and_then(|()| file.sync_all()).map_err(failed)?;
    let message = message.ok_or(Refusal::Snapshot(SnapshotError::Wire(WireError::Short("a snapshot"))))?;
    let write = |mut file: File| file.write_all(&messages::body(&message)).and_then(|()| file.sync_all());
    File::create(words).and_then(write).map_err(failed)?;
    Ok(message)
}

/// Writes a stream until its reader goes away, or reads another one.
fn write_stream(shared: &Shared, wire: &mut Wire, kind: StreamKind, peer: PeerId) -> io::Result<()> {
    let Some(peer) = shared.peers().get(&peer).cloned() else { return Ok(()) };
    wire.write(&shared.config.host.stream_answer())?;
    let (outbox, lost) = peer.attach(kind);
    if lost {
        shared.inbox.put(Event::Unreachable(peer.id()));
    }
    let ended = write_queue(wire, kind, &outbox);
    if peer.detach(kind, &outbox) || ended.is_err() {
        shared.inbox.put(Event::Unreachable(peer.id()));
    }
    ended
}

fn write_queue(wire: &mut Wire, kind: StreamKind, outbox: &Outbox) -> io::Result<()> {
    let (mut writer, mut messages) = (StreamWriter::new(kind), Vec::new());
    let mut beat = Instant::now();
    loop {
        match outbox.take(Some(beat), &mut messages) {
            Taken::Items => {}
            Taken::Nothing => {
                messages.push(Message::link_heartbeat());
                beat = Instant::now() + LINK_HEARTBEAT;
            }
            Taken::Closed => return wire.write(chunks::END),
        }
        for some in messages.chunks(CHUNK_MESSAGES_MAX) {
            some.iter().for_each(|message| writer.push(message));
            wire.write(&writer.take_chunk().expect("there are messages"))?;
        }
        messages.clear();
    }
}

/// A time as RFC 3339 has it, in UTC.
fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Days since 0000-03-01, in eras of 400 years: a year that begins in March ends with its leap day.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:09}Z", since.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, want) in [
            (0, "1970-01-01T00:00:00.000000007Z"),
            (951_782_399, "2000-02-28T23:59:59.000000007Z"),
            (951_782_400, "2000-02-29T00:00:00.000000007Z"),
            (951_868_800, "2000-03-01T00:00:00.000000007Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000000007Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000007Z"),
        ] {
            assert_eq!(timestamp(UNIX_EPOCH + Duration::new(seconds, 7)), want);
        }
    }
}
