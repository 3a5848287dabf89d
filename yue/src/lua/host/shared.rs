//! Values that the loops of a `-c N` program share: the first loop that asks determines the value, and the others use
//! it too.
//!
//! So the first loop that listens at a port finds out whether the port is free, and which number a port 0 becomes. And
//! the first loop that listens at the path of a Unix socket binds it.

use crate::lua::host::errors::stopped;
use std::collections::HashMap;
use std::sync::Mutex;
use yue_scheduler::lock;
use yue_scheduler::{RemoteWaker, park, prepare_park};

/// Values by name. They are made once, and again when they are not valid any more.
pub(crate) struct Shared<T> {
    values: Mutex<HashMap<String, Value<T>>>,
}

enum Value<T> {
    /// A loop is making the value; these wait.
    Asked(Vec<RemoteWaker>),
    Known(Result<T, String>),
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Shared {
            values: Mutex::default(),
        }
    }
}

impl<T: Clone> Shared<T> {
    /// Returns the value of that name. `find_out` makes it for all loops, if it does not exist or `is_good` returns
    /// false for it. In a fiber; may park.
    pub(crate) fn resolve(
        &self,
        name: &str,
        is_good: impl Fn(&T) -> bool,
        find_out: impl FnOnce() -> Result<T, String>,
    ) -> Result<Result<T, String>, yue_luajit::Error> {
        loop {
            {
                let mut values = lock(&self.values);
                match values.get_mut(name) {
                    Some(Value::Known(Ok(value))) if is_good(value) => {
                        return Ok(Ok(value.clone()));
                    }
                    Some(Value::Known(Err(text))) => return Ok(Err(text.clone())),
                    Some(Value::Asked(waiting)) => waiting.push(prepare_park().remote()),
                    None | Some(Value::Known(Ok(_))) => {
                        values.insert(name.to_owned(), Value::Asked(Vec::new()));
                        break;
                    }
                }
            }
            park("another loop to listen").map_err(stopped)?;
        }
        let outcome = find_out();
        let before = lock(&self.values).insert(name.to_owned(), Value::Known(outcome.clone()));
        if let Some(Value::Asked(waiting)) = before {
            waiting.into_iter().for_each(RemoteWaker::wake);
        }
        Ok(outcome)
    }
}
