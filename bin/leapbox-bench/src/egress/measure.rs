//! What is measured: the role `egress measure`, the process that has Leapbox's egress proxy in it.

use super::admission;
use super::figures::{Compared, EgressFigures, Opaque, Transform};
use super::load::{Done, Kind};
use super::netns::Netns;
use super::world::{
    DIALLED_BY_PLAIN, DIALLED_BY_PROXY, DIALLED_BY_SLOT, HTTPS_PORT, PLAIN_GATEWAY, SERVER, STREAM_PORT, World,
};
use super::{TRANSFORMED, haproxy, nginx};
use crate::process::{multi_threaded, parse, this_program};
use crate::proxy::load::LoadResult;
use crate::rival::{Rival, Rounds};
use crate::scratch::Scratch;
use crate::web::{BULK, SMALL};
use anyhow::Result;
use clap::ValueEnum;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Rounds for each side; more where there is a promise.
const ROUNDS: Rounds = Rounds { count: 5, length: Duration::from_millis(700), warm_up: Duration::from_millis(150) };
const PROMISED_ROUNDS: Rounds = Rounds { count: 7, ..ROUNDS };
/// Connections at a time where new ones are counted.
const NEW: usize = 16;
/// Connections of a bulk transfer that has several.
const SEVERAL: usize = 4;
const MB: f64 = 1e6;

/// Measures everything, in namespaces that end with this process.
pub(super) fn measure(scratch: &Scratch) -> Result<EgressFigures> {
    // Before the runtime: its threads are to be in the same namespace.
    let root = Netns::enter_fresh()?;
    let runtime = multi_threaded()?;
    eprintln!("policies put in force …");
    let admission = admission::measure(&root, &runtime)?;
    let world = World::make(&root, &runtime, scratch)?;
    let load = Load { scratch, world: &world };
    eprintln!("through NAT, in turn …");
    let nat = load.nat()?;
    eprintln!("opaque, beside haproxy, in turn …");
    let (haproxy, opaque) = match haproxy::start(scratch)? {
        Rival::Running(_running, version) => (version, load.opaque(true)?),
        Rival::Missing(why) => (why, load.opaque(false)?),
    };
    eprintln!("a transform, beside nginx, in turn …");
    let (nginx, transform) = match nginx::start(scratch)? {
        Rival::Running(_running, version) => (version, load.transform(true)?),
        Rival::Missing(why) => (why, load.transform(false)?),
    };
    Ok(EgressFigures { haproxy, nginx, nat, opaque, transform, admission })
}

struct Load<'a> {
    scratch: &'a Scratch,
    world: &'a World,
}

/// One way out: where the load is, and what it dials.
#[derive(Clone, Copy)]
struct Way<'a> {
    netns: &'a Netns,
    address: Ipv4Addr,
    /// Of the server that answers once.
    port: u16,
}

