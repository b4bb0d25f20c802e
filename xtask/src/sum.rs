//! Counting tests: what libtest says in its `test result:` lines, summed up over all programs.

use std::fmt;

use anyhow::{Result, bail};

/// How many tests did what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed.
    pub failed: u64,
    /// Tests that were not run because they are marked so.
    pub ignored: u64,
}

impl Sum {
    /// Reads a line like `test result: ok. 3 passed; 0 failed; 1 ignored; ...`; any other is `None`.
    pub fn parse(line: &str) -> Option<Sum> {
        let (_, counts) = line
            .trim()
            .strip_prefix("test result: ")?
            .split_once(". ")?;
        let count = |word: &str| {
            counts.split("; ").find_map(|part| {
                let (number, name) = part.trim().split_once(' ')?;
                (name == word).then(|| number.parse().ok())?
            })
        };
        Some(Sum {
            passed: count("passed")?,
            failed: count("failed")?,
            ignored: count("ignored")?,
        })
    }

    /// Adds another part's tests.
    pub fn add(&mut self, other: Sum) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }

    /// An error if a test failed or was left out: what could not run is not a pass.
    pub fn into_result(self) -> Result<()> {
        if self.failed > 0 || self.ignored > 0 || self.passed == 0 {
            bail!("not all tests passed: {self}, {} ignored", self.ignored);
        }
        Ok(())
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::Sum;

    #[test]
    fn reads_what_libtest_writes() {
        let line = "test result: FAILED. 3 passed; 2 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.00s";
        let sum = Sum {
            passed: 3,
            failed: 2,
            ignored: 1,
        };
        assert_eq!(Sum::parse(line), Some(sum));
        assert_eq!(Sum::parse("test malloc::glibc ... ok"), None);
        assert_eq!(sum.to_string(), "3 passed, 2 failed");
    }
}
