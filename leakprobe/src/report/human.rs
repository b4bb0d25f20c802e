//! Numbers as people read them: `1.5 MiB`, `10,240`, `1m 30s`. Exact figures are in the JSON.

use std::time::Duration;

/// Bytes with a binary unit and one decimal: `512 B`, `1.5 MiB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut units = UNITS.iter();
    let mut unit = units.next();
    // Below this, one decimal does not round up to 1024.0.
    while value >= 1023.95 && units.len() > 0 {
        value /= 1024.0;
        unit = units.next();
    }
    format!("{value:.1} {}", unit.unwrap_or(&"EiB"))
}

/// Bytes as somebody chose them: `512 KiB`.
pub fn round_bytes(amount: u64) -> String {
    bytes(amount).replacen(".0 ", " ", 1)
}

/// The bytes between two, with one unit if that is enough: `1.5 to 2.0 MiB`.
pub fn bytes_between((low, high): (u64, u64)) -> String {
    let (low, high) = (bytes(low), bytes(high));
    match (low.split_once(' '), high.split_once(' ')) {
        (Some((figure, unit)), Some((_, other))) if unit == other => format!("{figure} to {high}"),
        _ => format!("{low} to {high}"),
    }
}

/// A count with a comma between thousands.
pub fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count of blocks: `1 block`, `10,240 blocks`.
pub fn blocks(blocks: u64) -> String {
    match blocks {
        1 => "1 block".to_string(),
        _ => format!("{} blocks", count(blocks)),
    }
}

/// Nanoseconds in the two units that matter: `850ms`, `12.3s`, `1m 30s`, `2h 05m`, `3d 04h`.
pub fn duration(nanoseconds: u64) -> String {
    let duration = Duration::from_nanos(nanoseconds);
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{}ms", duration.as_millis()),
        // Tenths are cut off, not rounded: 59.96 s is not 60.0 s.
        1..60 => format!("{seconds}.{}s", duration.subsec_millis() / 100),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// A share in percent with one decimal; what is there but rounds to nothing is `<0.1%`.
pub fn share(part: u64, whole: u64) -> String {
    let percent = match whole {
        0 => 0.0,
        _ => part as f64 * 100.0 / whole as f64,
    };
    match part {
        1.. if percent < 0.1 => "<0.1%".to_string(),
        _ => format!("{percent:.1}%"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_a_unit() {
        for (value, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536 * 1024, "1.5 MiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(value), expected);
        }
    }

    #[test]
    fn bytes_of_samples() {
        assert_eq!(round_bytes(512 * 1024), "512 KiB");
        assert_eq!(round_bytes(1 << 30), "1 GiB");
        assert_eq!(round_bytes(1000), "1000 B");
        assert_eq!(bytes_between((1536, 2048)), "1.5 to 2.0 KiB");
        assert_eq!(bytes_between((1023, 2048)), "1023 B to 2.0 KiB");
        assert_eq!(bytes_between((0, 0)), "0 to 0 B");
    }

    #[test]
    fn counts_have_thousands() {
        for (value, expected) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(count(value), expected);
        }
        assert_eq!(blocks(1), "1 block");
        assert_eq!(blocks(1000), "1,000 blocks");
    }

    #[test]
    fn durations_have_two_units_at_most() {
        for (millis, expected) in [
            (0, "0ms"),
            (850, "850ms"),
            (12_345, "12.3s"),
            (59_999, "59.9s"),
            (90_000, "1m 30s"),
            (7_500_000, "2h 05m"),
            (273_600_000, "3d 04h"),
        ] {
            assert_eq!(duration(millis * 1_000_000), expected);
        }
    }

    #[test]
    fn shares() {
        for (part, whole, expected) in [
            (0, 0, "0.0%"),
            (1, 1, "100.0%"),
            (1, 3, "33.3%"),
            (1, 100_000, "<0.1%"),
            (0, 5, "0.0%"),
        ] {
            assert_eq!(share(part, whole), expected);
        }
    }
}
