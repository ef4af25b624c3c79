//! What idle sandboxes cost.

use crate::figures::{Idle, Report, median};
use crate::server::Server;
use anyhow::{Context, Result};

const MIB: f64 = 1024.0 * 1024.0;

pub async fn measure(count: u32, server: &Server, report: &mut Report) -> Result<()> {
    let client = server.client();
    let mut ids = Vec::new();
    for _ in 0..count {
        let id = client.create().await?;
        client.execute(&id, "true").await?;
        ids.push(id);
    }
    let mut private = Vec::new();
    for pid in server.vmm_pids()? {
        private.push(leapbox_vmm::private_bytes(pid).context("the memory of a VMM")? as f64 / MIB);
    }
    let mut all_answered = true;
    for id in &ids {
        all_answered &= client.execute(id, "true").await.is_ok();
    }
    for id in ids {
        client.delete(&id).await?;
    }
    report.idle = Some(Idle {
        sandboxes: count,
        private_mib_median: median(private.iter().copied()).unwrap_or(f64::NAN),
        private_mib_max: private.into_iter().reduce(f64::max).unwrap_or(f64::NAN),
        all_answered,
    });
    Ok(())
}
