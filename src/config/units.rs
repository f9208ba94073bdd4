//! Sizes and durations as people write them.

use std::time::Duration;

const SIZES: [(&str, u64); 5] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

const DURATIONS_NS: [(&str, u64); 6] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("min", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads a size in bytes: `64MiB`, `512KiB`, `4096B`.
///
/// # Errors
/// What is wrong with it, and how to write one.
pub fn parse_size(text: &str) -> Result<u64, String> {
    parse(text, &SIZES)
        .ok_or_else(|| "is not a size; write a whole number and a unit, like 64MiB (B, KiB, MiB, GiB, TiB)".into())
}

/// Reads a duration: `10ms`, `2s`.
///
/// # Errors
/// What is wrong with it, and how to write one.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    parse(text, &DURATIONS_NS)
        .map(Duration::from_nanos)
        .ok_or_else(|| "is not a duration; write a whole number and a unit, like 10ms (ns, us, ms, s, min, h)".into())
}

/// Writes a size so that [`parse_size`] reads it.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    format(bytes, &SIZES)
}

/// Writes a duration so that [`parse_duration`] reads it; beyond 584 years it is cut.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    format(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), &DURATIONS_NS)
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..digits].parse().ok()?;
    let unit = text[digits..].trim_start_matches(' ');
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*factor)
}

/// In the largest unit that leaves a whole number.
fn format(number: u64, units: &[(&str, u64)]) -> String {
    let whole = |unit: &&(&str, u64)| number != 0 && number.is_multiple_of(unit.1);
    let (name, factor) = units.iter().rev().find(whole).unwrap_or(&units[0]);
    format!("{}{name}", number / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, want) in [("64MiB", 64 << 20), ("0B", 0), ("512 KiB", 512 << 10), ("1TiB", 1 << 40), ("4097B", 4097)]
        {
            assert_eq!(parse_size(text), Ok(want), "{text}");
            assert_eq!(parse_size(&format_size(want)), Ok(want), "{text}");
        }
        for text in ["", "64", "64MB", "MiB", "-1B", "1.5GiB", "64mib", "99999999999TiB", "99999999999999999999B", "ä"]
        {
            assert!(parse_size(text).unwrap_err().contains("64MiB"), "{text}");
        }
    }

    #[test]
    fn durations() {
        for (text, want_ms) in [("10ms", 10), ("2s", 2_000), ("5min", 300_000), ("1h", 3_600_000), ("3000us", 3)] {
            let want = Duration::from_millis(want_ms);
            assert_eq!(parse_duration(text), Ok(want), "{text}");
            assert_eq!(parse_duration(&format_duration(want)), Ok(want), "{text}");
        }
        for text in ["", "10", "ms", "10 m", "1.5s", "99999999999h"] {
            assert!(parse_duration(text).unwrap_err().contains("10ms"), "{text}");
        }
    }
}
