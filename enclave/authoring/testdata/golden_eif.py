"""The image of `eif/tests.rs::an_independent_writer_gives_the_same_bytes_and_registers`, made with
nothing but Python's own hashlib, struct and zlib: python3 golden_eif.py"""

import hashlib
import struct
import zlib

KERNEL, LINE, METADATA, CODE, PINS = b"kernel", b"console=ttyS0", b"{}", b"code", b"pins"
SECTIONS = [(1, KERNEL), (2, LINE), (5, METADATA), (3, CODE), (3, PINS)]


def pcr(*parts):
    content = hashlib.sha384(b"".join(parts)).digest()
    return hashlib.sha384(bytes(48) + content).hexdigest()


body, offsets = b"", []
for kind, data in SECTIONS:
    offsets.append(548 + len(body))
    body += struct.pack(">HHQ", kind, 0, len(data)) + data
pad = [0] * (32 - len(SECTIONS))
head = struct.pack(">4sHHQQHH", b".eif", 4, 0, 1 << 30, 2, 0, len(SECTIONS))
head += struct.pack(">32Q", *offsets, *pad)
head += struct.pack(">32Q", *[len(data) for _, data in SECTIONS], *pad) + bytes(4)
image = head + struct.pack(">I", zlib.crc32(head + body)) + body
print("sha256", hashlib.sha256(image).hexdigest(), len(image), "bytes")
print("PCR0", pcr(KERNEL, LINE, CODE, PINS))
print("PCR1", pcr(KERNEL, LINE, CODE))
print("PCR2", pcr(PINS))
