//! Listening, dialing, heads, and whole files.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use socket2::{Domain, Socket, Type};

use super::*;
use crate::{Completion, Dial, DialError, Io, ListenerKind, SendFile, StreamId, Token, WorldConfig};

in_every_world! {
    a_taken_address_is_named,
    dials_fail_with_a_reason,
    a_dial_that_nobody_answers_ends,
    bytes_behind_a_response_head_belong_to_the_stream,
    bad_dialers_are_closed,
    files_travel_whole_or_not_at_all,
}

fn a_taken_address_is_named<S: TestSeed>() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    let config = WorldConfig { listeners: vec![(ListenerKind::Client, address)], ..config() };
    let text = S::open(config.into()).expect_err("taken").to_string();
    assert!(text.starts_with(&format!("cannot listen on {address}: ")), "{text}");
    assert!(text.ends_with("; choose another"), "{text}");
}

fn dials_fail_with_a_reason<S: TestSeed>() {
    let mut a = Node::<S>::start(config());
    let mut b = Node::<S>::start(config());
    a.dial(b.address(), b"GET /no HTTP/1.1\r\n\r\n", 1, PATIENCE);
    let refused = a.dialed().expect_err("refused");
    assert_eq!(refused, DialError::Refused(Bytes::from_static(b"HTTP/1.1 412 No\r\n\r\n")));
    assert_eq!(refused.to_string(), "refused: HTTP/1.1 412 No");

    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("an address");
    a.dial(address, STREAM, 2, Duration::from_millis(50));
    assert_eq!(a.dialed().expect_err("silence"), DialError::Io(ErrorKind::TimedOut));
    drop(silent);
    a.dial(address, STREAM, 3, PATIENCE);
    assert_eq!(a.dialed().expect_err("nobody"), DialError::Io(ErrorKind::ConnectionRefused));

    for (answer, want) in [
        (b"SSH-2.0-OpenSSH\r\n\r\n".to_vec(), DialError::Garbage),
        (vec![b'x'; 20_000], DialError::Garbage),
        (b"HTTP/1.1 200".to_vec(), DialError::Io(ErrorKind::UnexpectedEof)),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        a.dial(listener.local_addr().expect("an address"), STREAM, 4, PATIENCE);
        let (mut socket, _) = listener.accept().expect("a connection");
        socket.read_exact(&mut [0; STREAM.len()]).expect("the request");
        // Garbage may be given up on before it is all written.
        let _ = socket.write_all(&answer);
        let _ = socket.shutdown(std::net::Shutdown::Write);
        assert_eq!(a.dialed().expect_err("no answer"), want);
    }
    // A name is looked up; whatever it stands for, the port answers on 127.0.0.1.
    let port = b.address().port();
    a.dial(format!("localhost:{port}"), STREAM, 5, PATIENCE);
    a.dialed().expect("connected by name");
    b.accepted();
    // Without a control thread there is an answer, too.
    drop(a.world);
    a.io.dial(Dial {
        token: Token(6),
        address: "127.0.0.1:1".into(),
        request: Bytes::from_static(STREAM),
        timeout: PATIENCE,
    });
    let mut out = Vec::new();
    a.io.turn(None, &mut out).expect("a turn");
    assert!(matches!(&out[..], [Completion::Dialed { result: Err(DialError::Io(_)), .. }]), "{out:?}");
}

fn a_dial_that_nobody_answers_ends<S: TestSeed>() {
    // The kernel answers for a listener until so many wait to be accepted; then it answers nobody.
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
    listener.listen(0).expect("listening");
    let address = listener.local_addr().expect("an address").as_socket().expect("an address of the internet");
    let crowd: Vec<Socket> = (0..8)
        .map(|_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            socket.set_nonblocking(true).expect("set");
            let _ = socket.connect(&address.into());
            socket
        })
        .collect();
    let mut a = Node::<S>::start(config());
    a.dial(address, STREAM, 1, Duration::from_millis(100));
    assert_eq!(a.dialed().expect_err("no answer"), DialError::Io(ErrorKind::TimedOut));
    drop(crowd);
}

