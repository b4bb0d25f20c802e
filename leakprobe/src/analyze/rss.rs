//! Resident memory over time, beside what is live: what tells a leak from memory that an allocator or a runtime
//! keeps.

use serde::Serialize;

use super::series::Series;

/// Resident memory of the process over the recording. Bytes.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Rss {
    /// At the start; after an exec, when the new program was first looked at.
    pub start_bytes: u64,
    /// At the end, or when it was last seen alive.
    pub end_bytes: u64,
    /// The most that was seen, once a second.
    pub peak_bytes: u64,
    /// What of `end_bytes` is pages of files and shared memory.
    pub of_files_bytes: u64,
    /// Memory limit of the nearest control group around it that has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<u64>,
    /// What all in that group used of it when it was last seen: page cache and memory of the kernel as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_used_bytes: Option<u64>,
    /// Nanoseconds after the start, resident bytes and live bytes then.
    pub series: Vec<[u64; 3]>,
    /// Resident bytes, as trends are told from.
    #[serde(skip)]
    pub resident: Series,
    /// Live bytes likewise. In growth mode they are pages.
    #[serde(skip)]
    pub live: Series,
}

impl Rss {
    /// Takes in what is there `at` nanoseconds after the start; to be called at equal distances.
    pub fn look(&mut self, at: u64, resident: u64, of_files: u64, live: u64) {
        if self.resident.points().is_empty() {
            self.start_bytes = resident;
        }
        self.note(resident, of_files);
        self.resident.look(at, resident);
        self.live.look(at, live);
        let live = self.live.points().iter();
        let points = self.resident.points().iter().zip(live);
        self.series = points
            .map(|(it, live)| [it.at, it.last, live.last])
            .collect();
    }

    /// Takes in what is there at another moment.
    pub fn note(&mut self, resident: u64, of_files: u64) {
        self.end_bytes = resident;
        self.of_files_bytes = of_files;
        self.peak_bytes = self.peak_bytes.max(resident);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_end_and_peak() {
        let mut rss = Rss::default();
        for (at, resident) in [(1, 100), (2, 900), (3, 300)] {
            rss.look(at, resident, 10, resident / 10);
        }
        rss.note(250, 20);
        let figures = (
            rss.start_bytes,
            rss.end_bytes,
            rss.peak_bytes,
            rss.of_files_bytes,
        );
        assert_eq!(figures, (100, 250, 900, 20));
        assert_eq!(rss.series, [[1, 100, 10], [2, 900, 90], [3, 300, 30]]);
    }

    #[test]
    fn a_long_one_is_bounded() {
        let mut rss = Rss::default();
        for at in 0..100_000 {
            rss.look(at, at, 0, at);
        }
        assert!(rss.series.len() <= 64, "{}", rss.series.len());
        assert_eq!(rss.series.last(), Some(&[99_999; 3]));
    }
}
