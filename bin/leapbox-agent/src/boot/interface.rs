//! Configures network cards with the ioctls of netdevice(7) and arp(7): each is one call without an answer to parse,
//! where netlink would take a message builder. Called by `channel` and `workload_net`.

use super::BootError;
use leapbox_errors::FileError;
use leapbox_guest_protocol::net::mac_string;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

/// Flags of an entry of the neighbour table (<net/if_arp.h>): it is complete, and it never expires.
const ATF_COM: libc::c_int = 0x02;
const ATF_PERM: libc::c_int = 0x04;

/// Finds the name of the card with this MAC address.
pub(super) fn by_mac(mac: [u8; 6]) -> Result<String, BootError> {
    let mac = mac_string(mac);
    let cards = fs::read_dir("/sys/class/net").map_err(FileError::of("reading", "/sys/class/net"))?;
    for card in cards.flatten() {
        if fs::read_to_string(card.path().join("address")).is_ok_and(|found| found.trim() == mac) {
            return Ok(card.file_name().to_string_lossy().into_owned());
        }
    }
    Err(BootError::NoCard { mac })
}

/// A card of the network namespace that the calling thread is in when this is made: its socket belongs there.
pub(super) struct Interface {
    name: String,
    socket: OwnedFd,
}

impl Interface {
    pub(super) fn new(name: &str) -> Result<Self, BootError> {
        let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
            .map_err(BootError::network("opening a socket for", name))?;
        Ok(Self { name: name.to_owned(), socket })
    }

    /// Renames the card, which must be down.
    pub(super) fn rename(&mut self, name: &str) -> Result<(), BootError> {
        if self.name == name {
            return Ok(());
        }
        let mut request = self.request();
        copy_name(&mut request, name);
        self.ioctl(libc::SIOCSIFNAME, &request, "renaming")?;
        self.name = name.to_owned();
        Ok(())
    }

    /// Turns IPv6 off on the card. To be called before it is up: a card that comes up with IPv6 gives itself an address
    /// and sends router solicitations, and no sandbox has IPv6.
    pub(super) fn disable_ipv6(&self) -> Result<(), FileError> {
        let path = format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", self.name);
        crate::cgroup::write(path.as_ref(), "1").map_err(FileError::of("writing", path))
    }

    pub(super) fn set_address(&self, ip: Ipv4Addr, prefix: u8) -> Result<(), BootError> {
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
        let mut request = self.request();
        request.ifr_ifru.ifru_addr = sockaddr(ip);
        self.ioctl(libc::SIOCSIFADDR, &request, "setting the address of")?;
        request.ifr_ifru.ifru_netmask = sockaddr(Ipv4Addr::from(mask));
        self.ioctl(libc::SIOCSIFNETMASK, &request, "setting the netmask of")
    }

    pub(super) fn set_up(&self) -> Result<(), BootError> {
        let mut request = self.request();
        let flags = libc::IFF_UP | libc::IFF_RUNNING;
        request.ifr_ifru.ifru_flags = i16::try_from(flags).unwrap_or_default();
        self.ioctl(libc::SIOCSIFFLAGS, &request, "bringing up")
    }

    /// Adds a permanent entry to the neighbour table, so that no ARP request is sent and no false answer is believed.
    pub(super) fn set_neighbour(&self, ip: Ipv4Addr, mac: [u8; 6]) -> Result<(), BootError> {
        // SAFETY: plain data, all-zero is valid.
        let mut request: libc::arpreq = unsafe { std::mem::zeroed() };
        request.arp_pa = sockaddr(ip);
        request.arp_ha.sa_family = libc::ARPHRD_ETHER;
        for (byte, value) in request.arp_ha.sa_data.iter_mut().zip(mac) {
            *byte = value.cast_signed();
        }
        request.arp_flags = ATF_COM | ATF_PERM;
        for (byte, value) in request.arp_dev.iter_mut().zip(self.name.bytes()) {
            *byte = value.cast_signed();
        }
        self.ioctl(libc::SIOCSARP, &request, "adding a neighbour of")
    }

    pub(super) fn set_default_route(&self, gateway: Ipv4Addr) -> Result<(), BootError> {
        // SAFETY: plain data, all-zero is valid (0.0.0.0/0, and no device name).
        let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
        route.rt_dst = sockaddr(Ipv4Addr::UNSPECIFIED);
        route.rt_genmask = sockaddr(Ipv4Addr::UNSPECIFIED);
        route.rt_gateway = sockaddr(gateway);
        route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
        self.ioctl(libc::SIOCADDRT, &route, "adding the default route of")
    }

    fn request(&self) -> libc::ifreq {
        // SAFETY: plain data, all-zero is valid.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (byte, value) in request.ifr_name.iter_mut().zip(self.name.bytes().take(libc::IFNAMSIZ - 1)) {
            *byte = value.cast_signed();
        }
        request
    }

    fn ioctl<T>(&self, number: libc::c_ulong, argument: &T, step: &'static str) -> Result<(), BootError> {
        // SAFETY: each of the requests above reads one structure of the type it is called with, and writes none.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), number, std::ptr::from_ref(argument)) };
        Errno::result(result).map(drop).map_err(io::Error::from).map_err(BootError::network(step, &self.name))
    }
}

fn copy_name(request: &mut libc::ifreq, name: &str) {
    let mut bytes = [0; libc::IFNAMSIZ];
    for (byte, value) in bytes.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *byte = value.cast_signed();
    }
    request.ifr_ifru.ifru_newname = bytes;
}

/// An IPv4 address as a `sockaddr_in` in the generic `sockaddr`: port (0) in the first two bytes, then the address.
fn sockaddr(ip: Ipv4Addr) -> libc::sockaddr {
    let mut data = [0; 14];
    for (byte, value) in data[2..6].iter_mut().zip(ip.octets()) {
        *byte = value.cast_signed();
    }
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data }
}
