//! The output of hosts, printed and logged, line by line, with the time.

use super::recorder::Recorder;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use yue_io::simulation as network;
use yue_scheduler::{Instant, lock, simulation};

/// A line that a host has printed or logged.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Line {
    /// The virtual time since the beginning of the run.
    pub at: Duration,
    /// The name of the host.
    pub host: String,
    /// The text, without the line's end.
    pub text: String,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, micros) = (self.at.as_secs(), self.at.subsec_micros());
        write!(f, "[{seconds:3}.{micros:06}s {}] {}", self.host, self.text)
    }
}

/// Receives each line as it is printed.
pub(super) type OnOutput = Arc<dyn Fn(&Line) + Send + Sync>;

/// The longest part of a line that is kept until its end is written; a longer line is divided.
const LINE_BYTES_MAX: usize = 64 << 10;

/// The output of all hosts.
pub(super) struct Transcript {
    recorder: Arc<Recorder>,
    /// By host: the beginning of a line whose end has not been written.
    begun: Mutex<BTreeMap<u32, Vec<u8>>>,
    on_output: Option<OnOutput>,
}

impl Transcript {
    pub(super) fn new(on_output: Option<OnOutput>, recorder: Arc<Recorder>) -> Arc<Transcript> {
        Arc::new(Transcript {
            recorder,
            begun: Mutex::default(),
            on_output,
        })
    }

    /// Collects what that host prints from now on.
    pub(super) fn collect(self: &Arc<Self>, number: u32, name: &str, began: Instant) {
        let (this, name) = (self.clone(), name.to_owned());
        let receive = move |bytes: &[u8]| {
            // A machine that is switched off prints nothing, and neither do programs that end with the run.
            if !network::is_down(number) && simulation::stopped().is_none() {
                this.write(number, &name, began, bytes);
            }
        };
        simulation::set_output(number, Arc::new(receive));
    }

    fn write(&self, number: u32, name: &str, began: Instant, bytes: &[u8]) {
        let complete: Vec<u8> = {
            let mut begun = lock(&self.begun);
            let begun = begun.entry(number).or_default();
            begun.extend_from_slice(bytes);
            match begun.iter().rposition(|byte| *byte == b'\n') {
                Some(end) => begun.drain(..=end).collect(),
                None if begun.len() >= LINE_BYTES_MAX => std::mem::take(begun),
                None => return,
            }
        };
        let at = simulation::now().saturating_since(began);
        let complete = complete.strip_suffix(b"\n").unwrap_or(&complete);
        for text in complete.split(|byte| *byte == b'\n') {
            let line = Line {
                at,
                host: name.to_owned(),
                text: String::from_utf8_lossy(text).into_owned(),
            };
            if let Some(on_output) = &self.on_output {
                on_output(&line);
            }
            self.recorder.print(number, line);
        }
    }
}
