//! What a client asks: the free part of a request frame.

use bytes::BytesMut;

use super::{FLAG_SERIALIZABLE, FreeHeader, KEY_SIZE_MAX, Op, REPLY_BIT, Status, VALUE_SIZE_MAX, group_of};

/// Anything a client can ask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request<'a> {
    /// Change something: goes through the log.
    Write(Command<'a>),
    /// Read something.
    Read(Query<'a>),
    /// Ask the node about itself.
    Status,
}

/// A change, as it stands in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command<'a> {
    /// Set `key` to `value`.
    Put {
        /// 1 to [`KEY_SIZE_MAX`] bytes.
        key: &'a [u8],
        /// At most [`VALUE_SIZE_MAX`] bytes.
        value: &'a [u8],
    },
    /// Remove `key`.
    Delete {
        /// 1 to [`KEY_SIZE_MAX`] bytes.
        key: &'a [u8],
    },
}

/// A question about the state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Query<'a> {
    /// The value of `key`.
    Get {
        /// 1 to [`KEY_SIZE_MAX`] bytes.
        key: &'a [u8],
        /// Whether the node may answer from its own state, which may be behind.
        serializable: bool,
    },
    /// The keys from `start` on and before `end`, in order, of one group.
    Range {
        /// The first key; empty: from the first one there is.
        start: &'a [u8],
        /// The key behind the last; empty: to the last one there is.
        end: &'a [u8],
        /// How many at most; 0: as many as fit a reply.
        limit: u32,
        /// Which group is asked, counted from 0.
        group: u32,
        /// Whether the node may answer from its own state, which may be behind.
        serializable: bool,
    },
}

/// Why a request is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RequestError {
    /// The fields contradict each other.
    #[error("malformed request: {0}")]
    Malformed(&'static str),
    /// A key is too long.
    #[error("key of {size} bytes, at most {KEY_SIZE_MAX} are allowed")]
    KeyTooLarge {
        /// Its size.
        size: usize,
    },
    /// A value is too long.
    #[error("value of {size} bytes, at most {VALUE_SIZE_MAX} are allowed")]
    ValueTooLarge {
        /// Its size.
        size: usize,
    },
    /// No such operation.
    #[error("operation {0} is unknown to this version")]
    UnknownOp(u8),
    /// No such flag.
    #[error("flags {0:#04x} are unknown to this version or have no meaning for this operation")]
    UnknownFlags(u8),
}

impl RequestError {
    /// What the reply says.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            RequestError::Malformed(_) => Status::Malformed,
            RequestError::KeyTooLarge { .. } | RequestError::ValueTooLarge { .. } => Status::TooLarge,
            RequestError::UnknownOp(_) | RequestError::UnknownFlags(_) => Status::Unsupported,
        }
    }
}

