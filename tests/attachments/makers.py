"""Files and mails for the tests of the attachments filter, made here octet by octet."""

from __future__ import annotations

import base64
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence

from milterd.core.mail import Direction, Mail, Session, parse_message

PROGRAM = b"MZ\x90\x00\x03\x00\x00\x00" + bytes(120) + b"PE\0\0" + bytes(300)
_FREE, _END, _FAT = 0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFFD


def zipped(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, octets in files.items():
            archive.writestr(zipfile.ZipInfo(name), octets, method)
    return target.getvalue()


def nested(depth: int, inner: bytes = PROGRAM, name: str = "a.exe") -> bytes:
    """A zip in a zip in a zip."""
    octets = zipped({name: inner})
    for number in range(depth - 1):
        octets = zipped({f"{number}.zip": octets})
    return octets


def encrypted_zip(name: str = "secret.doc") -> bytes:
    """A zip whose one file says that it is encrypted."""
    octets = bytearray(zipped({name: b"no words"}, zipfile.ZIP_STORED))
    octets[6] |= 1
    at = octets.index(b"PK\1\2")
    octets[at + 8] |= 1
    return bytes(octets)


def hidden_zip(shown: str, hidden: str) -> bytes:
    """A zip with a file that its directory leaves out."""
    first = zipped({hidden: PROGRAM}, zipfile.ZIP_STORED)
    first = first[: first.index(b"PK\1\2")]
    second = zipped({shown: b"text"}, zipfile.ZIP_STORED)
    return first + second  # zipfile takes what stands before an archive for something else


def tarred(files: Mapping[str, bytes], mode: str = "w:gz") -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode=mode) as archive:  # type: ignore[call-overload]
        for name, octets in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(octets)
            archive.addfile(entry, io.BytesIO(octets))
    return target.getvalue()


