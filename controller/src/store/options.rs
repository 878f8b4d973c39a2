//! Which bounds does a store have? Those of `model::limits`; tests set smaller ones to fill them.

use std::time::Duration;

use model::limits;

/// Bounds of one store; `Options::default()` are those of [`model::limits`].
#[derive(Debug, Clone)]
pub struct Options {
    /// Keys, head keys included.
    pub items_max: u64,
    /// Bytes of all values.
    pub bytes_max: u64,
    /// Changes kept for watchers.
    pub log_max: usize,
    /// Bytes of changes kept for watchers.
    pub log_bytes_max: usize,
    /// Audit records in the store.
    pub audit_max: u64,
    /// Audit records of one file outside of it.
    pub segment_records: u64,
    /// Bytes of such a file.
    pub segment_bytes: usize,
    /// Such files.
    pub segments_max: usize,
    /// Bytes of the disk that a change leaves free which makes a new record.
    pub room_min: u64,
    /// Bytes of the disk that any change leaves free.
    pub room_last: u64,
    /// After a failure of the disk, the store looks again at most this often.
    pub retry_every: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            items_max: limits::STORE_ITEMS_MAX,
            bytes_max: limits::STORE_BYTES_MAX,
            log_max: limits::CHANGE_LOG_MAX,
            log_bytes_max: limits::CHANGE_LOG_BYTES_MAX,
            audit_max: limits::AUDIT_IN_STORE_MAX,
            segment_records: limits::AUDIT_SEGMENT_RECORDS_MAX,
            segment_bytes: limits::AUDIT_SEGMENT_BYTES_MAX,
            segments_max: limits::AUDIT_SEGMENTS_MAX,
            room_min: limits::STORE_ROOM_MIN,
            room_last: limits::STORE_ROOM_LAST,
            retry_every: Duration::from_secs(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the tests of the store fill with smaller numbers, a controller has with these.
    #[test]
    fn the_bounds_of_a_store_are_those_of_the_limits() {
        let options = Options::default();
        assert_eq!((options.items_max, options.bytes_max), (limits::STORE_ITEMS_MAX, limits::STORE_BYTES_MAX));
        assert_eq!((options.log_max, options.log_bytes_max), (limits::CHANGE_LOG_MAX, limits::CHANGE_LOG_BYTES_MAX));
        assert_eq!(options.audit_max, limits::AUDIT_IN_STORE_MAX);
        assert_eq!(options.segment_records, limits::AUDIT_SEGMENT_RECORDS_MAX);
        assert_eq!(options.segment_bytes, limits::AUDIT_SEGMENT_BYTES_MAX);
        assert_eq!(options.segments_max, limits::AUDIT_SEGMENTS_MAX);
        assert_eq!((options.room_min, options.room_last), (limits::STORE_ROOM_MIN, limits::STORE_ROOM_LAST));
    }
}