impl Load<'_> {
    /// The kernel alone, with a slot and without.
    fn nat(&self) -> Result<Opaque> {
        let ours = Way { netns: &self.world.open.netns, address: SERVER, port: DIALLED_BY_SLOT };
        let theirs = Way { netns: &self.world.plain, address: SERVER, port: DIALLED_BY_PLAIN };
        hellos(ours, Some(theirs), ROUNDS)
    }

    /// By SNI, bytes as they are.
    fn opaque(&self, beside: bool) -> Result<Opaque> {
        let (ours, theirs) = self.proxies();
        hellos(ours, beside.then_some(theirs), PROMISED_ROUNDS)
    }

    /// Through Leapbox's proxy, and through another one.
    fn proxies(&self) -> (Way<'_>, Way<'_>) {
        let ours = Way { netns: &self.world.custom.netns, address: SERVER, port: DIALLED_BY_PROXY };
        let theirs = Way { netns: &self.world.plain, address: PLAIN_GATEWAY, port: DIALLED_BY_PROXY };
        (ours, theirs)
    }

    /// TLS terminated on the way.
    fn transform(&self, beside: bool) -> Result<Transform> {
        let (ours, theirs) = self.proxies();
        let theirs = beside.then_some(theirs);
        let is_ours = |way: Way<'_>| way.address == SERVER;
        let bulk = |way: Way<'_>, time| {
            let done = self.requests(way, is_ours(way), BULK, time)?;
            Ok(done.requests as f64 * BULK as f64 / MB / done.seconds)
        };
        let small = |way: Way<'_>, time| {
            let done = self.requests(way, is_ours(way), SMALL, time)?;
            Ok(done.requests as f64 / done.seconds)
        };
        let new = |way: Way<'_>, time| {
            let done = self.tls(way, is_ours(way), time)?;
            Ok(done.connections as f64 / done.seconds)
        };
        Ok(Transform {
            bulk: compare(ROUNDS, ours, theirs, bulk)?,
            requests: compare(ROUNDS, ours, theirs, small)?,
            connections: compare(ROUNDS, ours, theirs, new)?,
        })
    }

    fn tls(&self, way: Way<'_>, ours: bool, time: Duration) -> Result<Done> {
        let port = if ours { HTTPS_PORT } else { nginx::FRESH_PORT };
        let mut command = generator(Kind::Tls, way, port, NEW, time)?;
        command.args(["--host", TRANSFORMED, "--certificate"]).arg(self.trusted(ours));
        read(way.netns, &mut command)
    }

    /// One kept connection, by the load generator of the gateway's bench.
    fn requests(&self, way: Way<'_>, ours: bool, bytes: usize, time: Duration) -> Result<LoadResult> {
        let port = if ours { HTTPS_PORT } else { nginx::KEPT_PORT };
        let mut command = this_program()?;
        command.args(["load", "--address", &SocketAddr::from((way.address, port)).to_string()]);
        command.args(["--host", TRANSFORMED, "--key", "none", "--certificate"]).arg(self.trusted(ours));
        command.args(["--answer-bytes", &bytes.to_string(), "--connections", "1"]);
        command.args(["--ms", &time.as_millis().to_string()]);
        read(way.netns, &mut command)
    }

    fn trusted(&self, ours: bool) -> PathBuf {
        if ours { self.scratch.sandbox_authority() } else { self.scratch.authority() }
    }
}

fn hellos(ours: Way<'_>, theirs: Option<Way<'_>>, rounds: Rounds) -> Result<Opaque> {
    let bulk = |connections| {
        move |way: Way<'_>, time| {
            let done: Done = read(way.netns, &mut generator(Kind::Stream, way, STREAM_PORT, connections, time)?)?;
            Ok(done.bytes as f64 / MB / done.seconds)
        }
    };
    let new = |way: Way<'_>, time| {
        let done: Done = read(way.netns, &mut generator(Kind::Answers, way, way.port, NEW, time)?)?;
        Ok(done.connections as f64 / done.seconds)
    };
    Ok(Opaque {
        bulk: compare(rounds, ours, theirs, bulk(1))?,
        bulk_of_several: compare(rounds, ours, theirs, bulk(SEVERAL))?,
        connections: compare(rounds, ours, theirs, new)?,
    })
}

fn generator(kind: Kind, way: Way<'_>, port: u16, connections: usize, time: Duration) -> Result<Command> {
    let kind = kind.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    let address = SocketAddr::from((way.address, port));
    let mut command = this_program()?;
    command.args(["egress", "load", "--kind", &kind, "--address", &address.to_string()]);
    command.args(["--connections", &connections.to_string(), "--ms", &time.as_millis().to_string()]);
    Ok(command)
}

/// Runs a load inside and reads its line.
fn read<T: serde::de::DeserializeOwned>(netns: &Netns, command: &mut Command) -> Result<T> {
    parse("load", &netns.output(command)?.stdout)
}

fn compare<'a>(
    rounds: Rounds,
    ours: Way<'a>,
    theirs: Option<Way<'a>>,
    rate: impl Fn(Way<'a>, Duration) -> Result<f64>,
) -> Result<Compared> {
    let (of_ours, of_theirs) = rounds.in_turn(ours, theirs, rate)?;
    tracing::debug!(?of_ours, ?of_theirs, "rounds");
    Ok(Compared::of(of_ours, of_theirs))
}
