//! What idle sandboxes cost.

use crate::error::BenchError;
use crate::figures::{Idle, Report};
use crate::server::Server;

const MIB: f64 = 1024.0 * 1024.0;

pub async fn measure(count: u32, server: &Server, report: &mut Report) -> Result<(), BenchError> {
    let client = server.client();
    let mut ids = Vec::new();
    for _ in 0..count {
        let id = client.create().await?;
        client.execute(&id, "true").await?;
        ids.push(id);
    }
    let mut private = Vec::new();
    for pid in server.vmm_pids()? {
        private.push(leapbox_vmm::private_bytes(pid)? as f64 / MIB);
    }
    private.sort_by(f64::total_cmp);
    let mut all_answered = true;
    for id in &ids {
        all_answered &= client.execute(id, "true").await.is_ok();
    }
    for id in ids {
        client.delete(&id).await?;
    }
    report.idle = Some(Idle {
        sandboxes: count,
        private_mib_median: private.get(private.len() / 2).copied().unwrap_or(f64::NAN),
        private_mib_max: private.last().copied().unwrap_or(f64::NAN),
        all_answered,
    });
    Ok(())
}
