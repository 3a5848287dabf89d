//! What the ring may use: what the kernel offers, less what the environment switches off; and how large it is.
//!
//! `YUE_URING_OFF` holds names of [`Feature`]s with commas between them, for a kernel on which one of them misbehaves,
//! and for tests of what is done without it. `YUE_URING_ENTRIES` is the number of places in the submission queue. Both
//! are read when a driver is made, and told of there ([`driver`](crate::driver())).

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

const ENTRIES_VARIABLE: &str = "YUE_URING_ENTRIES";

/// Submissions that one system call can take, unless the environment says otherwise. A tick that queues more makes a
/// second call.
const ENTRIES: u32 = 1024;

/// What the kernel makes at the most.
const ENTRIES_MAX: u32 = 32_768;

/// What the environment says makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadSetting {
    /// A name in `YUE_URING_OFF` that is no feature's.
    #[error("YUE_URING_OFF names '{0}', which is no feature; there are {known}", known = known())]
    UnknownFeature(String),
    /// `YUE_URING_ENTRIES` is no number, or too small or large a one.
    #[error("YUE_URING_ENTRIES is '{0}'; it takes a number from 1 to {ENTRIES_MAX}")]
    Entries(String),
}

fn known() -> String {
    NAMES.map(|(name, _)| name).join(", ")
}

/// The features that are switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Switches(u8);

impl Switches {
    /// What the environment says.
    pub(crate) fn from_environment() -> Result<Switches, BadSetting> {
        match std::env::var_os(VARIABLE) {
            None => Ok(Switches::default()),
            Some(names) => Switches::parse(&names.to_string_lossy()),
        }
    }

    fn parse(names: &str) -> Result<Switches, BadSetting> {
        let mut off = Switches::default();
        for name in names.split(',').map(str::trim) {
            if name.is_empty() {
                continue;
            }
            let found = NAMES.iter().find(|(known, _)| *known == name);
            let (_, feature) = found.ok_or_else(|| BadSetting::UnknownFeature(name.to_owned()))?;
            off.0 |= 1 << *feature as u8;
        }
        Ok(off)
    }

    /// Whether a feature may be used.
    pub(crate) fn allow(self, feature: Feature) -> bool {
        self.0 & (1 << feature as u8) == 0
    }
}

/// Places in the submission queue, as the environment says.
pub(super) fn entries() -> Result<u32, BadSetting> {
    let Some(text) = std::env::var_os(ENTRIES_VARIABLE) else {
        return Ok(ENTRIES);
    };
    let text = text.to_string_lossy();
    match text.trim().parse() {
        Ok(entries @ 1..=ENTRIES_MAX) => Ok(entries),
        _ => Err(BadSetting::Entries(text.into_owned())),
    }
}

/// Whether the environment makes sense.
pub(crate) fn check_settings() -> Result<(), BadSetting> {
    entries()?;
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
