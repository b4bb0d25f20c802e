//! Figures with the most or the least they may be. A benchmark only notes them; what follows from a missed goal
//! is the caller's choice.

use std::fmt;

/// Figures and their goals.
#[derive(Default)]
pub struct Goals(Vec<Goal>);

struct Goal {
    what: String,
    figure: f64,
    goal: f64,
    /// Whether less is missed, not more.
    at_least: bool,
    unit: &'static str,
}

impl Goals {
    /// Notes a figure that should be `most` or less.
    pub fn at_most(&mut self, what: impl Into<String>, figure: f64, most: f64, unit: &'static str) {
        self.0.push(Goal {
            what: what.into(),
            figure,
            goal: most,
            at_least: false,
            unit,
        });
    }

    /// Notes a figure that should be `least` or more.
    pub fn at_least(
        &mut self,
        what: impl Into<String>,
        figure: f64,
        least: f64,
        unit: &'static str,
    ) {
        self.0.push(Goal {
            what: what.into(),
            figure,
            goal: least,
            at_least: true,
            unit,
        });
    }

    /// Whether all were reached.
    pub fn reached(&self) -> bool {
        self.0.iter().all(Goal::reached)
    }
}

impl Goal {
    fn reached(&self) -> bool {
        match self.at_least {
            true => self.figure >= self.goal,
            false => self.figure <= self.goal,
        }
    }
}

impl fmt::Display for Goals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for goal in &self.0 {
            let verdict = if goal.reached() { "reached" } else { "MISSED" };
            let Goal {
                what,
                figure,
                goal,
                unit,
                ..
            } = goal;
            writeln!(f, "{verdict}: {what} {figure:.2}{unit}, goal {goal}{unit}")?;
        }
        Ok(())
    }
}

/// The middle of some figures; not a number if there are none.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => figures[middle],
        _ => (figures[middle - 1] + figures[middle]) / 2.0,
    }
}

/// The median of ratios, and from where to where they go.
pub fn ratio(ratios: Vec<f64>) -> (f64, String) {
    let lowest = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let most = ratios.iter().copied().fold(0.0, f64::max);
    (median(ratios), format!("({lowest:.2} - {most:.2})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn no_figure_is_a_missed_goal() {
        let mut goals = Goals::default();
        goals.at_most("a", 1.0, 1.0, " s");
        goals.at_least("a", 1.0, 1.0, "");
        assert!(goals.reached());
        let mut less = Goals::default();
        less.at_least("less", 0.9, 1.0, "");
        assert!(!less.reached());
        goals.at_most("b", f64::NAN, 1.0, " s");
        assert!(!goals.reached());
    }
}
