//! What the rows have in common: the model of a table, how a measurement is run, and how results are shown.

pub mod lua;
pub mod memory;
pub mod model;
pub mod plot;
pub mod process;
pub mod processors;
pub mod random;
pub mod report;
mod run;
pub mod table;

pub use model::{
    Against, Better, Case, Contestant, Effort, Goal, Kind, Problem, Row, Sample, Unit,
};
pub use run::{Settings, measure_here, run_rows};
