//! The heads of a client connection: version and what a client needs to know of the node.
//!
//! ```text
//! GET /ringraft/client HTTP/1.1        HTTP/1.1 200 OK
//! Host: 10.0.0.1:7001                  X-Ringraft-Version: 1
//! X-Ringraft-Version: 1                X-Ringraft-Node: 1
//! X-Ringraft-Shard: 2   (optional)     X-Ringraft-Shards: 8
//!                                      X-Ringraft-Groups: 64
//! ```
//!
//! A refusal has another status than `200` and the reason as its text. Names of headers are matched without regard to
//! case; unknown ones are ignored.

use bytes::Bytes;

use super::PROTOCOL_VERSION;

/// The path of a client connection.
pub const CLIENT_PATH: &str = "/ringraft/client";

const VERSION: &str = "X-Ringraft-Version";
const NODE: &str = "X-Ringraft-Node";
const SHARD: &str = "X-Ringraft-Shard";
const SHARDS: &str = "X-Ringraft-Shards";
const GROUPS: &str = "X-Ringraft-Groups";

/// What a client says first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Hello {
    /// The shard that it would like to talk to, counted from 0; a node that has no such shard chooses another.
    pub shard: Option<u16>,
}

/// What the node says first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Welcome {
    /// Its id.
    pub node: u64,
    /// Its number of shards.
    pub shards: u16,
    /// The cluster's number of groups; at least 1.
    pub groups: u64,
}

/// Why a head was not accepted.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HeadError {
    /// It is for something else.
    #[error("not a client connection: the path must be {CLIENT_PATH}")]
    Path,
    /// A version that this program does not speak.
    #[error("protocol version {0} is not spoken here, only {PROTOCOL_VERSION}")]
    Version(String),
    /// A header is missing or makes no sense.
    #[error("header {0} is missing or malformed")]
    Header(&'static str),
    /// The other side has refused.
    #[error("refused with status {status}: {text}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The rest of the status line.
        text: String,
    },
    /// Not a head at all.
    #[error("the other side does not speak this protocol")]
    Garbage,
}

/// The client's head; `host` is the address it has dialed.
#[must_use]
pub fn request_head(host: &str, hello: &Hello) -> Bytes {
    let host: String = host.chars().filter(|c| !c.is_control()).collect();
    let mut head = format!("GET {CLIENT_PATH} HTTP/1.1\r\nHost: {host}\r\n{VERSION}: {PROTOCOL_VERSION}\r\n");
    if let Some(shard) = hello.shard {
        head += &format!("{SHARD}: {shard}\r\n");
    }
    head += "\r\n";
    Bytes::from(head)
}

/// Whether a request head is for a client connection, of whatever version.
#[must_use]
pub fn is_client_request(head: &[u8]) -> bool {
    matches!(lines(head), Ok((first, _)) if request_path(first) == Some(CLIENT_PATH))
}

/// Reads the client's head.
///
/// # Errors
/// If it must be refused; see [`refusal_head`].
pub fn judge_request(head: &[u8]) -> Result<Hello, HeadError> {
    let (first, headers) = lines(head)?;
    if request_path(first) != Some(CLIENT_PATH) {
        return Err(HeadError::Path);
    }
    check_version(headers)?;
    let shard = match find(headers, SHARD) {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| HeadError::Header(SHARD))?),
    };
    Ok(Hello { shard })
}

/// The node's head.
#[must_use]
pub fn response_head(welcome: &Welcome) -> Bytes {
    let Welcome { node, shards, groups } = welcome;
    Bytes::from(format!(
        "HTTP/1.1 200 OK\r\n{VERSION}: {PROTOCOL_VERSION}\r\n{NODE}: {node}\r\n{SHARDS}: {shards}\r\n\
         {GROUPS}: {groups}\r\n\r\n"
    ))
}

/// The head that refuses a client's.
#[must_use]
pub fn refusal_head(error: &HeadError) -> Bytes {
    let status = match error {
        HeadError::Path => 404,
        HeadError::Version(_) => 426,
        HeadError::Header(_) | HeadError::Garbage => 400,
        HeadError::Refused { status, .. } => *status,
    };
    let text: String = error.to_string().chars().filter(|c| !c.is_control()).take(200).collect();
    Bytes::from(format!("HTTP/1.1 {status} {text}\r\n{VERSION}: {PROTOCOL_VERSION}\r\nConnection: close\r\n\r\n"))
}

