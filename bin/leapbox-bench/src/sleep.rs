//! Pauses and wakes: a wake beside the floor, and what a pause costs in a small and a large machine.

use crate::client::Client;
use crate::figures::{Report, Stored, ms_since};
use crate::floor::Floor;
use crate::server::Server;
use anyhow::Result;
use std::time::Instant;

/// MiB that the measured guests write.
const WRITTEN_MIB: u64 = 64;
/// Memory of the two machines that write as much, in MiB.
const MACHINES_MIB: [u64; 2] = [1024, 4096];
/// Pauses of each.
const PAUSES: u32 = 7;

/// Wakes beside floors, in turn.
pub async fn wakes(runs: u32, floor: &Floor, client: &Client, report: &mut Report) -> Result<()> {
    eprintln!("{runs} floors and wakes in turn …");
    floor.once().await?;
    for _ in 0..runs {
        report.floor.push(floor.once().await?);
        let id = client.create().await?;
        client.execute(&id, "true").await?;
        client.pause(&id).await?;
        let start = Instant::now();
        client.execute(&id, "true").await?;
        report.wake.push(ms_since(start));
        client.delete(&id).await?;
    }
    Ok(())
}

/// Pauses of machines of two sizes whose guests have written the same, in turn.
pub async fn pauses(server: &Server, report: &mut Report) -> Result<()> {
    eprintln!("{PAUSES} pauses each of 1 GiB and 4 GiB with the same {WRITTEN_MIB} MiB written …");
    let client = server.client();
    let mut ids = Vec::new();
    for memory_mib in MACHINES_MIB {
        let id = client.create_sized(memory_mib).await?;
        // In memory alone, and nothing that compresses.
        let write = format!("head -c {WRITTEN_MIB}M /dev/urandom > /dev/shm/written");
        client.execute(&id, &write).await?;
        ids.push(id);
    }
    for _ in 0..PAUSES {
        for (id, samples) in ids.iter().zip([&mut report.pause_small, &mut report.pause_large]) {
            let start = Instant::now();
            client.pause(id).await?;
            samples.push(ms_since(start));
            // Wakes it again.
            client.execute(id, "true").await?;
        }
    }
    client.pause(&ids[0]).await?;
    let (plain_bytes, stored_bytes) = server.only_checkpoint()?;
    report.stored = Some(Stored { written_bytes: WRITTEN_MIB << 20, plain_bytes, stored_bytes });
    for id in ids {
        client.delete(&id).await?;
    }
    Ok(())
}
