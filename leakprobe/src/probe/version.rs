//! Kernel versions, for the few questions that only a version number answers.

use std::fmt;

/// Version of a kernel, as in its release name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    major: u32,
    minor: u32,
    patch: u32,
}

impl Version {
    /// The oldest kernel that leakprobe is tested on.
    pub const OLDEST: Version = Version::new(6, 1, 0);

    /// A version of three numbers.
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self {
            major,
            minor,
            patch,
        }
    }

    /// That of the running kernel, if its name tells one.
    pub fn running() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/sys/kernel/osrelease").ok()?)
    }

    /// Reads a release name such as `6.12.0-rc3+` or `5.15.167.4-microsoft-standard-WSL2`.
    pub fn parse(release: &str) -> Option<Self> {
        let numbers = release
            .split(|c: char| !c.is_ascii_digit() && c != '.')
            .next()?;
        let mut numbers = numbers.split('.').map(str::parse);
        let major = numbers.next()?.ok()?;
        let minor = numbers.next()?.ok()?;
        let patch = numbers.next().and_then(Result::ok).unwrap_or(0);
        Some(Self {
            major,
            minor,
            patch,
        })
    }

    /// Refuses kernels that lack what leakprobe needs; one whose name tells no version is tried.
    ///
    /// # Errors
    ///
    /// If `running` is older than [`Self::OLDEST`].
    pub fn require_oldest(running: Option<Version>) -> anyhow::Result<()> {
        match running {
            Some(version) if version < Self::OLDEST => anyhow::bail!(
                "Linux {version} is too old: leakprobe needs {} or later (`leakprobe doctor` tells \
                 what is missing)",
                Self::OLDEST
            ),
            _ => Ok(()),
        }
    }

    /// Whether return probes make a system call that seccomp filters get to see: Linux 6.11 and
    /// later, before 6.12.14, 6.13.3 and 6.14.
    pub fn filters_return_probes(self) -> bool {
        let fixed = match (self.major, self.minor) {
            (6, 12) => self >= Self::new(6, 12, 14),
            (6, 13) => self >= Self::new(6, 13, 3),
            _ => self >= Self::new(6, 14, 0),
        };
        self >= Self::new(6, 11, 0) && !fixed
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        if self.patch > 0 {
            write!(f, ".{}", self.patch)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Version;

    #[test]
    fn release_names_of_distributions() {
        for (release, version) in [
            ("6.18.44-fc-v445", Version::new(6, 18, 44)),
            ("6.1.0-18-amd64", Version::new(6, 1, 0)),
            ("6.12.0-rc3+", Version::new(6, 12, 0)),
            ("6.8.0-1021-aws", Version::new(6, 8, 0)),
            ("5.14.0-427.13.1.el9_4.x86_64", Version::new(5, 14, 0)),
            (
                "5.15.167.4-microsoft-standard-WSL2",
                Version::new(5, 15, 167),
            ),
            ("7.0", Version::new(7, 0, 0)),
        ] {
            assert_eq!(Version::parse(release), Some(version), "{release}");
        }
        for release in ["", "6", "six.one", "-6.1", "6.x", "99999999999.1.1"] {
            assert_eq!(Version::parse(release), None, "{release}");
        }
    }

    #[test]
    fn numbers_are_not_compared_as_text() {
        assert!(Version::parse("6.10.0") > Version::parse("6.9.12"));
        assert!(Version::parse("10.0.0").unwrap() > Version::OLDEST);
        assert!(Version::parse("5.15.0").unwrap() < Version::OLDEST);
        assert_eq!(Version::OLDEST.to_string(), "6.1");
        assert_eq!(Version::new(6, 12, 14).to_string(), "6.12.14");
    }

    #[test]
    fn old_kernels_are_refused_in_one_sentence() {
        let refusal = Version::require_oldest(Version::parse("5.10.0-28-amd64")).unwrap_err();
        assert!(
            refusal
                .to_string()
                .starts_with("Linux 5.10 is too old: leakprobe needs 6.1")
        );
        assert!(Version::require_oldest(Version::parse("6.1.0-18-amd64")).is_ok());
        assert!(Version::require_oldest(None).is_ok());
    }

    #[test]
    fn return_probes_under_seccomp() {
        for (release, filtered) in [
            ("6.1.0", false),
            ("6.10.14", false),
            ("6.11.0", true),
            ("6.11.11", true),
            ("6.12.13", true),
            ("6.12.14", false),
            ("6.13.2", true),
            ("6.13.3", false),
            ("6.14.0", false),
            ("6.18.44", false),
            ("7.0.0", false),
        ] {
            let version = Version::parse(release).unwrap();
            assert_eq!(version.filters_return_probes(), filtered, "{release}");
        }
    }
}