/// Reads the node's head.
///
/// # Errors
/// If it refuses or is none.
pub fn judge_response(head: &[u8]) -> Result<Welcome, HeadError> {
    let status = ringraft_io::head::status(head).ok_or(HeadError::Garbage)?;
    let (first, headers) = lines(head)?;
    if status != 200 {
        let text = first.splitn(3, ' ').nth(2).unwrap_or_default().to_owned();
        return Err(HeadError::Refused { status, text });
    }
    check_version(headers)?;
    Ok(Welcome {
        node: number(headers, NODE)?,
        shards: number(headers, SHARDS)?,
        groups: number(headers, GROUPS).and_then(|n| if n == 0 { Err(HeadError::Header(GROUPS)) } else { Ok(n) })?,
    })
}

/// The first line and the rest.
fn lines(head: &[u8]) -> Result<(&str, &str), HeadError> {
    let head = std::str::from_utf8(head).map_err(|_| HeadError::Garbage)?;
    let head = head.strip_suffix("\r\n\r\n").ok_or(HeadError::Garbage)?;
    Ok(head.split_once("\r\n").unwrap_or((head, "")))
}

fn request_path(line: &str) -> Option<&str> {
    line.strip_prefix("GET ")?.strip_suffix(" HTTP/1.1")
}

fn check_version(headers: &str) -> Result<(), HeadError> {
    let version = find(headers, VERSION).ok_or(HeadError::Header(VERSION))?;
    if version.parse() == Ok(PROTOCOL_VERSION) {
        Ok(())
    } else {
        Err(HeadError::Version(version.chars().take(20).collect()))
    }
}

fn find<'a>(headers: &'a str, name: &str) -> Option<&'a str> {
    headers.split("\r\n").find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

fn number<T: std::str::FromStr>(headers: &str, name: &'static str) -> Result<T, HeadError> {
    find(headers, name).and_then(|text| text.parse().ok()).ok_or(HeadError::Header(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greet() {
        for hello in [Hello { shard: None }, Hello { shard: Some(3) }] {
            assert_eq!(judge_request(&request_head("localhost:1\r\nX: y", &hello)), Ok(hello));
            assert!(is_client_request(&request_head("localhost", &hello)));
        }
        let welcome = Welcome { node: 3, shards: 2, groups: 64 };
        assert_eq!(judge_response(&response_head(&welcome)), Ok(welcome));
    }

    #[test]
    fn refuse() {
        for (head, want) in [
            ("GET /ringraft/peer HTTP/1.1\r\n\r\n", HeadError::Path),
            ("POST /ringraft/client HTTP/1.1\r\n\r\n", HeadError::Path),
            ("GET /ringraft/client HTTP/1.1\r\n\r\n", HeadError::Header(VERSION)),
            ("GET /ringraft/client HTTP/1.1\r\nx-ringraft-version: 2\r\n\r\n", HeadError::Version("2".into())),
            (
                "GET /ringraft/client HTTP/1.1\r\nX-Ringraft-Version: 1\r\nX-Ringraft-Shard: x\r\n\r\n",
                HeadError::Header(SHARD),
            ),
            ("GET /ringraft/client HTTP/1.1\r\n", HeadError::Garbage),
        ] {
            let found = judge_request(head.as_bytes());
            assert_eq!(found, Err(want), "{head}");
            let refusal = judge_response(&refusal_head(&found.unwrap_err()));
            assert!(matches!(refusal, Err(HeadError::Refused { .. })), "{refusal:?}");
        }
        for (head, want) in [
            (&b"SSH-2.0\r\n\r\n"[..], HeadError::Garbage),
            (b"HTTP/1.1 200 \xff\r\n\r\n", HeadError::Garbage),
            (b"HTTP/1.1 200 OK\r\n\r\n", HeadError::Header(VERSION)),
            (b"HTTP/1.1 200 OK\r\nX-Ringraft-Version: 1\r\n\r\n", HeadError::Header(NODE)),
            (b"HTTP/1.1 503 busy now\r\n\r\n", HeadError::Refused { status: 503, text: "busy now".into() }),
        ] {
            assert_eq!(judge_response(head), Err(want));
        }
    }
}
