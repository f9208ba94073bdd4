//! Mutations of bytes, the same ones every time.

/// Splitmix64.
pub(crate) struct Dice(u64);

impl Dice {
    /// Those of one round of one target.
    pub(crate) fn new(target: &str, round: usize) -> Dice {
        Dice(hash(target.as_bytes()) ^ (round as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0..bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.roll() % bound as u64).expect("below a usize")
    }

    /// A piece of so many bytes: where it begins and ends. Mostly a short one.
    fn piece(&mut self, len: usize) -> (usize, usize) {
        let longest = if self.below(3) == 0 { len } else { len.min(16) };
        let size = 1 + self.below(longest);
        let from = self.below(len - size + 1);
        (from, from + size)
    }
}

/// FNV-1a.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

/// Numbers at which something may change.
const EDGES: [u64; 12] =
    [0, 1, 2, 7, 8, 255, 256, 0xffff, 0x7fff_ffff, 0xffff_ffff, 0x7fff_ffff_ffff_ffff, 0xffff_ffff_ffff_ffff];

/// `bytes`, changed in one to four places.
pub(crate) fn mutate(dice: &mut Dice, bytes: &[u8], other: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for _ in 0..=dice.below(4) {
        once(dice, &mut out, other);
    }
    out
}

fn once(dice: &mut Dice, out: &mut Vec<u8>, other: &[u8]) {
    if out.is_empty() {
        out.extend_from_slice(other);
    }
    if out.is_empty() {
        return;
    }
    let (from, to) = dice.piece(out.len());
    match dice.below(9) {
        0 => out[from] ^= 1 << dice.below(8),
        1 => out[from] = dice.roll().to_le_bytes()[0],
        2 => drop(out.drain(from..to)),
        // Doubled.
        3 => {
            let piece = out[from..to].to_vec();
            drop(out.splice(to..to, piece));
        }
        // Two pieces, swapped.
        4 => out[from..].rotate_left(to - from),
        5 => {
            let piece: Vec<u8> = (0..1 + dice.below(8)).map(|_| dice.roll().to_le_bytes()[0]).collect();
            drop(out.splice(from..from, piece));
        }
        // A number on its edge, in either order of bytes, a little off now and then.
        6 => {
            let edge = EDGES[dice.below(EDGES.len())].wrapping_add(dice.below(3) as u64).wrapping_sub(1);
            let width = [1, 2, 4, 8][dice.below(4)];
            let mut number = edge.to_le_bytes();
            if dice.below(2) == 0 {
                number[..width].reverse();
            }
            let end = (from + width).min(out.len());
            out[from..end].copy_from_slice(&number[..end - from]);
        }
        // A digit, if it is a text.
        7 => {
            if let Some(at) = (from..out.len()).find(|at| out[*at].is_ascii_digit()) {
                out[at] = b'0' + dice.roll().to_le_bytes()[0] % 10;
            }
        }
        // A piece of another file.
        _ => {
            if !other.is_empty() {
                let (begin, end) = dice.piece(other.len());
                drop(out.splice(from..from, other[begin..end].iter().copied()));
            }
        }
    }
}
