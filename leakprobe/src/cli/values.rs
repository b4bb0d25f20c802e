//! Values as people write them: durations, sizes, process ids. Each parser's error is the end of a
//! sentence that clap starts with the option's name, and says what to write instead.

use std::time::Duration;

/// Reads `30s`, `500ms`, `1m30s`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let value = humantime::parse_duration(text.trim())
        .map_err(|_| "write a number with its unit, such as 500ms, 30s, 5m or 1m30s".to_string())?;
    // Everything else counts nanoseconds in 64 bits.
    if u64::try_from(value.as_nanos()).is_err() {
        return Err("longer than 500 years; write something shorter".to_string());
    }
    Ok(value)
}

/// Reads a size in bytes: `4096`, `64KiB`, `10MB`, `1.5MiB`. As for the GNU tools `64K` is 64 KiB
/// and `64KB` is 64 000 bytes. A fraction of a byte is cut off.
pub fn size(text: &str) -> Result<u64, String> {
    let advice =
        || "write bytes or a number with its unit, such as 4096, 64KiB or 10MB".to_string();
    let text = text.trim();
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let unit = unit(suffix.trim_start()).ok_or_else(advice)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    // 18 digits are finer than a byte of the largest unit, and times that unit still fit in 128 bits.
    if whole.is_empty() || fraction.len() > 18 || fraction.contains('.') {
        return Err(advice());
    }
    let too_large = || format!("more than the largest size there is, {} bytes", u64::MAX);
    let whole: u128 = whole.parse().map_err(|_| too_large())?;
    let fraction_of_unit = match fraction.parse::<u128>() {
        Ok(digits) => digits * unit / 10u128.pow(fraction.len() as u32),
        Err(_) => 0,
    };
    whole
        .checked_mul(unit)
        .and_then(|bytes| bytes.checked_add(fraction_of_unit))
        .and_then(|bytes| u64::try_from(bytes).ok())
        .ok_or_else(too_large)
}

/// Reads the size of which one block is recorded. Above the limit the smallest blocks would have no
/// probability of their own any more.
pub fn sample_bytes(text: &str) -> Result<u64, String> {
    const LIMIT: u64 = 1 << 30;
    match size(text)? {
        bytes if bytes > LIMIT => {
            Err("more than 1GiB; 512KiB costs little already, 0 records every block".to_string())
        }
        bytes => Ok(bytes),
    }
}

/// Reads of how many pages one is recorded, rounded up to a power of two.
pub fn sample_pages(text: &str) -> Result<u64, String> {
    const LIMIT: u64 = 1 << 16;
    match text.trim().parse::<u64>() {
        Ok(pages @ 1..=LIMIT) => Ok(pages.next_power_of_two()),
        _ => Err(format!(
            "write a number from 1, for every page, to {LIMIT}, such as 64"
        )),
    }
}

/// Reads `5`, `0.5`, `5%` into hundredths of a percent.
pub fn percent(text: &str) -> Result<u32, String> {
    hundredths(text)
        .filter(|hundredths| (10..=9000).contains(hundredths))
        .ok_or_else(|| "write a percentage from 0.1 to 90, such as 5".to_string())
}

/// The same up to 100 %, without advice.
pub fn hundredths(text: &str) -> Option<u32> {
    let number = text.trim();
    let number = number.strip_suffix('%').unwrap_or(number).trim_end();
    let plain = number.bytes().all(|it| it.is_ascii_digit() || it == b'.');
    let value = number.parse::<f64>().ok()?;
    (plain && (0.0..=100.0).contains(&value)).then(|| (value * 100.0).round() as u32)
}

/// Bytes in one unit, by its suffix in any case.
fn unit(suffix: &str) -> Option<u128> {
    let suffix = suffix.to_ascii_lowercase();
    let (power, rest) = match suffix.as_bytes() {
        [] | [b'b'] => return Some(1),
        [b'k', rest @ ..] => (1, rest),
        [b'm', rest @ ..] => (2, rest),
        [b'g', rest @ ..] => (3, rest),
        [b't', rest @ ..] => (4, rest),
        _ => return None,
    };
    match rest {
        b"" | b"i" | b"ib" => Some(1024u128.pow(power)),
        b"b" => Some(1000u128.pow(power)),
        _ => None,
    }
}

/// Reads a process id.
pub fn pid(text: &str) -> Result<u32, String> {
    match text.trim().parse::<i32>() {
        Ok(pid) if pid > 0 => Ok(pid.unsigned_abs()),
        _ => Err("a process id is a positive number, such as `pidof NAME` prints".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_people_write_them() {
        for (text, millis) in [
            ("30s", 30_000),
            ("5m", 300_000),
            ("500ms", 500),
            ("1m30s", 90_000),
            ("1m 30s", 90_000),
            ("2h", 7_200_000),
            (" 1sec ", 1000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "",
            "30",
            "s",
            "-1s",
            "abc",
            "1x",
            "9999999years",
            "99999999999999999999s",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("4096B", 4096),
            ("64KiB", 65_536),
            ("64kib", 65_536),
            ("64K", 65_536),
            ("64 KiB", 65_536),
            ("64KB", 64_000),
            ("10MB", 10_000_000),
            ("1.5MiB", 1_572_864),
            ("1.5 MB", 1_500_000),
            ("0.5", 0),
            ("2.KiB", 2048),
            ("3G", 3 << 30),
            ("1TiB", 1 << 40),
            ("16777215TiB", 16_777_215 << 40),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "KiB",
            "-1",
            "+1",
            "1.2.3",
            ".5",
            "1XB",
            "1Kb1",
            "1e3",
            "0x10",
            "1 2",
            "½",
            "18446744073709551616",
            "16777216TiB",
            "99999999999999999999999999999999999999999",
            "1.0000000000000000000000001K",
        ] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn samples_have_a_limit() {
        for (text, bytes) in [("0", 0), ("1", 1), ("512KiB", 524_288), ("1GiB", 1 << 30)] {
            assert_eq!(sample_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["1073741825", "2GiB", "-1", "all"] {
            assert!(sample_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn samples_of_pages_are_powers_of_two() {
        for (text, pages) in [("1", 1), ("2", 2), ("60", 64), ("64", 64), ("65536", 65536)] {
            assert_eq!(sample_pages(text), Ok(pages), "{text}");
        }
        for text in ["0", "-1", "65537", "all", "1.5", ""] {
            assert!(sample_pages(text).is_err(), "{text}");
        }
    }

    #[test]
    fn process_ids() {
        assert_eq!(pid("1"), Ok(1));
        assert_eq!(pid("2147483647"), Ok(i32::MAX as u32));
        for text in ["0", "-1", "", "nginx", "2147483648", "1.5"] {
            assert!(pid(text).is_err(), "{text}");
        }
    }
}
