//! Keeps the host-wide table in place while the server runs. Other programs can remove it under running sandboxes:
//! `nft flush ruleset`, which a restart of nftables.service runs, removes the tables of everybody.
//!
//! ```text
//! kernel's events, or 10 s ──► watch ──► nft list ── something is missing ──► nft -f: the table, opened networks too
//! meanwhile the guard, a table that only this process can remove, drops what comes from a slot unchecked
//! ```
//!
//! [`crate::Network`] starts the watch. Everything that this process changes in the table is changed under
//! `Shared::host_table`.

mod guard;
mod listing;
mod watch;

pub(crate) use guard::Guard;
pub(crate) use listing::Listing;
pub(crate) use watch::watch;

use crate::config::NetworkConfig;
use crate::error::NetworkError;
use crate::namespace;
use crate::nft;
use crate::plan::{SlotPlan, table_name};
use crate::rules;
use crate::shared::Shared;
use leapbox_egress_policy::Cidr;
use std::net::Ipv4Addr;

/// Returns what the table of this configuration must have, as the installed `nft` lists it.
pub(crate) async fn expected(config: &NetworkConfig) -> Result<Listing, NetworkError> {
    // Read from a table in a namespace of its own: in the server's, another program could change it before it is read.
    let (script, table) = (rules::host_table(config), table_name(&config.instance));
    namespace::scratch(move || {
        nft::apply(&script)?;
        nft::table_json(&table).map(|json| Listing::parse(&json))
    })
    .await
}

impl Shared {
    /// Whether something of the table is missing. It blocks for some milliseconds.
    fn host_table_lacks(&self, expected: &Listing) -> Result<bool, NetworkError> {
        let kept = self.host_table.lock();
        Ok(*kept && self.lacks(expected, &self.opened_networks())?)
    }

    /// Makes the table again if something of it is missing, and returns whether something was. It blocks for some
    /// milliseconds.
    fn restore_host_table(&self, expected: &Listing) -> Result<bool, NetworkError> {
        let kept = self.host_table.lock();
        let opened = self.opened_networks();
        // The network may have been stopped since it was looked at, and its table removed.
        if !*kept || !self.lacks(expected, &opened)? {
            return Ok(false);
        }
        nft::apply(&rules::restored_host_table(&self.config, &opened))?;
        Ok(true)
    }

    fn lacks(&self, expected: &Listing, opened: &[(Ipv4Addr, Vec<Cidr>)]) -> Result<bool, NetworkError> {
        let found = match nft::table_json(&table_name(&self.config.instance)) {
            Ok(json) => Listing::parse(&json),
            // There is no such table.
            Err(NetworkError::NftFailed { .. }) => Listing::default(),
            Err(error) => return Err(error),
        };
        let named: usize = opened.iter().map(|(_, networks)| networks.len()).sum();
        Ok(!found.has_all_of(expected) || found.elements("named") < named)
    }

    /// The networks that are opened in the table, by the address of their slot.
    fn opened_networks(&self) -> Vec<(Ipv4Addr, Vec<Cidr>)> {
        let address = |index| SlotPlan::new(&self.config, index).slot_address;
        let sandboxes = self.sandboxes();
        let in_force = sandboxes.iter().filter(|(_, sandbox)| sandbox.in_force);
        in_force.map(|(index, sandbox)| (address(*index), sandbox.opened.clone())).collect()
    }
}
