//! Metrics of the program: the natives under `yue.metrics`, and their lines in the process's metrics.
//!
//! ```text
//!   VM of loop 1 ── add(cell, n) ──▶ cell ◀── add(cell, n) ── VM of loop 2
//!                                     ▲
//!   REGISTRY: name ──▶ kind, labels, series: label values ──▶ cells      read by whoever asks for the text
//! ```
//!
//! A metric belongs to the process. Its values lie in cells: atomic numbers of 64 bits, which hold a double. Lua finds
//! the cell of a series once, under the registry's lock, keeps its address, and changes it by a C function that LuaJIT
//! calls from compiled code. So a cell is never freed; the number of metrics and of series is limited instead.

use crate::lua::host::errors::error;
use crate::lua::host::log;
use crate::lua::native::{native, register};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once};
use yue_luajit::{Error, Stack};
use yue_rpc::ErrorKind;
use yue_scheduler::simulation::PerHost;
use yue_scheduler::{LogLevel, lock};

/// The maximum number of metrics: their cells are never freed.
const METRICS_MAX: usize = 10_000;

/// The maximum bytes of a label's value that are kept: values may come from strangers.
const VALUE_BYTES_MAX: usize = 256;

/// The value of every label in the series that counts for the label values beyond the limit.
const OTHER: &str = "_other";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    fn from_name(name: &[u8]) -> Option<Kind> {
        [Kind::Counter, Kind::Gauge, Kind::Histogram]
            .into_iter()
            .find(|kind| kind.name().as_bytes() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }

    /// The endings of the names in its lines.
    fn endings(self) -> &'static [&'static str] {
        match self {
            Kind::Histogram => &["", "_bucket", "_sum", "_count"],
            _ => &[""],
        }
    }
}

/// The cells of a series: one, or a histogram's: the count of each bucket, the last without a bound, and the sum.
/// The registry of the process is never dropped, so their addresses stay valid. That of a simulated host is dropped
/// when its VMs have been closed.
type Cells = Arc<[AtomicU64]>;

struct Metric {
    kind: Kind,
    help: String,
    labels: Vec<String>,
    /// The upper bounds of a histogram's buckets, ascending.
    bounds: Arc<[f64]>,
    series_max: usize,
    series: BTreeMap<Vec<String>, Cells>,
    /// Whether there were more label values than `series_max`.
    overflowed: bool,
}

static REGISTRY: PerHost<Mutex<BTreeMap<String, Metric>>> = PerHost::new(Mutex::default);

impl Metric {
    /// The cells of the series with these label values.
    fn cells(&mut self, values: Vec<String>) -> &Cells {
        let bounds = self.bounds.len();
        self.series.entry(values).or_insert_with(|| {
            let count = if self.kind == Kind::Histogram {
                bounds + 2
            } else {
                1
            };
            (0..count).map(|_| AtomicU64::new(0)).collect()
        })
    }

    /// Whether the metric is the one that a second declaration describes; if not, how it differs.
    fn difference(&self, other: &Metric) -> Option<String> {
        if self.kind != other.kind {
            let (own, asked) = (self.kind.name(), other.kind.name());
            return Some(format!("it is a {own}, not a {asked}"));
        }
        if self.labels != other.labels {
            return Some(format!(
                "its labels are {:?}, not {:?}",
                self.labels, other.labels
            ));
        }
        (self.bounds != other.bounds).then(|| "its buckets are others".to_owned())
    }

    fn write(&self, out: &mut String, name: &str) {
        let (help, kind) = (escape_help(&self.help), self.kind.name());
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (values, cells) in &self.series {
            let mut labels = String::new();
            for (label, value) in self.labels.iter().zip(values) {
                let _ = write!(labels, "{label}=\"{}\",", escape_value(value));
            }
            let labels = labels.trim_end_matches(',');
            match (self.kind, labels.is_empty()) {
                (Kind::Histogram, _) => self.write_histogram(out, name, labels, cells),
                (_, true) => drop(writeln!(out, "{name} {}", number(read(&cells[0])))),
                (_, false) => drop(writeln!(
                    out,
                    "{name}{{{labels}}} {}",
                    number(read(&cells[0]))
                )),
            }
        }
    }

    fn write_histogram(&self, out: &mut String, name: &str, labels: &str, cells: &Cells) {
        let comma = if labels.is_empty() { "" } else { "," };
        let braces = if labels.is_empty() {
            String::new()
        } else {
            format!("{{{labels}}}")
        };
        let mut total = 0.0;
        for (index, cell) in cells[..=self.bounds.len()].iter().enumerate() {
            total += read(cell);
            let bound = number(self.bounds.get(index).copied().unwrap_or(f64::INFINITY));
            let count = number(total);
            let _ = writeln!(
                out,
                "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}"
            );
        }
        let sum = number(read(&cells[self.bounds.len() + 1]));
        let _ = writeln!(
            out,
            "{name}_sum{braces} {sum}\n{name}_count{braces} {}",
            number(total)
        );
    }
}

