"""What a hostile guest's root can do to its VMM through the virtio devices: garbage in registers and queues.

Takes every device from its driver, so that the kernel lets go of the registers, and drives them by hand through
/dev/mem. Everything it needs is in locked memory before the first device goes, because its disks go, too. Tells the
console how far it came.
"""

import ctypes
import glob
import mmap
import os
import random
import re
import struct
from itertools import pairwise

PAGE = 4096
DRIVER = "/sys/bus/platform/drivers/virtio-mmio"
ROUNDS = 40
QUEUES = 3
SIZE = 128  # entries of a queue: its descriptors fill half a page
MAGIC, VERSION, DEVICE_ID = 0x00, 0x04, 0x08
DRIVER_FEATURES, DRIVER_FEATURES_SEL = 0x20, 0x24
QUEUE_SEL, QUEUE_NUM, QUEUE_READY, QUEUE_NOTIFY, STATUS = 0x30, 0x38, 0x44, 0x50, 0x70
QUEUE_DESC, QUEUE_AVAIL, QUEUE_USED = 0x80, 0x90, 0xA0
# Of version 1, which has one address for the whole queue.
GUEST_PAGE_SIZE, QUEUE_ALIGN, QUEUE_PFN = 0x28, 0x3C, 0x40
AVAIL, USED = SIZE * 16, PAGE  # where they are behind the descriptors, in both versions
NEXT, WRITE, INDIRECT = 1, 2, 4

random.seed(20)


def devices():
    """Name → physical address of the registers."""
    bound = {os.path.basename(path) for path in glob.glob(f"{DRIVER}/*:*")}
    with open("/proc/iomem") as text:
        listed = re.findall(r"([0-9a-f]+)-[0-9a-f]+ : (\S+)", text.read())
    return {name: int(start, 16) for start, name in reversed(listed) if name in bound}


def physical(address):
    """The physical address of a locked page of this process."""
    with open("/proc/self/pagemap", "rb") as pagemap:
        pagemap.seek(address // PAGE * 8)
        (entry,) = struct.unpack("<Q", pagemap.read(8))
    return (entry & ((1 << 55) - 1)) * PAGE


class Device:
    def __init__(self, memory, address):
        self._window = mmap.mmap(memory, PAGE, offset=address & ~(PAGE - 1))
        self._start = address & (PAGE - 1)

    def _register(self, offset):
        return ctypes.c_uint32.from_buffer(self._window, self._start + offset)

    def read(self, offset):
        return self._register(offset).value

    def write(self, offset, value):
        self._register(offset).value = value & 0xFFFFFFFF

    def write_address(self, offset, value):
        self.write(offset, value)
        self.write(offset + 4, value >> 32)


def garbage_address(own):
    """Sometimes a place that exists, mostly none that should be taken."""
    nowhere = [0xFEB00000, 0xFEE00000, 0xD0000000, 1 << 40, (1 << 64) - 1, (1 << 64) - PAGE]
    return random.choice([own, own + random.randrange(PAGE), *nowhere])


def fill(ring, start):
    """Descriptors that loop, overlap, point nowhere and are longer than anything; more of them than there are."""
    for number in range(SIZE):
        length = random.choice([0, 1, 16, 4096, 1 << 16, 1 << 31, 0xFFFFFFFF])
        flags = random.choice([0, NEXT, WRITE, NEXT | WRITE, INDIRECT, INDIRECT | NEXT, 0xFFFF])
        following = random.choice([number, (number + 1) % SIZE, SIZE, 0xFFFF, random.randrange(SIZE)])
        struct.pack_into("<QIHH", ring, number * 16, garbage_address(start), length, flags, following)
    struct.pack_into("<HH", ring, AVAIL, 0, random.choice([1, 3, SIZE, SIZE + 1, 0x7FFF, 0xFFFF]))
    for number in range(SIZE):
        struct.pack_into("<H", ring, AVAIL + 4 + number * 2, random.choice([number, SIZE, 0xFFFF]))


def negotiate(device):
    for step in (0, 1, 3):
        device.write(STATUS, step)
    device.write(DRIVER_FEATURES_SEL, 1)
    device.write(DRIVER_FEATURES, 1)  # VIRTIO_F_VERSION_1
    device.write(DRIVER_FEATURES_SEL, 0)
    device.write(DRIVER_FEATURES, random.choice([0, 0xFFFFFFFF, random.getrandbits(32)]))
    device.write(STATUS, 11)


def offer(device, queue, start):
    device.write(QUEUE_SEL, queue)
    device.write(QUEUE_NUM, random.choice([SIZE, SIZE, SIZE, 0, 1, 3, 0xFFFF]))
    if device.read(VERSION) == 1:
        device.write(GUEST_PAGE_SIZE, PAGE)
        device.write(QUEUE_ALIGN, PAGE)
        device.write(QUEUE_PFN, start // PAGE)
        return
    for register, behind in ((QUEUE_DESC, 0), (QUEUE_AVAIL, AVAIL), (QUEUE_USED, USED)):
        device.write_address(register, start + behind)
    device.write(QUEUE_READY, 1)


def abuse(device, ring, start):
    for turn in range(ROUNDS):
        negotiate(device)
        for queue in range(QUEUES):
            fill(ring, start)
            offer(device, queue, garbage_address(start) if turn % 4 == 3 else start)
        device.write(STATUS, 15)
        for queue in (*range(QUEUES), 7, 0xFFFF, 0xFFFFFFFF):
            device.write(QUEUE_NOTIFY, queue)
    for _ in range(2000):
        device.write(random.randrange(0, 0x200, 4), random.getrandbits(32))
        device.read(random.randrange(0, 0x200, 4))


def ring_and_address():
    """Two pages of this process that lie side by side in the guest's memory, too: a view of them, their address."""
    count = 512
    memory = mmap.mmap(-1, count * PAGE)
    memory.write(b"\xff" * count * PAGE)
    virtual = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    places = [physical(virtual + number * PAGE) for number in range(count)]
    for number, (place, following) in enumerate(pairwise(places)):
        if following == place + PAGE:
            return memoryview(memory)[number * PAGE : (number + 2) * PAGE], place
    raise SystemExit("garbage: no two pages lie side by side")


def main():
    found = devices()
    memory = os.open("/dev/mem", os.O_RDWR | os.O_SYNC)
    unbind = os.open(f"{DRIVER}/unbind", os.O_WRONLY)
    if ctypes.CDLL(None).mlockall(3) != 0:  # what is there and what will come
        raise SystemExit("garbage: memory cannot be locked")
    ring, start = ring_and_address()
    print(f"garbage: {len(found)} devices", flush=True)
    for name in found:
        os.write(unbind, name.encode())
    taken = [Device(memory, address) for address in found.values()]
    if not taken or any(device.read(MAGIC) != 0x74726976 for device in taken):
        raise SystemExit("garbage: these are no virtio devices")
    for device in taken:
        kind, version = device.read(DEVICE_ID), device.read(VERSION)
        abuse(device, ring, start)
        print(f"garbage: through with a device of kind {kind}, version {version}", flush=True)
    print("garbage: done", flush=True)


main()
