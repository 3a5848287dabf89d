//! Remote calls in Lua: connections and listeners, calls, requests that are served, functions as values.

pub(crate) mod calls;
pub(crate) mod connections;
pub(crate) mod dispatch;
pub(crate) mod endpoints;
pub(crate) mod failures;
pub(crate) mod lookup;
pub(crate) mod methods;
pub(crate) mod options;
pub(crate) mod references;