fn read(cell: &AtomicU64) -> f64 {
    f64::from_bits(cell.load(Ordering::Relaxed))
}

/// A value in Prometheus' text format.
fn number(value: f64) -> String {
    match value {
        value if value.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "+Inf".to_owned(),
        f64::NEG_INFINITY => "-Inf".to_owned(),
        value if value != 0.0 && !(1e-6..1e17).contains(&value.abs()) => format!("{value:e}"),
        value => value.to_string(),
    }
}

fn escape_help(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n")
}

fn escape_value(text: &str) -> String {
    escape_help(text).replace('"', "\\\"")
}

/// The program's metrics alone, in the text format.
pub(crate) fn text() -> String {
    let mut text = String::new();
    write_all(&mut text);
    text
}

fn write_all(out: &mut String) {
    for (name, metric) in &*lock(&REGISTRY.get()) {
        metric.write(out, name);
    }
}

// -- The C functions that Lua calls -----------------------------------------------------------------------------------

/// Adds to a cell.
///
/// # Safety
/// `cell` is an address that `metric_cells` has returned.
unsafe extern "C" fn add(cell: *const AtomicU64, amount: f64) {
    // SAFETY: the caller's promise; cells are never freed.
    let cell = unsafe { &*cell };
    let mut before = cell.load(Ordering::Relaxed);
    loop {
        let after = (f64::from_bits(before) + amount).to_bits();
        // Relaxed: nothing else depends on a value.
        match cell.compare_exchange_weak(before, after, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return,
            Err(changed) => before = changed,
        }
    }
}

/// Sets a cell.
///
/// # Safety
/// As for [`add`].
unsafe extern "C" fn set(cell: *const AtomicU64, value: f64) {
    // SAFETY: the caller's promise; cells are never freed.
    unsafe { &*cell }.store(value.to_bits(), Ordering::Relaxed);
}

/// Counts a value in a histogram.
///
/// # Safety
/// `cells` is an address that `metric_cells` has returned for a histogram, `bounds` and `count` are the histogram's.
unsafe extern "C" fn observe(cells: *const AtomicU64, bounds: *const f64, count: f64, value: f64) {
    let count = count as usize;
    // SAFETY: the caller's promise; bounds are never freed.
    let bounds = unsafe { std::slice::from_raw_parts(bounds, count) };
    let bucket = bounds.partition_point(|bound| *bound < value);
    // SAFETY: a histogram has `count` + 2 cells.
    unsafe {
        add(cells.add(bucket), 1.0);
        add(cells.add(count + 1), value);
    }
}

native! {
    /// `metric_functions()`: the addresses of `add`, `set` and `observe`.
    MetricFunctions = "metric_functions", suspends: false;
    read(_stack) -> () {}
    run(()) -> (f64, (f64, f64)) {
        let add = add as unsafe extern "C" fn(*const AtomicU64, f64) as usize;
        let set = set as unsafe extern "C" fn(*const AtomicU64, f64) as usize;
        let observe =
            observe as unsafe extern "C" fn(*const AtomicU64, *const f64, f64, f64) as usize;
        Ok((add as f64, (set as f64, observe as f64)))
    }
}

// -- Declarations -----------------------------------------------------------------------------------------------------

fn refuse(text: impl Into<String>) -> Error {
    error(ErrorKind::Argument, text)
}

/// The texts of a list, each of which ends with a zero byte.
fn texts(list: &[u8]) -> Vec<String> {
    let list = list.strip_suffix(b"\0");
    list.map_or_else(Vec::new, |list| {
        let texts = list.split(|byte| *byte == 0);
        texts
            .map(|text| String::from_utf8_lossy(text).into_owned())
            .collect()
    })
}

/// Refuses the name if a line of the metric would have the name of another metric's.
fn check_collisions(
    registry: &BTreeMap<String, Metric>,
    name: &str,
    kind: Kind,
) -> Result<(), Error> {
    let clash = |other: &str| {
        refuse(format!(
            "yue.metrics: the lines of {name} would be taken for those of {other}; choose another name"
        ))
    };
    for ending in kind.endings().iter().filter(|ending| !ending.is_empty()) {
        if let Some((other, _)) = registry.get_key_value(&format!("{name}{ending}")) {
            return Err(clash(other));
        }
    }
    for ending in ["_bucket", "_sum", "_count"] {
        let base = name.strip_suffix(ending);
        let other = base.and_then(|base| registry.get_key_value(base));
        if let Some((other, _)) = other.filter(|(_, metric)| metric.kind == Kind::Histogram) {
            return Err(clash(other));
        }
    }
    Ok(())
}

