//! Measures what slots cost: preparing one, taking one from the pool, and a connection into one against the same
//! connection without a namespace in between. Makes a network namespace of its own to work in.

use leapbox_network::{Network, NetworkConfig};
use nix::sched::{CloneFlags, unshare};
use std::error::Error;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

const ROUNDS: usize = 200;

fn main() -> Result<(), Box<dyn Error>> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    // Threads of the runtime are started after, and inherit the new namespace.
    tokio::runtime::Runtime::new()?.block_on(measure())
}

async fn measure() -> Result<(), Box<dyn Error>> {
    let config = NetworkConfig { prepared: 32, dns_upstreams: Some(vec![]), ..NetworkConfig::default() };
    let network = Network::start(config).await?;
    let mut prepare = vec![];
    let mut slots = vec![];
    for _ in 0..32 {
        let start = Instant::now();
        slots.push(network.take().await?);
        prepare.push(start.elapsed());
    }
    report("prepare a slot", prepare);
    network.start_pool();
    while network.stats().prepared < 32 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut take = vec![];
    for _ in 0..16 {
        let start = Instant::now();
        slots.push(network.take().await?);
        take.push(start.elapsed());
    }
    report("take from the pool", take);
    connects(&slots[0]).await?;
    let start = Instant::now();
    for slot in slots {
        slot.close().await;
    }
    while network.stats().releasing > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    println!("48 slots closed and released in {:?}", start.elapsed());
    network.stop(leapbox_network::HostTable::Remove).await?;
    Ok(())
}

/// The slot's own loopback answers in both cases; what differs is the way to the socket.
async fn connects(slot: &leapbox_network::Slot) -> Result<(), Box<dyn Error>> {
    let netns = slot.netns();
    let thread = std::thread::spawn(move || {
        nix::sched::setns(&*netns, CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from)?;
        std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
            let address = listener.local_addr()?;
            Ok((listener, runtime, address))
        })
    });
    let (listener, runtime, address) = thread.join().map_err(|_| "the listening thread died")??;
    let port = address.port();
    // Its socket would keep the slot's namespace alive, so it ends with the last connection.
    std::thread::spawn(move || (0..2 * ROUNDS).all(|_| listener.accept().is_ok()));
    let target = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    let mut through_slot = vec![];
    for _ in 0..ROUNDS {
        let start = Instant::now();
        slot.connect(target, Duration::from_secs(5)).await?;
        through_slot.push(start.elapsed());
    }
    report("connect into a slot", through_slot);
    let netns = slot.netns();
    let bare = std::thread::spawn(move || -> std::io::Result<Vec<Duration>> {
        nix::sched::setns(&*netns, CloneFlags::CLONE_NEWNET)?;
        runtime.block_on(async {
            let mut times = vec![];
            for _ in 0..ROUNDS {
                let start = Instant::now();
                tokio::net::TcpStream::connect(target).await?;
                times.push(start.elapsed());
            }
            Ok(times)
        })
    });
    report("bare connect in the same namespace", bare.join().map_err(|_| "the connecting thread died")??);
    Ok(())
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!("{what}: p50 {:?}, p95 {:?}, max {:?}, {} rounds", at(50), at(95), at(100), times.len());
}