impl<'a> Request<'a> {
    /// Reads the free part of a request frame.
    ///
    /// # Errors
    /// If it is none, or larger than allowed; answer with its [`status`](RequestError::status).
    pub fn decode(free: &'a [u8]) -> Result<Request<'a>, RequestError> {
        let (header, body) = FreeHeader::split(free).ok_or(RequestError::Malformed("shorter than a header"))?;
        if header.op & REPLY_BIT != 0 {
            return Err(RequestError::Malformed("a reply where a request belongs"));
        }
        let op = Op::from_u8(header.op).ok_or(RequestError::UnknownOp(header.op))?;
        let flags_known = if matches!(op, Op::Get | Op::Range) { FLAG_SERIALIZABLE } else { 0 };
        if header.flags & !flags_known != 0 {
            return Err(RequestError::UnknownFlags(header.flags));
        }
        if header.status != 0 {
            return Err(RequestError::Malformed("a status in a request"));
        }
        if op != Op::Range && header.arg != 0 {
            return Err(RequestError::Malformed("an arg where none has a meaning"));
        }
        let key_len = usize::try_from(header.key_len).unwrap_or(usize::MAX);
        let (key, rest) = body.split_at_checked(key_len).ok_or(RequestError::Malformed("key beyond the body"))?;
        let serializable = header.flags & FLAG_SERIALIZABLE != 0;
        let request = match op {
            Op::Put => Request::Write(Command::Put { key, value: rest }),
            Op::Delete => Request::Write(Command::Delete { key }),
            Op::Get => Request::Read(Query::Get { key, serializable }),
            Op::Range => Request::Read(Query::Range {
                start: key,
                end: rest,
                limit: low(header.arg),
                group: low(header.arg >> 32),
                serializable,
            }),
            Op::Status => Request::Status,
        };
        if !matches!(op, Op::Put | Op::Range) && !rest.is_empty() {
            return Err(RequestError::Malformed("bytes behind the key"));
        }
        if op == Op::Status && !key.is_empty() {
            return Err(RequestError::Malformed("a key where none has a meaning"));
        }
        request.check()?;
        Ok(request)
    }

    /// Appends the free part of a request frame.
    ///
    /// # Panics
    /// If it breaks a rule of [`check`](Request::check).
    pub fn encode(&self, out: &mut BytesMut) {
        if let Err(error) = self.check() {
            panic!("a request is checked before it is encoded: {error}");
        }
        let (op, flags, key, rest, arg): (Op, bool, &[u8], &[u8], u64) = match *self {
            Request::Write(Command::Put { key, value }) => (Op::Put, false, key, value, 0),
            Request::Write(Command::Delete { key }) => (Op::Delete, false, key, b"", 0),
            Request::Read(Query::Get { key, serializable }) => (Op::Get, serializable, key, b"", 0),
            Request::Read(Query::Range { start, end, limit, group, serializable }) => {
                (Op::Range, serializable, start, end, u64::from(group) << 32 | u64::from(limit))
            }
            Request::Status => (Op::Status, false, b"", b"", 0),
        };
        let header = FreeHeader {
            op: op as u8,
            flags: if flags { FLAG_SERIALIZABLE } else { 0 },
            status: 0,
            key_len: u32::try_from(key.len()).expect("checked"),
            arg,
        };
        out.reserve(super::FREE_HEADER_SIZE + key.len() + rest.len());
        out.extend_from_slice(&header.encode());
        out.extend_from_slice(key);
        out.extend_from_slice(rest);
    }

    /// Whether keys and values have an allowed size.
    ///
    /// # Errors
    /// If not.
    pub fn check(&self) -> Result<(), RequestError> {
        match *self {
            Request::Write(Command::Put { key, value }) => {
                check_key(key)?;
                if value.len() > VALUE_SIZE_MAX {
                    return Err(RequestError::ValueTooLarge { size: value.len() });
                }
                Ok(())
            }
            Request::Write(Command::Delete { key }) | Request::Read(Query::Get { key, .. }) => check_key(key),
            Request::Read(Query::Range { start, end, .. }) => {
                let size = start.len().max(end.len());
                if size > KEY_SIZE_MAX { Err(RequestError::KeyTooLarge { size }) } else { Ok(()) }
            }
            Request::Status => Ok(()),
        }
    }

    /// The group it is for, counted from 0; `None`: none, or (a range) one that does not exist.
    #[must_use]
    pub fn group(&self, groups: u64) -> Option<u64> {
        match *self {
            Request::Write(Command::Put { key, .. } | Command::Delete { key })
            | Request::Read(Query::Get { key, .. }) => Some(group_of(key, groups)),
            Request::Read(Query::Range { group, .. }) => Some(u64::from(group)).filter(|group| *group < groups),
            Request::Status => None,
        }
    }

    /// Its operation.
    #[must_use]
    pub fn op(&self) -> Op {
        match self {
            Request::Write(Command::Put { .. }) => Op::Put,
            Request::Write(Command::Delete { .. }) => Op::Delete,
            Request::Read(Query::Get { .. }) => Op::Get,
            Request::Read(Query::Range { .. }) => Op::Range,
            Request::Status => Op::Status,
        }
    }
}

impl<'a> Command<'a> {
    /// Reads a command as it stands in the log.
    ///
    /// # Errors
    /// If it is none.
    pub fn decode(free: &'a [u8]) -> Result<Command<'a>, RequestError> {
        match Request::decode(free)? {
            Request::Write(command) => Ok(command),
            Request::Read(_) | Request::Status => Err(RequestError::Malformed("not a command")),
        }
    }

    /// Appends the command as it stands in the log.
    ///
    /// # Panics
    /// If a key or value has no allowed size.
    pub fn encode(&self, out: &mut BytesMut) {
        Request::Write(*self).encode(out);
    }
}

impl<'a> Query<'a> {
    /// Reads a query.
    ///
    /// # Errors
    /// If it is none.
    pub fn decode(free: &'a [u8]) -> Result<Query<'a>, RequestError> {
        match Request::decode(free)? {
            Request::Read(query) => Ok(query),
            Request::Write(_) | Request::Status => Err(RequestError::Malformed("not a query")),
        }
    }

    /// Appends the query.
    ///
    /// # Panics
    /// If a key has no allowed size.
    pub fn encode(&self, out: &mut BytesMut) {
        Request::Read(*self).encode(out);
    }

    /// Whether the node may answer from its own state, which may be behind.
    #[must_use]
    pub fn serializable(&self) -> bool {
        match self {
            Query::Get { serializable, .. } | Query::Range { serializable, .. } => *serializable,
        }
    }
}

fn check_key(key: &[u8]) -> Result<(), RequestError> {
    match key.len() {
        0 => Err(RequestError::Malformed("an empty key")),
        1..=KEY_SIZE_MAX => Ok(()),
        size => Err(RequestError::KeyTooLarge { size }),
    }
}

/// The lower half.
fn low(number: u64) -> u32 {
    u32::try_from(number & u64::from(u32::MAX)).expect("masked")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn round_trip() {
        for request in [
            Request::Write(Command::Put { key: b"k", value: b"" }),
            Request::Write(Command::Put { key: &[7; KEY_SIZE_MAX], value: &[8; VALUE_SIZE_MAX] }),
            Request::Write(Command::Delete { key: b"\0" }),
            Request::Read(Query::Get { key: b"k", serializable: false }),
            Request::Read(Query::Get { key: b"k", serializable: true }),
            Request::Read(Query::Range { start: b"", end: b"", limit: 0, group: 0, serializable: false }),
            Request::Read(Query::Range { start: b"a", end: b"b", limit: 9, group: u32::MAX, serializable: true }),
            Request::Status,
        ] {
            let mut free = BytesMut::new();
            request.encode(&mut free);
            assert_eq!(Request::decode(&free), Ok(request));
            assert_eq!(free[0], request.op() as u8);
        }
    }

    #[test]
    fn refuses() {
        let valid = |edit: &dyn Fn(&mut Vec<u8>)| {
            let mut free = BytesMut::new();
            Command::Delete { key: b"key" }.encode(&mut free);
            let mut free = free.to_vec();
            edit(&mut free);
            Request::decode(&free).map(|_| ()).map_err(|error| (error.status(), error.to_string()))
        };
        let check = |edit: &dyn Fn(&mut Vec<u8>), status: Status, text: &str| {
            let (found, message) = valid(edit).unwrap_err();
            assert_eq!(found, status, "{message}");
            assert!(message.contains(text), "{message}");
        };
        assert_eq!(valid(&|_| ()), Ok(()));
        check(&|free| free.truncate(15), Status::Malformed, "shorter");
        check(&|free| free[0] = 0, Status::Unsupported, "operation 0");
        check(&|free| free[0] = 6, Status::Unsupported, "operation 6");
        check(&|free| free[0] = 0x83, Status::Malformed, "a reply");
        check(&|free| free[1] = 1, Status::Unsupported, "0x01");
        check(&|free| free[2] = 1, Status::Malformed, "status");
        check(&|free| free[4] = 4, Status::Malformed, "beyond");
        check(&|free| free[4] = 2, Status::Malformed, "behind");
        check(&|free| free[7] = 255, Status::Malformed, "beyond");
        check(&|free| free[8] = 1, Status::Malformed, "arg");
        check(&|free| free.push(0), Status::Malformed, "behind");
        check(&|free| free[0] = 5, Status::Malformed, "a key where none");
        let large = |size: usize| {
            move |free: &mut Vec<u8>| {
                free[4..8].copy_from_slice(&u32::try_from(size).unwrap().to_le_bytes());
                free.resize(16 + size, 0);
            }
        };
        check(&large(0), Status::Malformed, "empty key");
        check(&large(KEY_SIZE_MAX + 1), Status::TooLarge, "key of 4097 bytes");
        check(
            &|free| {
                free[0] = 1;
                free.resize(16 + 3 + VALUE_SIZE_MAX + 1, 0);
            },
            Status::TooLarge,
            "value of 1048577 bytes",
        );
    }

    proptest! {
        #[test]
        fn noise_decodes_to_itself_or_not_at_all(
            op in 0_u8..7, flags in 0_u8..3, key in 0_u8..5, body in prop::collection::vec(any::<u8>(), 0..8),
        ) {
            let mut free = vec![op, flags, 0, 0, key, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            free.extend(body);
            if let Ok(request) = Request::decode(&free) {
                let mut again = BytesMut::new();
                request.encode(&mut again);
                prop_assert_eq!(&again[..], &free[..]);
            }
        }
    }
}
