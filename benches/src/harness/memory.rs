//! What a process takes of the machine's memory, and what the machine has left.
//!
//! Taken is what the kernel must keep for the process and for nobody else: its resident pages and the page tables that
//! lead to them. A page table is no small thing here: a stack every 256 KiB costs an eighth of a page of it.

use super::model::Problem;

/// Bytes that a process takes; `process` is its number, or `self`.
///
/// # Errors
///
/// When the kernel does not tell.
pub fn taken(process: &str) -> Result<usize, Problem> {
    let file = format!("/proc/{process}/status");
    Ok(field(&file, "VmRSS:")? + field(&file, "VmPTE:")?)
}

/// Refuses a measurement that would take most of what the machine has left.
///
/// # Errors
///
/// When so many bytes are more than three quarters of it.
pub fn ask_for(bytes: usize) -> Result<(), Problem> {
    let available = field("/proc/meminfo", "MemAvailable:")?;
    if bytes <= available / 4 * 3 {
        return Ok(());
    }
    let mib = |bytes: usize| bytes >> 20;
    Err(Problem::failed(format!(
        "needs {} MiB of memory, and {} MiB are free",
        mib(bytes),
        mib(available)
    )))
}

/// A field of one of procfs's tables, in bytes.
fn field(file: &str, name: &str) -> Result<usize, Problem> {
    let text = std::fs::read_to_string(file)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kib = line
        .and_then(|line| line.split_whitespace().next())
        .and_then(|word| word.parse::<usize>().ok());
    kib.map(|kib| kib << 10)
        .ok_or_else(|| Problem::failed(format!("{file} has no {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_touched_page_is_taken() {
        const BYTES: usize = 64 << 20;
        let before = taken("self").unwrap();
        let touched = std::hint::black_box(vec![1_u8; BYTES]);
        let grown = taken("self").unwrap() - before;
        assert!(grown > BYTES / 4 * 3, "{grown} of {} bytes", touched.len());
    }

    #[test]
    fn more_memory_than_there_is_is_refused() {
        assert!(ask_for(4096).is_ok());
        let refusal = ask_for(usize::MAX / 2).unwrap_err().to_string();
        assert!(refusal.contains("MiB of memory"), "{refusal}");
    }
}
