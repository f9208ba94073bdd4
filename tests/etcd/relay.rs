//! A relay in front of a listener: what goes through it can be cut.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

pub(crate) struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    target: SocketAddr,
    /// Both sides of every connection.
    open: Mutex<Vec<TcpStream>>,
    /// Connections ever made through it.
    made: AtomicUsize,
    stopped: AtomicBool,
}

impl Relay {
    /// Passes everything on to this port.
    pub(crate) fn to(port: u16) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            target: SocketAddr::from(([127, 0, 0, 1], port)),
            open: Mutex::default(),
            made: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
        });
        let inside = shared.clone();
        std::thread::spawn(move || {
            for near in listener.incoming() {
                if inside.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(near) = near else { continue };
                // Nobody there: dropping our side is what its dialer would see.
                let Ok(far) = TcpStream::connect(inside.target) else { continue };
                let mut open = inside.open.lock().unwrap();
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    open.push(from.try_clone().unwrap());
                    std::thread::spawn(move || {
                        let mut piece = [0; 16 * 1024];
                        while let Ok(size @ 1..) = from.read(&mut piece) {
                            if to.write_all(&piece[..size]).is_err() {
                                break;
                            }
                        }
                        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
                    });
                }
                inside.made.fetch_add(1, Ordering::SeqCst);
            }
        });
        Relay { address, shared }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Connections ever made through it.
    pub(crate) fn made(&self) -> usize {
        self.shared.made.load(Ordering::SeqCst)
    }

    /// Cuts every connection that is open now.
    pub(crate) fn cut(&self) {
        for stream in self.shared.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.cut();
        let _ = TcpStream::connect(self.address);
    }
}
