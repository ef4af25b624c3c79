//! A guest: a namespace with a whole Linux network stack, whose `eth0` and `eth1` are behind a slot's taps. What a VMM
//! does between the two, a thread does here. As root of its own kernel would, it can also put any frame on the wire.

use super::{SILENCE, frames, inside, ip, new_netns};
use leapbox_network::Slot;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub struct Guest {
    pub netns: Arc<OwnedFd>,
    workload: Arc<File>,
    channel: Arc<File>,
    stop: Arc<AtomicBool>,
    pumps: Vec<std::thread::JoinHandle<()>>,
}

impl Guest {
    /// Attaches to both taps of a slot, as its VMM would.
    pub fn attach(slot: &Slot) -> Self {
        let (workload, channel) = inside(&slot.netns(), || (open_tap("tap0"), open_tap("tap1")));
        let netns = Arc::new(new_netns());
        let (eth0, eth1) = inside(&netns, || {
            let nics = (open_tap("eth0"), open_tap("eth1"));
            for (nic, mac, address) in
                [("eth0", "02:4c:42:00:00:02", "10.254.254.2/30"), ("eth1", "02:4c:42:00:01:02", "169.254.100.2/30")]
            {
                ip(&format!("link set {nic} address {mac}"));
                ip(&format!("link set {nic} up"));
                ip(&format!("addr add {address} dev {nic}"));
            }
            ip("route add default via 10.254.254.1");
            nics
        });
        let stop = Arc::new(AtomicBool::new(false));
        let (workload, channel) = (Arc::new(workload), Arc::new(channel));
        let pumps = vec![
            pump(workload.clone(), Arc::new(eth0), stop.clone()),
            pump(channel.clone(), Arc::new(eth1), stop.clone()),
        ];
        Self { netns, workload, channel, stop, pumps }
    }

    /// Runs something in the guest.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        inside(&self.netns, work)
    }

    /// Whether an ICMP echo request is answered.
    pub fn pings(&self, to: Ipv4Addr) -> bool {
        self.run(move || {
            let socket = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Icmp);
            let socket = socket.expect("raw socket");
            let patience = TimeVal::milliseconds(SILENCE.as_millis() as i64);
            setsockopt(&socket, sockopt::ReceiveTimeout, &patience).expect("timeout");
            let target = SockaddrIn::from(SocketAddrV4::new(to, 0));
            sendto(socket.as_raw_fd(), &frames::echo_request(), &target, MsgFlags::empty()).expect("send");
            let mut buffer = [0; 128];
            // What comes back may also be an error about the request; only type 0 is an answer.
            std::iter::from_fn(|| recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()).ok().map(|_| buffer[20]))
                .any(|kind| kind == 0)
        })
    }

    /// Puts a frame on the workload's wire, whatever it is.
    pub fn inject(&self, frame: &[u8]) {
        (&*self.workload).write_all(frame).expect("tap takes the frame");
    }

    /// Puts a frame on the channel's wire.
    pub fn inject_channel(&self, frame: &[u8]) {
        (&*self.channel).write_all(frame).expect("tap takes the frame");
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        for pump in self.pumps.drain(..) {
            let _ = pump.join();
        }
    }
}

fn pump(one: Arc<File>, other: Arc<File>, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65536];
        while !stop.load(Ordering::Acquire) {
            let mut fds = [PollFd::new(one.as_fd(), PollFlags::POLLIN), PollFd::new(other.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, PollTimeout::from(20u8)).is_err() {
                return;
            }
            let readable = fds.map(|fd| fd.revents().is_some_and(|events| events.contains(PollFlags::POLLIN)));
            for (readable, from, to) in [(readable[0], &one, &other), (readable[1], &other, &one)] {
                if readable && let Ok(length) = (&**from).read(&mut buffer) {
                    let _ = (&**to).write(&buffer[..length]);
                }
            }
        }
    })
}

/// Attaches to a tap of the calling thread's namespace, making it where there is none.
pub fn open_tap(name: &str) -> File {
    nix::ioctl_write_ptr_bad!(set_iff, nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()), libc::ifreq);
    let device = OpenOptions::new().read(true).write(true).open("/dev/net/tun").expect("/dev/net/tun");
    // SAFETY: ifreq is plain data, for which all zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the descriptor is open and `request` a whole ifreq.
    unsafe { set_iff(device.as_raw_fd(), &request) }.expect("tap opens");
    device
}
