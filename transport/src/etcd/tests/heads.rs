//! Heads: ours as etcd wants them, and etcd's as they come.

use bytes::Bytes;
use ringraft_io::head::head_len;
use ringraft_raft::PeerId;

use super::super::http::{Answer, Body, Host, NoStream, Purpose, Refusal, Request, Version, plain_request};
use crate::{ClusterId, StreamKind};

fn host(id: u64, version: &str) -> Host {
    let version = Version::parse(version).unwrap();
    Host { cluster: ClusterId(0xc1), id: PeerId(id), version, peer_urls: "http://h:2380".into() }
}

#[track_caller]
fn text(head: &Bytes, want: &str) {
    assert_eq!(String::from_utf8_lossy(head), want.replace('\n', "\r\n"));
}

#[test]
fn requests_as_etcd_sends_them() {
    text(
        &host(0xa, "3.4.23").stream_request(StreamKind::Append, PeerId(0xb), "h:1"),
        "GET /raft/stream/msgapp/a HTTP/1.1\nHost: h:1\nX-Server-From: a\nX-Server-Version: 3.4.23\n\
         X-Min-Cluster-Version: 3.0.0\nX-Etcd-Cluster-ID: c1\nX-PeerURLs: http://h:2380\nX-Raft-To: b\n\n",
    );
    text(
        &host(0xa, "3.4.23").pipeline_request(30, "h:1"),
        "POST /raft HTTP/1.1\nHost: h:1\nX-Server-From: a\nX-Server-Version: 3.4.23\nX-Min-Cluster-Version: 3.0.0\n\
         X-Etcd-Cluster-ID: c1\nX-PeerURLs: http://h:2380\nContent-Type: application/protobuf\nContent-Length: 30\n\n",
    );
    text(
        &host(0xa, "3.4.23").snapshot_request("h:1"),
        "POST /raft/snapshot HTTP/1.1\nHost: h:1\nX-Server-From: a\nX-Server-Version: 3.4.23\n\
         X-Min-Cluster-Version: 3.0.0\nX-Etcd-Cluster-ID: c1\nX-PeerURLs: http://h:2380\n\
         Content-Type: application/octet-stream\nTransfer-Encoding: chunked\n\n",
    );
    text(&plain_request("/members", "h:1"), "GET /members HTTP/1.1\nHost: h:1\n\n");
}

#[test]
fn answers_as_etcd_gives_them() {
    let us = host(0xb, "3.4.23");
    text(
        &us.stream_answer(),
        "HTTP/1.1 200 OK\nX-Etcd-Cluster-ID: c1\nX-Server-Version: 3.4.23\nTransfer-Encoding: chunked\n\n",
    );
    text(&us.done(), "HTTP/1.1 204 No Content\nX-Etcd-Cluster-ID: c1\n\n");
    text(
        &us.answer("application/json", "{}"),
        "HTTP/1.1 200 OK\nX-Etcd-Cluster-ID: c1\nContent-Type: application/json\nContent-Length: 2\n\n{}",
    );
    let refused = us.refuse(&Refusal::MethodNotAllowed { allowed: "GET" });
    let head = "HTTP/1.1 405 Method Not Allowed\nX-Etcd-Cluster-ID: c1\nX-Server-Version: 3.4.23\nAllow: GET\n\
         Content-Type: text/plain; charset=utf-8\nContent-Length: 19\n\n";
    assert_eq!(String::from_utf8_lossy(&refused), format!("{}Method Not Allowed\n", head.replace('\n', "\r\n")));
}

/// A head as Go writes it.
fn request(line: &str, lines: &[&str]) -> String {
    format!("{line} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: Go-http-client/1.1\r\n{}\r\n", lines.concat())
}

const VERSION: &str = "X-Server-Version: 3.4.23\r\n";
const MIN: &str = "X-Min-Cluster-Version: 3.0.0\r\n";
const CLUSTER: &str = "X-Etcd-Cluster-Id: c1\r\n";
const TO: &str = "X-Raft-To: b\r\n";

fn judge(line: &str, lines: &[&str]) -> Result<Purpose, Refusal> {
    let head = request(line, lines);
    host(0xb, "3.4.23").judge(&Request::parse(head.as_bytes()).unwrap(), |peer| peer == PeerId(0xa))
}

