//! Planted faults: switches for a build with `--cfg yue_plants`, in which `ci/plants` checks that the tests can fail.

/// Whether this fault is planted: in such a build, if the variable `YUE_PLANT` names it. Otherwise a constant `false`.
#[doc(hidden)]
#[macro_export]
macro_rules! planted {
    ($name:literal) => {
        cfg!(yue_plants) && $crate::is_planted($name)
    };
}

/// See [`planted`](crate::planted).
#[doc(hidden)]
pub fn is_planted(name: &str) -> bool {
    // Not one of loom's: it is the same in all executions of a model.
    static PLANTED: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    let planted = PLANTED.get_or_init(|| std::env::var("YUE_PLANT").ok());
    planted.as_deref() == Some(name)
}
