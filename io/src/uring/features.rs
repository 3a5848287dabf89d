//! The features that a ring may use (those of the kernel, minus those that the environment disables) and its size.
//!
//! `YUE_URING_OFF` is a comma-separated list of [`Feature`] names, for kernels on which one of them misbehaves, and for
//! tests of the fallbacks. `YUE_URING_ENTRIES` is the number of entries in the submission queue. Both are read when a
//! driver is created, and documented there ([`driver`](crate::driver())).

use io_uring::{IoUring, Parameters, Probe};
use std::io;

/// An optional feature of the driver.
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

/// The default number of entries in the submission queue: as many as one system call can submit. A tick that queues
/// more makes a second call.
const ENTRIES: u32 = 1024;

/// The kernel's maximum number of entries.
const ENTRIES_MAX: u32 = 32_768;

/// An invalid setting in the environment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadSetting {
    /// A name in `YUE_URING_OFF` is not a feature.
    #[error("YUE_URING_OFF names '{0}', which is not a feature; the features are {names}", names = feature_names())]
    UnknownFeature(String),
    /// `YUE_URING_ENTRIES` is not a number, or is out of range.
    #[error("YUE_URING_ENTRIES is '{0}'; it must be a number from 1 to {ENTRIES_MAX}")]
    Entries(String),
}

fn feature_names() -> String {
    NAMES.map(|(name, _)| name).join(", ")
}

/// The set of disabled features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct DisabledFeatures(u8);

impl DisabledFeatures {
    /// Reads the disabled features from the environment.
    pub(crate) fn from_environment() -> Result<DisabledFeatures, BadSetting> {
        match std::env::var_os(VARIABLE) {
            None => Ok(DisabledFeatures::default()),
            Some(names) => DisabledFeatures::parse(&names.to_string_lossy()),
        }
    }

    fn parse(names: &str) -> Result<DisabledFeatures, BadSetting> {
        let mut off = DisabledFeatures::default();
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

/// Returns the number of submission queue entries, as set in the environment or by default.
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

/// Checks the settings in the environment.
pub(crate) fn check_settings() -> Result<(), BadSetting> {
    entries()?;
    DisabledFeatures::from_environment().map(drop)
}

/// The features that one ring may use.
pub(super) struct Features {
    disabled: DisabledFeatures,
    probe: Probe,
    no_iowait: bool,
}

impl Features {
    /// Queries the kernel's features.
    pub(super) fn probe(ring: &IoUring, disabled: DisabledFeatures) -> io::Result<Features> {
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let params: &Parameters = ring.params();
        Ok(Features {
            disabled,
            probe,
            no_iowait: params.is_feature_no_iowait(),
        })
    }

    pub(super) fn allow(&self, feature: Feature) -> bool {
        self.disabled.allow(feature) && (feature != Feature::NoIowait || self.no_iowait)
    }

    /// Whether the operation with that opcode may be used on files.
    pub(super) fn supports_file_operation(&self, code: u8) -> bool {
        self.allow(Feature::Files) && self.supports(code)
    }

    /// Whether the kernel supports the operation with that opcode.
    pub(super) fn supports(&self, code: u8) -> bool {
        self.probe.is_supported(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn feature_names_disable_features_and_an_unknown_name_lists_them() {
        let off = DisabledFeatures::parse(" files, no-iowait,").unwrap();
        for (name, feature) in NAMES {
            assert_eq!(off.allow(feature), !["files", "no-iowait"].contains(&name));
        }
        assert_eq!(
            DisabledFeatures::parse("").unwrap(),
            DisabledFeatures::default()
        );
        let error = DisabledFeatures::parse("files,sqpoll")
            .unwrap_err()
            .to_string();
        assert!(error.contains("'sqpoll'") && error.contains("multishot"));
    }
}