#[test]
fn requests_are_judged_in_order() {
    let stream = "GET /raft/stream/msgapp/a";
    let all = [VERSION, MIN, CLUSTER, TO];
    let wanted = |kind| Ok(Purpose::Stream { kind, from: PeerId(0xa) });
    assert_eq!(judge(stream, &all), wanted(StreamKind::Append));
    assert_eq!(judge("GET /raft/stream/message/a", &all), wanted(StreamKind::Message));
    assert_eq!(judge("POST /raft", &[VERSION, MIN, CLUSTER]), Ok(Purpose::Pipeline));
    assert_eq!(judge("POST /raft/snapshot", &[VERSION, MIN, CLUSTER]), Ok(Purpose::Snapshot));
    for (path, purpose) in [
        ("GET /raft/probing", Purpose::Probing),
        ("GET /members", Purpose::Members),
        ("GET /version", Purpose::Version),
        ("GET /downgrade/enabled", Purpose::DowngradeEnabled),
    ] {
        assert_eq!(judge(path, &[]), Ok(purpose));
    }

    for (line, lines, refusal) in [
        ("GET /raft/streams", &all[..], Refusal::NotFound),
        ("GET /", &all, Refusal::NotFound),
        ("POST /raft/stream/msgapp/a", &[], Refusal::MethodNotAllowed { allowed: "GET" }),
        ("GET /raft", &[], Refusal::MethodNotAllowed { allowed: "POST" }),
        ("POST /members", &[], Refusal::MethodNotAllowed { allowed: "GET" }),
        (stream, &[MIN, CLUSTER, TO], Refusal::IncompatibleVersion),
        (stream, &["X-Server-Version: 3.4\r\n", MIN, CLUSTER, TO], Refusal::IncompatibleVersion),
        (stream, &["X-Server-Version: 2.3.8\r\n", MIN, CLUSTER, TO], Refusal::IncompatibleVersion),
        (stream, &[VERSION, "X-Min-Cluster-Version: 3.5.0\r\n", TO], Refusal::IncompatibleVersion),
        (stream, &[VERSION, MIN, TO], Refusal::ClusterMismatch),
        ("POST /raft", &[VERSION, MIN, "X-Etcd-Cluster-ID: c2\r\n"], Refusal::ClusterMismatch),
        ("GET /raft/stream", &[VERSION, MIN, CLUSTER, TO], Refusal::InvalidPath),
        ("GET /raft/stream/msgapp", &[VERSION, MIN, CLUSTER, TO], Refusal::InvalidPath),
        ("GET /raft/stream/msgapps/a", &all, Refusal::InvalidPath),
        ("GET /raft/stream/msgapp/", &all, Refusal::InvalidFrom),
        ("GET /raft/stream/msgapp/x", &all, Refusal::InvalidFrom),
        ("GET /raft/stream/msgapp/c", &all, Refusal::SenderNotFound),
        (stream, &[VERSION, MIN, CLUSTER], Refusal::ToMismatch),
        (stream, &[VERSION, MIN, CLUSTER, "X-Raft-To: 0b\r\n"], Refusal::ToMismatch),
    ] {
        assert_eq!(judge(line, lines), Err(refusal), "{line} {lines:?}");
    }
    // A member that does not say which versions it needs is taken; so is a newer one.
    assert!(judge(stream, &[VERSION, CLUSTER, TO]).is_ok());
    assert!(judge(stream, &["X-Server-Version: 4.0.0\r\n", MIN, CLUSTER, TO]).is_ok());
}

#[test]
fn no_answer_of_ours_ends_an_etcd() {
    let all = [
        Refusal::NotFound,
        Refusal::MethodNotAllowed { allowed: "GET" },
        Refusal::IncompatibleVersion,
        Refusal::ClusterMismatch,
        Refusal::InvalidPath,
        Refusal::InvalidFrom,
        Refusal::SenderNotFound,
        Refusal::ToMismatch,
        Refusal::Reading,
        Refusal::Unmarshalling,
        Refusal::Snapshot(super::super::snapshots::SnapshotError::NotSnap),
        Refusal::SaveSnapshot("no space".into()),
    ];
    for refusal in all {
        let (code, _) = refusal.status();
        assert!(code >= 400 && code != 403 && code != 410, "{refusal}: {code}");
        let answer = host(0xb, "3.4.23").refuse(&refusal);
        let (head, body) = answer.split_at(head_len(&answer).unwrap());
        let head = Answer::parse(head).unwrap();
        assert_eq!((head.status, head.body), (code, Body::Length(body.len() as u64)), "{refusal}");
        assert_eq!(body, format!("{refusal}\n").as_bytes());
    }
}