def ole(entries: Sequence[tuple[str, int, int, int, int]]) -> bytes:
    """A compound file ([MS-CFB]) of entries: name, type (5 root, 1 storage, 2 stream), left,
    right and child; each stream has 4096 octets of zeros."""
    streams = [at for at, each in enumerate(entries) if each[1] == 2]
    directories = -(-len(entries) // 4)
    first = 1 + directories  # sector 0 is the FAT
    fat = [_FAT, *range(2, 1 + directories), _END]
    begins = {}
    for at in streams:
        begins[at] = len(fat)
        fat += [*range(len(fat) + 1, len(fat) + 8), _END]
    assert first <= len(fat) <= 128
    fat += [_FREE] * (128 - len(fat))
    header = struct.pack(
        "<8s16sHHHHH6xIIIIIIIIII", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"", 0x3E, 3, 0xFFFE, 9, 6,
        0, 1, 1, 0, 4096, _END, 0, _END, 0, 0,
    )  # fmt: skip
    header += struct.pack("<108I", *([_FREE] * 108))
    table = b"".join(
        _entry(each, begins.get(at, _END if each[1] == 5 else 0)) for at, each in enumerate(entries)
    )
    table += _entry(("", 0, -1, -1, -1), 0) * (directories * 4 - len(entries))
    body = struct.pack("<128I", *fat) + table + bytes(4096 * len(streams))
    return header[:512] + body


def _entry(each: tuple[str, int, int, int, int], begin: int) -> bytes:
    name, kind, left, right, child = each
    text = name.encode("utf-16-le") + (b"\0\0" if name else b"")
    links = [number & 0xFFFFFFFF for number in (left, right, child)]
    size = 4096 if kind == 2 else 0
    packed = struct.pack("<64sHBB3I16sI8s8sIQ", text, len(text), kind, 1, *links, b"", 0, b"", b"",
                         begin, size)  # fmt: skip
    assert len(packed) == 128
    return packed


def macro_document() -> bytes:
    """An old Word file with a VBA project."""
    return ole([
        ("Root Entry", 5, -1, -1, 1), ("Macros", 1, -1, 6, 2), ("VBA", 1, 3, -1, 4),
        ("PROJECT", 2, -1, -1, -1), ("dir", 2, -1, 5, -1), ("_VBA_PROJECT", 2, -1, -1, -1),
        ("WordDocument", 2, -1, -1, -1),
    ])  # fmt: skip


def plain_document() -> bytes:
    """An old Word file without."""
    return ole([("Root Entry", 5, -1, -1, 1), ("WordDocument", 2, -1, -1, -1)])


def encrypted_document() -> bytes:
    """A new Word file with a password: an old container of what is encrypted ([MS-OFFCRYPTO])."""
    return ole([
        ("Root Entry", 5, -1, -1, 1), ("EncryptionInfo", 2, -1, 2, -1),
        ("EncryptedPackage", 2, -1, -1, -1),
    ])  # fmt: skip


def macro_workbook() -> bytes:
    """A new Excel file with a VBA project."""
    project = ole([
        ("Root Entry", 5, -1, -1, 1), ("VBA", 1, 2, -1, 3), ("PROJECT", 2, -1, -1, -1),
        ("dir", 2, -1, 4, -1), ("_VBA_PROJECT", 2, -1, -1, -1),
    ])  # fmt: skip
    types = b"<Types><Override ContentType='application/vnd.ms-office.vbaProject'/></Types>"
    return zipped({"[Content_Types].xml": types, "xl/vbaProject.bin": project})


def old_macros() -> bytes:
    """A new Excel file with macros of Excel 4's kind."""
    return zipped({"[Content_Types].xml": b"<Types/>", "xl/macrosheets/sheet1.xml": b"<x/>"})


def _zeros(megabytes: int) -> bytes:
    """Deflated zeros, made of one block again and again."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = deflate.compress(bytes(1_000_000)) + deflate.flush(zlib.Z_FULL_FLUSH)
    return block * megabytes + b"\x03\x00"


def packed_zeros(megabytes: int) -> bytes:
    return b"\x1f\x8b\x08\x00\0\0\0\0\0\x03" + _zeros(megabytes) + bytes(8)


def zipped_zeros(megabytes: int) -> bytes:
    """A zip with one file of zeros, that says so as far as 32 bits allow."""
    data, size = _zeros(megabytes), min(megabytes * 1_000_000, 2**32 - 2)
    sizes = struct.pack("<IIIHH", 0, len(data), size, 5, 0)
    local = b"PK\3\4" + struct.pack("<HHHHH", 20, 0, 8, 0, 0) + sizes + b"zeros"
    central = b"PK\1\2" + struct.pack("<HHHHHH", 20, 20, 0, 8, 0, 0) + sizes
    central += struct.pack("<HHHII", 0, 0, 0, 0, 0) + b"zeros"
    end = struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local) + len(data), 0)
    return local + data + central + b"PK\5\6" + end


def part(content: bytes, disposition: str, declared: str = "application/octet-stream") -> bytes:
    """A part in base64; `disposition` stands after "attachment; "."""
    lines = base64.encodebytes(content).replace(b"\n", b"\r\n")
    head = f"Content-Type: {declared}\r\nContent-Transfer-Encoding: base64\r\n"
    head += f"Content-Disposition: attachment; {disposition}\r\n\r\n"
    return head.encode() + lines


TEXT = b"Content-Type: text/plain\r\n\r\nHello,  \r\n\tsee the file.\r\n"


def message(*parts: bytes, inbound: bool = True, more: bytes = b"") -> Mail:
    """A mail of these parts, with a text first."""
    body = b"".join(b"--=_b\r\n" + each.rstrip(b"\r\n") + b"\r\n" for each in (TEXT, *parts))
    head = b'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="=_b"\r\n' + more
    return directed(head + b"\r\npreamble\r\n" + body + b"--=_b--\r\nepilogue\r\n", inbound)


def directed(octets: bytes, inbound: bool = True) -> Mail:
    mail = parse_message(octets)
    way = Direction.INBOUND if inbound else Direction.ORIGINATING
    return Mail(Session(direction=way), mail.envelope, mail.headers, mail.body, mail.separator)


def with_file(content: bytes, name: str, **more: bool) -> Mail:
    """A mail with one file."""
    return message(part(content, f'filename="{name}"'), **more)
