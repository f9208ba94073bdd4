//! Which keys the load writes, what it writes there, and what must be found there afterwards.

/// Every client has keys of its own and writes them round and round, so what a key must hold is known without asking:
/// the last acknowledged write, or a later one that was attempted.
#[derive(Clone, Debug)]
pub struct Keys {
    per_client: u64,
    value_size: usize,
    prefix: String,
    /// By client, then key.
    keys: Vec<Key>,
}

#[derive(Clone, Copy, Default, Debug)]
struct Key {
    attempted: u64,
    acked: u64,
}

/// A value begins with the number of its write; shorter ones cannot be told apart.
pub const VALUE_SIZE_MIN: usize = 8;

impl Keys {
    /// `per_client` keys for each of `clients`, values of `value_size` bytes, names that begin with `prefix`.
    #[must_use]
    pub fn new(clients: usize, per_client: u64, value_size: usize, prefix: &str) -> Keys {
        assert!(per_client > 0 && value_size >= VALUE_SIZE_MIN, "checked where the flags are read");
        let count = clients * usize::try_from(per_client).expect("fits memory");
        Keys { per_client, value_size, prefix: prefix.to_owned(), keys: vec![Key::default(); count] }
    }

    fn at(&self, client: usize, key: u64) -> usize {
        client * usize::try_from(self.per_client).expect("fits memory") + usize::try_from(key).expect("fits memory")
    }

    /// The key after `key`, round and round.
    #[must_use]
    pub fn after(&self, key: u64) -> u64 {
        (key + 1) % self.per_client
    }

    /// The highest key below `key` that has an acknowledged write: from [`Keys::per_client`] down, each is found once.
    #[must_use]
    pub fn acked_below(&self, client: usize, key: u64) -> Option<u64> {
        (0..key).rev().find(|key| self.keys[self.at(client, *key)].acked > 0)
    }

    /// Keys of each client.
    #[must_use]
    pub fn per_client(&self) -> u64 {
        self.per_client
    }

    /// The name of a key.
    #[must_use]
    pub fn name(&self, client: usize, key: u64) -> Vec<u8> {
        format!("{}{client:05}-{key:06}", self.prefix).into_bytes()
    }

    /// A write begins: its number.
    pub fn begin_write(&mut self, client: usize, key: u64) -> u64 {
        let at = self.at(client, key);
        self.keys[at].attempted += 1;
        self.keys[at].attempted
    }

    /// A write was acknowledged.
    pub fn acknowledge(&mut self, client: usize, key: u64, sequence: u64) {
        let at = self.at(client, key);
        self.keys[at].acked = self.keys[at].acked.max(sequence);
    }

    /// Keys with an acknowledged write.
    #[must_use]
    pub fn acked_count(&self) -> u64 {
        self.keys.iter().filter(|key| key.acked > 0).count() as u64
    }

    /// What write number `sequence` of a key puts there: the number, then bytes that follow from all three.
    pub fn value(&self, client: usize, key: u64, sequence: u64, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&sequence.to_le_bytes());
        let mut state = sequence ^ key.rotate_left(24) ^ (client as u64).rotate_left(48) ^ 0x9e37_79b9_7f4a_7c15;
        while out.len() < self.value_size {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            out.extend_from_slice(&state.to_le_bytes());
        }
        out.truncate(self.value_size);
    }

    /// Whether what was found under a key may be there.
    ///
    /// # Errors
    /// What is wrong, for a person.
    pub fn check(&self, client: usize, key: u64, found: Option<&[u8]>) -> Result<(), String> {
        let Key { attempted, acked } = self.keys[self.at(client, key)];
        let name = String::from_utf8(self.name(client, key)).expect("it is text");
        let Some(found) = found else { return Err(format!("{name}: missing, write {acked} was acknowledged")) };
        let Some(number) = found.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)) else {
            return Err(format!("{name}: {} bytes were never written there", found.len()));
        };
        if number < acked || number > attempted {
            return Err(format!("{name}: holds write {number}, acknowledged {acked}, attempted {attempted}"));
        }
        let mut want = Vec::new();
        self.value(client, key, number, &mut want);
        if want == found { Ok(()) } else { Err(format!("{name}: the bytes of write {number} are damaged")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_acknowledged_key_is_visited_once() {
        let mut keys = Keys::new(2, 5, 16, "k");
        for key in [0, 2, 4] {
            let sequence = keys.begin_write(1, key);
            keys.acknowledge(1, key, sequence);
        }
        let mut seen = Vec::new();
        let mut below = keys.per_client();
        while let Some(key) = keys.acked_below(1, below) {
            seen.push(key);
            below = key;
        }
        assert_eq!(seen, [4, 2, 0]);
        assert_eq!((keys.acked_below(0, 5), keys.acked_count()), (None, 3));
    }

    #[test]
    fn what_may_be_found() {
        let mut keys = Keys::new(1, 1, 40, "k");
        let value = |keys: &Keys, sequence| {
            let mut out = Vec::new();
            keys.value(0, 0, sequence, &mut out);
            out
        };
        for _ in 0..3 {
            keys.begin_write(0, 0);
        }
        keys.acknowledge(0, 0, 2);
        assert!(keys.check(0, 0, None).is_err());
        assert!(keys.check(0, 0, Some(&value(&keys, 1))).is_err(), "older than acknowledged");
        assert!(keys.check(0, 0, Some(&value(&keys, 2))).is_ok());
        assert!(keys.check(0, 0, Some(&value(&keys, 3))).is_ok(), "attempted, outcome unknown");
        assert!(keys.check(0, 0, Some(&value(&keys, 4))).is_err(), "never attempted");
        let mut damaged = value(&keys, 2);
        damaged[20] ^= 1;
        assert!(keys.check(0, 0, Some(&damaged)).is_err());
    }
}
