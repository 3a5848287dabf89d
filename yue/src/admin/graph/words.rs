//! Deadlocks and chains in words.

use super::{Chain, Graph, Node, Place, TICK_SECONDS};

/// Fibers of a chain or a cycle that its text names.
const NAMED_MAX: usize = 20;

impl Node<'_> {
    /// Whether the wait existed when the collection began.
    pub(super) fn is_old(&self) -> bool {
        self.wait.seconds >= self.process.asked_seconds + TICK_SECONDS
    }

    /// The fiber in words, with its process.
    fn label(&self) -> String {
        format!("{} of {}", self.short_label(), self.process_text())
    }

    /// The fiber in words, after one of the process `before`.
    fn label_after(&self, before: &Node<'_>) -> String {
        match before.number == self.number {
            true => self.short_label(),
            false => self.label(),
        }
    }

    fn short_label(&self) -> String {
        let wait = self.wait;
        let place = self.place_text();
        match (&wait.serves, &wait.name) {
            (Some(_), _) => match self.method() {
                Some(method) => format!("the handler of '{method}'{place}"),
                None => format!("a handler{place}"),
            },
            (None, Some(name)) => format!("fiber '{name}'{place}"),
            (None, None) if wait.place.is_empty() => format!("fiber {}", wait.fiber),
            (None, None) => format!("fiber{place}"),
        }
    }

    fn place_text(&self) -> String {
        match self.wait.place.is_empty() {
            true => String::new(),
            false => format!(" ({})", self.wait.place),
        }
    }

    /// The name of the function that it serves, if that is known.
    fn method(&self) -> Option<&str> {
        let serves = self.wait.serves.as_ref()?;
        let named = serves.handler.strip_prefix("handler of ")?;
        Some(
            named
                .split_once(", called by")
                .map_or(named, |(name, _)| name),
        )
    }

    fn process_text(&self) -> String {
        let (pid, name) = (self.process.pid, &self.process.name);
        let name = name.rsplit('/').next().unwrap_or(name);
        format!("process {pid} {name}")
    }

    /// The object of the wait, up to the fiber `next` that it points to, and the words that lead to that one's wait.
    fn object(&self, next: &Node<'_>) -> (String, &'static str) {
        let label = next.label_after(self);
        let object = match self.wait.kind.as_str() {
            _ if self.is_answered_by(next) => {
                let text = format!(
                    "the answer of {} from {}{}, whose handler{}",
                    self.called(next.method()),
                    next.process_text(),
                    self.address_text(" at "),
                    next.place_text()
                );
                return (text, " waits for ");
            }
            "mutex" => format!("a mutex that is locked by {label}"),
            "semaphore" => match self.wait.fibers.len() {
                1 => format!("a semaphore that is held by {label}"),
                count => format!("a semaphore that is held by {count} fibers, one of them {label}"),
            },
            "futures" => format!("any of some futures, one of them {label}"),
            _ => label,
        };
        (object, ", which waits for ")
    }

    fn is_answered_by(&self, next: &Node<'_>) -> bool {
        let serves = next.wait.serves.as_ref();
        let call = serves.and_then(|serves| serves.call.as_ref());
        call.is_some_and(|call| self.wait.calls.contains(call))
    }

    /// The function that it calls. `known`: the name that the handler's side has for it.
    fn called(&self, known: Option<&str>) -> String {
        let method = Some(self.wait.method.as_str()).filter(|method| !method.is_empty());
        match method.or(known) {
            Some(method) => format!("'{method}'"),
            None => "a call".to_owned(),
        }
    }

    fn address_text(&self, before: &str) -> String {
        let address = self.wait.address.as_ref();
        address.map_or_else(String::new, |address| format!("{before}{address}"))
    }

    pub(super) fn place(&self) -> Place {
        Place {
            pid: self.process.pid,
            loop_id: self.wait.loop_id,
            fiber: self.wait.fiber.clone(),
            text: self.label(),
            kind: self.wait.kind.clone(),
            seconds: self.wait.seconds,
        }
    }

    /// The object of a wait that no fiber of the list ends, in words.
    fn end(&self) -> String {
        let wait = self.wait;
        if !wait.waits {
            return "nothing: it runs".to_owned();
        }
        match wait.kind.as_str() {
            "call" => format!(
                "the answer of {}{}, from outside or not started yet",
                self.called(None),
                self.address_text(" from ")
            ),
            _ if wait.waits_for == "sleep" => "the end of a sleep".to_owned(),
            _ => wait.waits_for.clone(),
        }
    }
}

impl Graph<'_> {
    pub(super) fn cycle_text(&self, cycle: &[usize], seconds: f64, ends_in: Option<f64>) -> String {
        let mut text = format!("deadlock: {} waits for ", self.nodes[cycle[0]].label());
        for (position, at) in cycle.iter().enumerate() {
            let next = cycle[(position + 1) % cycle.len()];
            let (object, link) = self.nodes[*at].object(&self.nodes[next]);
            text += &object;
            if position + 1 < cycle.len() {
                text += link;
            } else if self.nodes[*at].is_answered_by(&self.nodes[next]) {
                text += ", the first one here, waits";
            }
            if position + 1 == NAMED_MAX && position + 1 < cycle.len() {
                text += &format!("… ({} more, back to the first)", cycle.len() - NAMED_MAX);
                break;
            }
        }
        if let [one] = cycle {
            text = format!("deadlock: {} waits for itself", self.nodes[*one].label());
        }
        text += &format!("; for {}", duration(seconds));
        text += &match ends_in {
            Some(left) => format!(", ends by a timeout in {}", duration(left)),
            None => ", no wait in it has a time limit".to_owned(),
        };
        text
    }

    pub(super) fn chain_of(&self, path: &[usize]) -> Chain {
        let first = &self.nodes[path[0]];
        let mut text = format!("{} waits for ", first.label());
        for (position, pair) in path.windows(2).enumerate() {
            let (object, link) = self.nodes[pair[0]].object(&self.nodes[pair[1]]);
            text += &object;
            text += link;
            if position + 1 == NAMED_MAX {
                text += &format!("… ({} more)", path.len() - NAMED_MAX);
                break;
            }
        }
        if path.len() <= NAMED_MAX {
            text += &self.nodes[path[path.len() - 1]].end();
        }
        text += &format!("; for {}", duration(first.wait.seconds));
        Chain {
            text,
            fibers: path.iter().map(|at| self.nodes[*at].place()).collect(),
            seconds: first.wait.seconds,
        }
    }
}

/// A duration for people, in its two largest units where that says more.
///
/// ```
/// use yue::admin::graph::duration;
///
/// let shown = [274_000.0, 725.0, 1.25, 0.25, 0.000_83].map(duration);
/// assert_eq!(shown, ["3d 4h", "12m 5s", "1.2 s", "250 ms", "830 us"]);
/// ```
pub fn duration(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        86_400.. => format!("{}d {}h", whole / 86_400, whole / 3_600 % 24),
        3_600.. => format!("{}h {}m", whole / 3_600, whole / 60 % 60),
        60.. => format!("{}m {}s", whole / 60, whole % 60),
        _ if seconds >= 1.0 => format!("{seconds:.1} s"),
        _ if seconds >= 0.0995 => format!("{:.0} ms", seconds * 1e3),
        _ if seconds >= 0.000_999_5 => format!("{:.1} ms", seconds * 1e3),
        _ => format!("{:.0} us", seconds * 1e6),
    }
}