fn bytes_behind_a_response_head_belong_to_the_stream<S: TestSeed>() {
    let mut a = Node::<S>::start(config());
    for cut in [0, 1, OK.len() - 2, OK.len() - 1, OK.len(), OK.len() + 3] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        a.dial(listener.local_addr().expect("an address"), STREAM, 1, PATIENCE);
        let (mut socket, _) = listener.accept().expect("a connection");
        socket.set_nodelay(true).expect("set");
        socket.read_exact(&mut [0; STREAM.len()]).expect("the request");
        let answer = [OK, b"the stream's own bytes"].concat();
        socket.write_all(&answer[..cut]).expect("written");
        a.turn();
        socket.write_all(&answer[cut..]).expect("written");
        let dialed = a.dialed().expect("connected");
        assert_eq!(dialed.response, OK);
        a.io.receive(dialed.stream);
        let mut got = Vec::new();
        wait(|| {
            a.turn();
            a.pieces().iter().for_each(|(_, data)| got.extend_from_slice(data));
            (got.len() == 22).then_some(())
        });
        assert_eq!(got, b"the stream's own bytes", "cut at {cut}");
        a.io.close(dialed.stream);
    }
}

fn bad_dialers_are_closed<S: TestSeed>() {
    let mut b = Node::<S>::start(WorldConfig { client_connections_max: 2, peer_connections_max: 2, ..config() });
    let long = vec![b'x'; 9000];
    for request in [&b"GET /stream HTTP/1.1\r\n\r\nearly"[..], b"GET /stream", &long] {
        let mut socket = TcpStream::connect(b.address()).expect("connected");
        let _ = socket.write_all(request);
        socket.set_read_timeout(Some(PATIENCE)).expect("set");
        let mut answer = Vec::new();
        // Closed or reset, but not answered.
        let _ = socket.read_to_end(&mut answer);
        assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    }
    // Their places are free again; a third connection is over the limit.
    let good: Vec<StreamId> = (0..2)
        .map(|_| {
            let mut socket = TcpStream::connect(b.address()).expect("connected");
            socket.write_all(STREAM).expect("written");
            socket.read_exact(&mut [0; OK.len()]).expect("the answer");
            let id = b.accepted();
            std::mem::forget(socket);
            id
        })
        .collect();
    let address = b.address();
    let over = || {
        let mut socket = TcpStream::connect(address).expect("connected");
        let _ = socket.write_all(STREAM);
        socket.read(&mut [0; 1]).unwrap_or(0)
    };
    assert_eq!(over(), 0);
    b.io.close(good[0]);
    assert_eq!(over(), 1);
}

fn send_file<S: TestSeed>(
    a: &mut Node<S>,
    b: &mut Node<S>,
    from: &Path,
    to: &Path,
    size: usize,
) -> Result<(), DialError> {
    a.io.send_file(SendFile {
        token: Token(5),
        address: b.address().to_string(),
        request: Bytes::from(format!("GET /file HTTP/1.1 {size} {}\r\n\r\n", to.display())),
        path: from.into(),
        timeout: PATIENCE,
    });
    wait(|| {
        a.turn();
        a.take(
            |c| matches!(c, Completion::FileSent { .. }),
            |c| match c {
                Completion::FileSent { token: Token(5), result } => result,
                other => panic!("{other:?}"),
            },
        )
    })
}

fn files_travel_whole_or_not_at_all<S: TestSeed>() {
    let dir = directory();
    let mut a = Node::<S>::start(config());
    let mut b = Node::<S>::start(config());
    let (from, to) = (dir.path().join("from"), dir.path().join("in/to"));
    for size in [0, 1, 3_000_123] {
        let content = pattern(0, size);
        std::fs::write(&from, &content).expect("written");
        send_file(&mut a, &mut b, &from, &to, size).expect("sent");
        let path = wait(|| {
            b.turn();
            b.take(
                |c| matches!(c, Completion::FileReceived { .. }),
                |c| match c {
                    Completion::FileReceived { path, greeting } => {
                        assert_eq!(greeting, b"/file"[..]);
                        path
                    }
                    other => panic!("{other:?}"),
                },
            )
        });
        assert!(std::fs::read(path).expect("read") == content);
        std::fs::remove_file(&to).expect("removed");
    }
    // The sender has less than it promised: the receiver gives up after a while, and leaves nothing behind.
    let result = send_file(&mut a, &mut b, &from, &to, 3_000_124);
    assert!(matches!(result, Err(DialError::Io(_))), "{result:?}");
    wait(|| (!to.exists()).then_some(()));
    b.turn();
    assert!(b.got.is_empty(), "{:?}", b.got);
    let missing = send_file(&mut a, &mut b, &dir.path().join("none"), &to, 1);
    assert_eq!(missing, Err(DialError::Io(ErrorKind::NotFound)));
}
