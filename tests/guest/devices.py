"""Runs inside a sandbox, as its root: takes the virtual machine's devices from the kernel and feeds them garbage.

`devices.py SEED SECONDS`. Every virtio device is unbound from its driver, the disks with the root file system and the
guest channel among them, so that this process alone speaks with the VMM's device models, from memory it has locked:

    registers ── random values at random offsets, queue addresses and notifications among them
    rings ────── descriptors that point nowhere, at themselves, out of memory, with absurd lengths; wild indices

Meanwhile it tells on the console, which is no virtio device, how many attacks there have been: `devices.py: N attacks`.
When it is over, and only then, it asks the kernel to reset the machine. A sandbox that could not be attacked lives on.
"""

import ctypes
import glob
import mmap
import os
import random
import re
import struct
import sys
import termios
import time

PAGE = 4096
MAGIC = int.from_bytes(b"virt", "little")
REGISTERS = 0x80
# virtio 1.2, section 4.2.2: offsets of a device's registers; queue addresses of both layouts, legacy and modern.
VERSION, DRIVER_FEATURES, FEATURES_SELECT, QUEUE_SELECT, QUEUE_SIZE = 0x04, 0x20, 0x24, 0x30, 0x38
PAGE_SIZE, QUEUE_ALIGN, QUEUE_PAGE = 0x28, 0x3C, 0x40
QUEUE_READY, NOTIFY, STATUS = 0x44, 0x50, 0x70
QUEUE_LENGTH = 16
# Descriptors, available and used ring: register → where in our ring they lie.
QUEUE_ADDRESSES = {0x80: 0, 0x90: 16 * QUEUE_LENGTH, 0xA0: PAGE}
INDIRECT, WRITE, NEXT = 4, 2, 1
TELL_S = 0.5

libc = ctypes.CDLL(None, use_errno=True)


class Device:
    """One virtio device's registers, and a ring of ours for it."""

    def __init__(self, memory, base, dice):
        # Whole words: a device ignores narrower accesses.
        self.registers = (ctypes.c_uint32 * REGISTERS).from_buffer(memory, base)
        self.dice = dice
        self.ring = mmap.mmap(-1, 2 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
        self.ring[:] = b"\0" * len(self.ring)
        self.frame = frame_of(self.ring)

    def write(self, offset, value):
        self.registers[offset // 4] = value & 0xFFFFFFFF

    def read(self, offset):
        return self.registers[offset // 4]

    def start(self, queue):
        """Sets one queue up as a driver would, on our ring."""
        for status in (0, 1, 3):
            self.write(STATUS, status)
        for page in (0, 1):
            self.write(FEATURES_SELECT, page)
            self.write(DRIVER_FEATURES, self.dice.choice((0, 1, 0xFFFFFFFF, self.dice.getrandbits(32))))
        self.write(STATUS, 11)
        self.write(PAGE_SIZE, PAGE)
        self.write(QUEUE_SELECT, queue)
        self.write(QUEUE_SIZE, QUEUE_LENGTH)
        self.write(QUEUE_ALIGN, PAGE)
        if self.read(VERSION) == 1:
            self.write(QUEUE_PAGE, self.frame)
        else:
            address = self.frame * PAGE
            for register, offset in QUEUE_ADDRESSES.items():
                self.write(register, address + offset)
                self.write(register + 4, (address + offset) >> 32)
            self.write(QUEUE_READY, 1)
        self.write(STATUS, 15)

    def fill_ring(self):
        """Descriptors no driver would write, and an index that says there are many."""
        for number in range(QUEUE_LENGTH):
            address = self.dice.choice((self.frame * PAGE, 0, 1 << 63, (1 << 64) - 1, self.dice.getrandbits(30)))
            length = self.dice.choice((0, 1, PAGE, 0xFFFFFFFF, self.dice.getrandbits(32)))
            flags = self.dice.choice((0, NEXT, WRITE, NEXT | WRITE, INDIRECT, INDIRECT | NEXT, 0xFFFF))
            following = self.dice.choice((number, 0, QUEUE_LENGTH, 0xFFFF, self.dice.randrange(QUEUE_LENGTH)))
            struct.pack_into("<QIHH", self.ring, 16 * number, address, length, flags, following)
        heads = [self.dice.randrange(2 * QUEUE_LENGTH) for _ in range(QUEUE_LENGTH)]
        index = self.dice.choice((1, QUEUE_LENGTH, QUEUE_LENGTH + 1, 0x7FFF, 0xFFFF))
        struct.pack_into(f"<HH{QUEUE_LENGTH}H", self.ring, 16 * QUEUE_LENGTH, 0, index, *heads)

    def hurt(self):
        queue = self.dice.randrange(4)
        self.start(queue)
        for _ in range(4):
            self.fill_ring()
            self.write(NOTIFY, self.dice.choice((queue, queue, 0xFFFF)))
        for _ in range(16):
            self.write(4 * self.dice.randrange(REGISTERS), self.dice.choice((0, 0xFFFFFFFF, self.dice.getrandbits(32))))


def frame_of(area):
    """The physical page number of locked memory; two neighbouring ones are not promised, nor needed by garbage."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    with open("/proc/self/pagemap", "rb") as pagemap:
        pagemap.seek(address // PAGE * 8)
        return struct.unpack("<Q", pagemap.read(8))[0] & ((1 << 55) - 1)


def bases():
    """Physical addresses of the devices' registers, as the kernel tells them."""
    found = []
    for place in glob.glob("/sys/bus/virtio/devices/virtio*"):
        owner = os.path.basename(os.path.dirname(os.path.realpath(place)))
        with open("/proc/iomem") as iomem:
            match = re.search(rf"([0-9a-f]+)-[0-9a-f]+ : .*{re.escape(owner)}", iomem.read())
        found.append((owner, int(match.group(1), 16)))
    return sorted(found)


def unbind(devices):
    """The network first, the disks last: what this process needs is in its memory already."""
    with open("/sys/bus/platform/drivers/virtio-mmio/unbind", "wb", buffering=0) as file:
        for owner, _ in reversed(devices):
            file.write(owner.encode())


def attack(seed, seconds):
    dice = random.Random(seed)
    reset = os.open("/proc/sysrq-trigger", os.O_WRONLY)
    console = os.open("/dev/console", os.O_WRONLY | os.O_NOCTTY)
    physical = os.open("/dev/mem", os.O_RDWR | os.O_SYNC)
    found = bases()
    libc.mlockall(1 | 2)
    unbind(found)
    pages = {base & -PAGE: mmap.mmap(physical, PAGE, offset=base & -PAGE) for _, base in found}
    devices = [Device(pages[base & -PAGE], base % PAGE, dice) for _, base in found]
    if any(device.read(0) != MAGIC for device in devices):
        sys.exit("a device is not ours")
    attacks, told, end = 0, 0.0, time.monotonic() + seconds
    while time.monotonic() < end:
        dice.choice(devices).hurt()
        attacks += 1
        if time.monotonic() - told > TELL_S:
            told = time.monotonic()
            os.write(console, b"devices.py: %d attacks\n" % attacks)
    os.write(console, b"devices.py: %d attacks\n" % attacks)
    # What the console has not sent yet would be lost with the machine.
    termios.tcdrain(console)
    os.write(reset, b"b")


if __name__ == "__main__":
    attack(int(sys.argv[1]), float(sys.argv[2]))
