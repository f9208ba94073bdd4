//! The head of a connection: how a dialer and a listener greet each other before the stream's own protocol begins.
//!
//! A head is an HTTP/1.1 message head: lines ending in CR LF, closed by an empty line, at most [`HEAD_MAX`] bytes. The
//! dialer sends a request head and waits; the listener answers with a response head; after a `2xx` status the bytes of
//! the stream's own protocol follow. What the lines say is the business of those who make and judge them; this module
//! only finds the end and the status.

/// Longest head accepted, in bytes.
pub const HEAD_MAX: usize = 8 * 1024;

const END: &[u8] = b"\r\n\r\n";

/// Length of the head that `bytes` starts with, the closing empty line included; `None` while it is incomplete.
#[must_use]
pub fn head_len(bytes: &[u8]) -> Option<usize> {
    bytes.windows(END.len()).position(|window| window == END).map(|at| at + END.len())
}

/// The status code of a response head (100 to 999); `None` if it is not one.
#[must_use]
pub fn status(head: &[u8]) -> Option<u16> {
    let rest = head.strip_prefix(b"HTTP/1.1 ")?;
    let digits = rest.get(..3)?;
    if rest.get(3).is_none_or(|byte| *byte != b' ' && *byte != b'\r') {
        return None;
    }
    let text = std::str::from_utf8(digits).ok()?;
    text.parse().ok().filter(|code| (100..1000).contains(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_end() {
        for (bytes, want) in [
            (&b""[..], None),
            (b"GET / HTTP/1.1\r\n", None),
            (b"GET / HTTP/1.1\r\n\r", None),
            (b"GET / HTTP/1.1\r\n\r\n", Some(18)),
            (b"GET / HTTP/1.1\r\na: b\r\n\r\nrest", Some(24)),
        ] {
            assert_eq!(head_len(bytes), want, "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn reads_the_status() {
        for (head, want) in [
            (&b"HTTP/1.1 200 OK\r\n\r\n"[..], Some(200)),
            (b"HTTP/1.1 412 Precondition Failed\r\n\r\n", Some(412)),
            (b"HTTP/1.1 204\r\n\r\n", Some(204)),
            (b"HTTP/1.0 200 OK\r\n\r\n", None),
            (b"HTTP/1.1 20\r\n\r\n", None),
            (b"HTTP/1.1 099 X\r\n\r\n", None),
            (b"HTTP/1.1 +20 X\r\n\r\n", None),
            (b"", None),
        ] {
            assert_eq!(status(head), want, "{}", String::from_utf8_lossy(head));
        }
    }
}
