//! What a stack had live over time, in few points: however long a recording is, a series takes the same
//! memory. Of each stretch of time the least and the last are kept, since what a sawtooth falls back to is
//! what tells a leak from traffic.

/// Points of a series at the most. Then each two become one, of twice the time.
const MOST: usize = 64;

/// A stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// End of the stretch, nanoseconds after the start of the recording.
    pub at: u64,
    /// The least that was live at any look in it, bytes.
    pub low: u64,
    /// What was live at its end, bytes.
    pub last: u64,
}

/// Live bytes over time. Stretches are as long as one another, but for the last.
#[derive(Clone, Debug, Default)]
pub struct Series {
    points: Vec<Point>,
    /// Looks that make a point.
    each: u32,
    /// Looks in the last point.
    looks: u32,
}

impl Series {
    /// One that begins `skipped` looks after the recording: nothing was live in those.
    pub fn after(looks: impl Iterator<Item = u64>) -> Self {
        let mut series = Self::default();
        looks.for_each(|at| series.look(at, 0));
        series
    }

    /// Takes in what is live at a moment. Looks come at equal distances.
    pub fn look(&mut self, at: u64, live: u64) {
        let each = self.each.max(1);
        match self.points.last_mut() {
            Some(point) if self.looks < each => {
                point.at = at;
                point.low = point.low.min(live);
                point.last = live;
                self.looks += 1;
            }
            _ => {
                if self.points.len() == MOST {
                    self.halve();
                    return self.look(at, live);
                }
                self.points.push(Point {
                    at,
                    low: live,
                    last: live,
                });
                self.looks = 1;
            }
        }
    }

    /// The stretches, the first one first.
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    fn halve(&mut self) {
        self.points = self
            .points
            .chunks(2)
            .map(|pair| Point {
                at: pair[pair.len() - 1].at,
                low: pair.iter().map(|point| point.low).min().unwrap_or(0),
                last: pair[pair.len() - 1].last,
            })
            .collect();
        self.each = self.each.max(1) * 2;
        self.looks = self.each;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_points_of_many_looks() {
        let mut series = Series::default();
        for at in 1..=1000 {
            series.look(at, 10 * at + at % 7);
        }
        let points = series.points();
        assert!(
            points.len() <= MOST && points.len() > MOST / 4,
            "{}",
            points.len()
        );
        assert_eq!(
            points.last().map(|point| (point.at, point.last)),
            Some((1000, 10_006))
        );
        assert!(points.is_sorted_by_key(|point| point.at));
        // Each but the last one is of the same number of looks.
        let each = points[0].at;
        for pair in points[..points.len() - 1].windows(2) {
            assert_eq!(pair[1].at - pair[0].at, each);
        }
        assert_eq!(points[0].low, 11);
    }

    #[test]
    fn the_least_is_kept() {
        let mut series = Series::default();
        for at in 0..512 {
            series.look(at, if at % 8 == 3 { 5 } else { 1000 });
        }
        assert!(series.points().iter().all(|point| point.low == 5));
    }
}
