//! What the ring may use: what the kernel offers, less what the environment switches off.
//!
//! `YUE_URING_OFF` holds names of [`Feature`]s with commas between them, for a kernel on which one of them misbehaves,
//! and for tests of what is done without it. It is read when a driver is made. What is done
//! without each is told where the driver is made ([`driver`](crate::driver())).

use io_uring::{IoUring, Parameters, Probe};
use std::io;

/// Something that the driver can do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Feature {
    DeferTaskrun,
    RegisteredRing,
    NoIowait,
    Buffers,
    Multishot,
    Direct,
    Files,
}

const NAMES: [(&str, Feature); 7] = [
    ("defer-taskrun", Feature::DeferTaskrun),
    ("registered-ring", Feature::RegisteredRing),
    ("no-iowait", Feature::NoIowait),
    ("buffers", Feature::Buffers),
    ("multishot", Feature::Multishot),
    ("direct", Feature::Direct),
    ("files", Feature::Files),
];

const VARIABLE: &str = "YUE_URING_OFF";

/// A name in `YUE_URING_OFF` that is no feature's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("YUE_URING_OFF names '{0}', which is no feature; there are {known}", known = known())]
pub(crate) struct UnknownFeature(String);

fn known() -> String {
    NAMES.map(|(name, _)| name).join(", ")
}

/// The features that are switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Switches(u8);

impl Switches {
    /// What the environment says.
    pub(crate) fn from_environment() -> Result<Switches, UnknownFeature> {
        match std::env::var_os(VARIABLE) {
            None => Ok(Switches::default()),
            Some(names) => Switches::parse(&names.to_string_lossy()),
        }
    }

    fn parse(names: &str) -> Result<Switches, UnknownFeature> {
        let mut off = Switches::default();
        for name in names.split(',').map(str::trim) {
            if name.is_empty() {
                continue;
            }
            let found = NAMES.iter().find(|(known, _)| *known == name);
            let (_, feature) = found.ok_or_else(|| UnknownFeature(name.to_owned()))?;
            off.0 |= 1 << *feature as u8;
        }
        Ok(off)
    }

    /// Whether a feature may be used.
    pub(crate) fn allow(self, feature: Feature) -> bool {
        self.0 & (1 << feature as u8) == 0
    }
}

/// Whether the environment makes sense.
pub(crate) fn check_switches() -> Result<(), UnknownFeature> {
    Switches::from_environment().map(drop)
}

/// What one ring may use.
pub(super) struct Features {
    switches: Switches,
    probe: Probe,
    no_iowait: bool,
}

impl Features {
    /// Asks the kernel.
    pub(super) fn ask(ring: &IoUring, switches: Switches) -> io::Result<Features> {
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let params: &Parameters = ring.params();
        Ok(Features {
            switches,
            probe,
            no_iowait: params.is_feature_no_iowait(),
        })
    }

    pub(super) fn allow(&self, feature: Feature) -> bool {
        self.switches.allow(feature) && (feature != Feature::NoIowait || self.no_iowait)
    }

    /// Whether files may be worked on by the operation with that code.
    pub(super) fn does_files(&self, code: u8) -> bool {
        self.allow(Feature::Files) && self.knows(code)
    }

    /// Whether the kernel has the operation with that code.
    pub(super) fn knows(&self, code: u8) -> bool {
        self.probe.is_supported(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_switch_features_off_and_others_are_errors_that_list_them() {
        let off = Switches::parse(" files, no-iowait,").unwrap();
        for (name, feature) in NAMES {
            assert_eq!(off.allow(feature), !["files", "no-iowait"].contains(&name));
        }
        assert_eq!(Switches::parse("").unwrap(), Switches::default());
        let error = Switches::parse("files,sqpoll").unwrap_err().to_string();
        assert!(error.contains("'sqpoll'") && error.contains("multishot"));
    }
}