#[test]
fn heads_go_both_ways() {
    let (a, b) = (host(0xa, "3.4.23"), host(0xb, "3.4.23"));
    for kind in [StreamKind::Append, StreamKind::Message] {
        let head = a.stream_request(kind, PeerId(0xb), "h:1");
        let request = Request::parse(&head).unwrap();
        assert_eq!((request.body, request.from()), (Body::Length(0), Some(PeerId(0xa))));
        assert_eq!(request.peer_urls(), Some("http://h:2380"));
        assert_eq!(b.judge(&request, |peer| peer == PeerId(0xa)), Ok(Purpose::Stream { kind, from: PeerId(0xa) }));
    }
    let head = a.pipeline_request(30, "h:1");
    let request = Request::parse(&head).unwrap();
    assert_eq!((request.body, b.judge(&request, |_| false)), (Body::Length(30), Ok(Purpose::Pipeline)));
    let head = a.snapshot_request("h:1");
    let request = Request::parse(&head).unwrap();
    assert_eq!((request.body, b.judge(&request, |_| false)), (Body::Chunks, Ok(Purpose::Snapshot)));
    let head = plain_request("/version", "h:1");
    assert_eq!(b.judge(&Request::parse(&head).unwrap(), |_| false), Ok(Purpose::Version));

    let answer = Answer::parse(&b.stream_answer()).unwrap();
    assert_eq!(answer.check_stream(&a), Ok(()));
    assert_eq!(Answer::parse(&b.done()).map(|answer| (answer.status, answer.body)), Some((204, Body::Length(0))));
}

#[test]
fn streams_that_do_not_begin() {
    let us = host(0xb, "3.4.23");
    let answer = |status: &str, lines: &[&str]| {
        Answer::parse(format!("HTTP/1.1 {status}\r\n{}\r\n", lines.concat()).as_bytes()).unwrap().check_stream(&us)
    };
    let chunked = "Transfer-Encoding: chunked\r\n";
    assert_eq!(answer("200 OK", &[VERSION, CLUSTER, chunked]), Ok(()));
    assert_eq!(answer("410 Gone", &[VERSION]), Err(NoStream::Removed));
    assert_eq!(answer("404 Not Found", &[VERSION]), Err(NoStream::Status(404)));
    assert_eq!(answer("200 OK", &[CLUSTER, chunked]), Err(NoStream::Version(Version::parse("2.0.0").unwrap())));
    assert_eq!(answer("200 OK", &[VERSION, "X-Etcd-Cluster-Id: c2\r\n", chunked]), Err(NoStream::Cluster));
    assert_eq!(answer("200 OK", &[VERSION, CLUSTER, "Content-Length: 3\r\n"]), Err(NoStream::Body));
}

#[test]
fn bodies_and_versions() {
    let body = |lines: &str| Request::parse(request("POST /raft", &[lines]).as_bytes()).map(|request| request.body);
    assert_eq!(body(""), Some(Body::Length(0)));
    assert_eq!(body("Content-Length: 7\r\n"), Some(Body::Length(7)));
    assert_eq!(body("transfer-encoding: Chunked\r\n"), Some(Body::Chunks));
    for bad in [
        "Content-Length: 7\r\nContent-Length: 7\r\n",
        "Content-Length: 7\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: -7\r\n",
        "Transfer-Encoding: gzip\r\n",
    ] {
        assert_eq!(body(bad), None, "{bad}");
    }
    let answer = |lines: &str| Answer::parse(format!("HTTP/1.1 200 OK\r\n{lines}\r\n").as_bytes()).unwrap().body;
    assert_eq!(answer(""), Body::ToEnd);

    for (text, want) in [
        ("3.4.23", Some("3.4.23")),
        ("3.6.0-rc.1", Some("3.6.0")),
        ("3.4", None),
        ("3.4.23.1", None),
        ("3.4.x", None),
        ("", None),
        ("+3.4.2", None),
        ("3..2", None),
    ] {
        assert_eq!(Version::parse(text).map(|version| version.to_string()), want.map(str::to_owned), "{text}");
    }
}