native! {
    /// `metric_declare(kind, name, help, labels, bounds, series_max)`: returns the address of the bounds. `labels` are
    /// texts that each end with a zero byte, `bounds` the bytes of doubles.
    MetricDeclare = "metric_declare", suspends: false;
    read(stack) -> ((&'a [u8], &'a [u8], &'a [u8]), (&'a [u8], &'a [u8]), f64) {
        let names = (stack.bytes(1), stack.bytes(2), stack.bytes(3));
        (names, (stack.bytes(4), stack.bytes(5)), stack.number(6))
    }
    run(((kind, name, help), (labels, bounds), series_max)) -> f64 {
        let kind = Kind::from_name(kind).ok_or_else(|| refuse("yue.metrics: an unknown kind"))?;
        let name = String::from_utf8_lossy(name).into_owned();
        let bounds: Vec<f64> = bounds
            .as_chunks()
            .0
            .iter()
            .map(|bytes| f64::from_ne_bytes(*bytes))
            .collect();
        let mut wanted = Metric {
            kind,
            help: String::from_utf8_lossy(help).into_owned(),
            labels: texts(labels),
            bounds: Arc::default(),
            series_max: series_max as usize,
            series: BTreeMap::new(),
            overflowed: false,
        };
        let of_process = REGISTRY.get();
        let mut registry = lock(&of_process);
        if let Some(known) = registry.get(&name) {
            wanted.bounds = match *known.bounds == *bounds {
                true => known.bounds.clone(),
                false => Arc::new([f64::NAN]),
            };
            return match known.difference(&wanted) {
                Some(text) => Err(refuse(format!("yue.metrics: {name} exists: {text}"))),
                None => Ok(known.bounds.as_ptr().expose_provenance() as f64),
            };
        }
        check_collisions(&registry, &name, kind)?;
        if registry.len() >= METRICS_MAX {
            let text = format!("yue.metrics: there are {METRICS_MAX} metrics already; use labels in place of names");
            return Err(refuse(text));
        }
        wanted.bounds = bounds.into();
        if wanted.labels.is_empty() {
            wanted.cells(Vec::new());
        }
        let address = wanted.bounds.as_ptr().expose_provenance() as f64;
        registry.insert(name, wanted);
        drop(registry);
        static HOOK: Once = Once::new();
        HOOK.call_once(|| yue_scheduler::inspect::add_metrics(write_all));
        Ok(address)
    }
}

native! {
    /// `metric_cells(name, values)`: the address of the series' cells, and whether they are this series' own. The
    /// values are texts that each end with a zero byte.
    MetricCells = "metric_cells", suspends: false;
    read(stack) -> (&'a [u8], &'a [u8]) { (stack.bytes(1), stack.bytes(2)) }
    run((name, values)) -> (f64, bool) {
        let mut values = texts(values);
        for value in &mut values {
            value.truncate(value.floor_char_boundary(VALUE_BYTES_MAX));
        }
        let name = String::from_utf8_lossy(name);
        let of_process = REGISTRY.get();
        let mut registry = lock(&of_process);
        let metric = registry.get_mut(&*name).ok_or_else(|| refuse("yue.metrics: an unknown metric"))?;
        if values.len() != metric.labels.len() {
            return Err(refuse(format!("yue.metrics: {name} has other labels")));
        }
        let is_full = metric.series.len() >= metric.series_max && !metric.series.contains_key(&values);
        let first = is_full && !metric.overflowed;
        if is_full {
            metric.overflowed = true;
            values = vec![OTHER.to_owned(); metric.labels.len()];
        }
        let address = metric.cells(values).as_ptr().expose_provenance() as f64;
        let most = metric.series_max;
        drop(registry);
        if first {
            let text = format!(
                "the metric {name} has more than {most} sets of label values; further ones count as {OTHER}. A label \
                 is for few values: not for players, addresses or times"
            );
            log::write(LogLevel::Warn, text.as_bytes());
        }
        Ok((address, !is_full))
    }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(crate) fn register_all(stack: Stack<'_>) {
    register!(stack; MetricFunctions, MetricDeclare, MetricCells);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_form_of_the_text_format() {
        for (value, text) in [
            (0.0, "0"),
            (3.0, "3"),
            (-0.25, "-0.25"),
            (1e300, "1e300"),
            (1e-9, "1e-9"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn sums_of_several_threads_lose_nothing() {
        static CELL: AtomicU64 = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                // SAFETY: the cell is static.
                scope.spawn(|| (0..10_000).for_each(|_| unsafe { add(&CELL, 0.5) }));
            }
        });
        assert_eq!(read(&CELL), 20_000.0);
    }

    #[test]
    fn lists_of_texts_keep_empty_ones() {
        assert!(texts(b"").is_empty());
        assert_eq!(texts(b"\0"), [""]);
        assert_eq!(texts(b"a\0\0b\0"), ["a", "", "b"]);
    }
}
