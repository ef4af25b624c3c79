//! Checks, before a starting server touches anything, that its settings fit the machines that the previous server left
//! running. A setting that decides how a machine is found or isolated (driver, data directory, link block, uids) cannot
//! be changed under it: with another value the machine could not be taken over, and this check refuses to start
//! instead.

use crate::error::StartError;
use crate::recovery::shortened;
use leapbox_db::{Db, VmRecord};
use leapbox_ids::SandboxId;
use leapbox_network::NetworkConfig;
use leapbox_vmm::{Life, Vmm};
use std::fmt::Write;
use std::path::Path;

/// A machine that runs, and the sandbox it is of.
struct Running {
    sandbox: SandboxId,
    vm: VmRecord,
}

/// Refuses ([`StartError::Takeover`]) if a machine that runs could not be taken over by a server with this driver, this
/// network and this state directory. Nothing is changed.
pub async fn check_takeover(
    db: &Db,
    vmm: &dyn Vmm,
    network: &NetworkConfig,
    state_dir: &Path,
) -> Result<(), StartError> {
    let sandboxes = db.sandbox_unfinished().await?;
    let recorded = sandboxes
        .iter()
        .filter_map(|sandbox| Some(Running { sandbox: sandbox.id().clone(), vm: sandbox.status.live()?.vm.clone() }));
    // One of which it cannot be said whether it lives is treated as alive.
    let running: Vec<_> = recorded.filter(|one| !matches!(one.vm.machine.life(), Life::Dead)).collect();
    let slots: Vec<_> = running.iter().map(|one| (one.vm.slot, one.vm.machine.uid)).collect();
    let obstacles = leapbox_network::check_takeover(network, &slots)?;
    let machines_dir = state_dir.join("machines");
    let refused = running.iter().zip(obstacles).filter_map(|(one, network)| {
        let reason = other_driver(&one.vm, vmm)
            .or_else(|| other_directory(&one.vm, &machines_dir))
            .or_else(|| network.map(|obstacle| obstacle.to_string()))?;
        Some((one, reason))
    });
    let refused: Vec<_> = refused.collect();
    if refused.is_empty() { Ok(()) } else { Err(StartError::Takeover(explain(&refused))) }
}

fn other_driver(vm: &VmRecord, vmm: &dyn Vmm) -> Option<String> {
    let (recorded, own) = (&vm.machine.driver, vmm.name());
    (recorded != own).then(|| {
        format!(
            "runs with {recorded}, and this server would use {own}: set driver = \"{recorded}\" (`leapbox doctor` says \
             why it was not picked)"
        )
    })
}

fn other_directory(vm: &VmRecord, machines_dir: &Path) -> Option<String> {
    let recorded = &vm.machine.dir;
    // Compared as the kernel sees them, because a data directory may be given by another path or through a link.
    let here = machines_dir.join(&vm.machine.name).canonicalize();
    match (here, recorded.canonicalize()) {
        (Ok(here), Ok(there)) if here == there => None,
        _ => Some(format!(
            "runs from {}, which is not in this server's data directory ({}): set data_dir as it was, or move the \
             directory back",
            recorded.display(),
            machines_dir.display()
        )),
    }
}

/// The text of the refusal: what runs, why it does not fit, and both ways out.
fn explain(refused: &[(&Running, String)]) -> String {
    let mut text =
        format!("{} sandbox(es) run that this server could not take over; nothing has been touched.", refused.len());
    // Mostly one setting is the reason for all of them, so sandboxes are grouped by it.
    let mut reasons: Vec<&str> = refused.iter().map(|(_, reason)| reason.as_str()).collect();
    reasons.sort_unstable();
    reasons.dedup();
    // Each reason of a moved directory names its machine, and a thousand of them would help nobody.
    for reason in reasons.iter().take(3) {
        let of_it = refused.iter().filter(|(_, other)| other == reason);
        let names: Vec<_> = of_it.map(|(one, _)| one.sandbox.as_str()).collect();
        let _ = write!(text, "\n  {} {reason}", shortened(&names));
    }
    let pids: Vec<_> = refused.iter().map(|(one, _)| one.vm.machine.pid.to_string()).collect();
    let pids: Vec<_> = pids.iter().map(String::as_str).collect();
    let _ = write!(
        text,
        "\nEither set it back, or end these sandboxes first: with the former settings by DELETE or pause, or, if that \
         cannot be, by ending their machines, with all that is in them (kill -9 {})",
        shortened(&pids).replace(", ", " ")
    );
    text
}
