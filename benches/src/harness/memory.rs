//! The memory that a process uses, and the memory that the machine has left.
//!
//! Used memory is what the kernel must keep for this process alone: its resident pages and their page tables. The page
//! tables matter here: a stack every 256 KiB costs an eighth of a page of them.

use super::model::Problem;

/// Returns the bytes that a process uses; `process` is its id, or `self`.
///
/// # Errors
///
/// When the kernel does not report it.
pub fn used_bytes(process: &str) -> Result<usize, Problem> {
    let file = format!("/proc/{process}/status");
    Ok(field(&file, "VmRSS:")? + field(&file, "VmPTE:")?)
}

/// Refuses a measurement that would use most of the machine's free memory.
///
/// # Errors
///
/// When `bytes` exceeds three quarters of it.
pub fn require_free(bytes: usize) -> Result<(), Problem> {
    let available = field("/proc/meminfo", "MemAvailable:")?;
    if bytes <= available / 4 * 3 {
        return Ok(());
    }
    let mib = |bytes: usize| bytes >> 20;
    Err(Problem::failed(format!(
        "needs {} MiB of memory, but only {} MiB are free",
        mib(bytes),
        mib(available)
    )))
}

/// Reads a field of a procfs table, in bytes.
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
        let before = used_bytes("self").unwrap();
        let touched = std::hint::black_box(vec![1_u8; BYTES]);
        let grown = used_bytes("self").unwrap() - before;
        assert!(grown > BYTES / 4 * 3, "{grown} of {} bytes", touched.len());
    }

    #[test]
    fn more_memory_than_available_is_refused() {
        assert!(require_free(4096).is_ok());
        let refusal = require_free(usize::MAX / 2).unwrap_err().to_string();
        assert!(refusal.contains("MiB of memory"), "{refusal}");
    }
}
