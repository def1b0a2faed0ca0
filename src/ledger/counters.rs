//! What was taken, refused and dropped, by reason.

/// Counts since the ledger was made, and sizes as they are. Each field is one metric.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Authors held.
    pub authors: usize,
    /// Bytes of all entries held.
    pub bytes: usize,
    /// Bytes of the log since its last snapshot, snapshot included.
    pub log_bytes: usize,
    /// Writes that the disk did not take.
    pub writes_failed: u64,
}
