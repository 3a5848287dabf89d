//! The common parts of the rows: the model of the table, running measurements, and presenting results.

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
