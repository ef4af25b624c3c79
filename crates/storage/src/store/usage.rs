//! How much is stored, for metrics.

/// Archives in the folder of this host, and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// All of them.
    pub archives: u64,
    pub bytes: u64,
    /// Those that the bucket has, too.
    pub uploaded: u64,
    pub uploaded_bytes: u64,
    /// Those that it does not have yet. Without a bucket: all.
    pub pending: u64,
    pub pending_bytes: u64,
}

impl Usage {
    /// From every archive's bytes, and whether it is uploaded.
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
