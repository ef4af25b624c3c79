//! Numbers and sizes of stored archives, for metrics.

/// The archives in the directory of this host: all, those that the bucket has as well, and those that it does not have
/// yet (without a bucket, all).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub archives: u64,
    pub bytes: u64,
    pub uploaded: u64,
    pub uploaded_bytes: u64,
    pub pending: u64,
    pub pending_bytes: u64,
}

impl Usage {
    /// Adds up every archive's bytes, with whether it is uploaded.
    pub(super) fn of(archives: impl Iterator<Item = (u64, bool)>) -> Self {
        archives.fold(Self::default(), |mut usage, (bytes, uploaded)| {
            let (count, sum) = if uploaded {
                (&mut usage.uploaded, &mut usage.uploaded_bytes)
            } else {
                (&mut usage.pending, &mut usage.pending_bytes)
            };
            *count += 1;
            *sum += bytes;
            usage.archives += 1;
            usage.bytes += bytes;
            usage
        })
    }
}
