"""The WIM format, read without libwim: [MS-WIM], "Windows Imaging File Format (WIM)" white paper, and wimlib's headers.

Everything here is a pure function of bytes; what does not make sense is an ImageError. libwim is C code and gets to see
a file only after its header, tables and folders were read here.
"""

from __future__ import annotations

import enum
import re
import struct
from dataclasses import dataclass
from xml.etree import ElementTree

from builder.errors import ImageError

MAGIC = b"MSWIM\0\0\0"
PIPABLE_MAGIC = b"WLPWM\0\0\0"
HEADER_SIZE = 208
LOOKUP_ENTRY_SIZE = 50
_VERSION_DEFAULT, _VERSION_SOLID = 0x10D00, 0xE00
_LARGEST_TABLE = 64 << 20
_LARGEST_XML = 16 << 20
LARGEST_METADATA = 512 << 20
_MOST_IMAGES = 256
_CONVERT = "wimlib-imagex export FILE INDEX boot.wim --compress=LZX --boot"


class Compression(enum.Enum):
    """How the resources of a WIM are compressed; the values are libwim's."""

    NONE = 0
    XPRESS = 1
    LZX = 2
    LZMS = 3


class ResourceFlag(enum.IntFlag):
    """Flags of a resource header."""

    FREE = 1
    METADATA = 2
    COMPRESSED = 4
    SPANNED = 8
    SOLID = 16


#: Size as stored in 7 bytes and flags in the eighth, offset, size. A WIM has tens of thousands of them.
_RESOURCE = struct.Struct("<QQQ")
_STORED = (1 << 56) - 1
_FLAGS = [ResourceFlag(value) for value in range(0x20)]
_HEADER_COMPRESSED = 0x2
_HEADER_SPANNED = 0x8
_HEADER_WRITE_IN_PROGRESS = 0x40
_HEADER_COMPRESSIONS = {0x20000: Compression.XPRESS, 0x40000: Compression.LZX, 0x80000: Compression.LZMS}
_ARCHITECTURES = {0: "x86", 5: "arm", 6: "ia64", 9: "x64", 12: "arm64"}


@dataclass(frozen=True, kw_only=True)
class Resource:
    """A resource header: `stored` bytes at `offset` of the WIM hold `size` bytes."""

    offset: int
    stored: int
    size: int
    flags: ResourceFlag

    @classmethod
    def unpack(cls, raw: bytes) -> Resource:
        """From its 24 bytes."""
        head, offset, size = _RESOURCE.unpack_from(raw)
        return cls(offset=offset, stored=head & _STORED, size=size, flags=_FLAGS[head >> 56 & 0x1F])

    @property
    def compressed(self) -> bool:
        """Whether it is stored as compressed chunks."""
        return bool(self.flags.value & ResourceFlag.COMPRESSED.value)


@dataclass(frozen=True, kw_only=True)
class WimHeader:
    """A WIM's header. `boot_index`: 1-based image that boots, 0 for none."""

    version: int
    compression: Compression
    chunk_size: int
    guid: bytes
    part: int
    parts: int
    image_count: int
    boot_index: int
    lookup_table: Resource
    xml: Resource
    boot_metadata: Resource
    integrity: Resource

    @property
    def solid(self) -> bool:
        """Whether the file's version says that it holds solid resources, as ESD files do."""
        return self.version == _VERSION_SOLID


@dataclass(frozen=True, kw_only=True)
class WimImageInfo:
    """What the XML data says about one image (1-based `index`). Sizes in bytes; "" and 0 where it does not say.

    `architecture`: x64, x86, arm64, arm, ia64. `version`: "10.0.22621.1". `language`: the default one.
    """

    index: int
    name: str
    description: str
    architecture: str
    version: str
    build: int
    service_pack_build: int
    language: str
    languages: tuple[str, ...]
    edition: str
    installation_type: str
    total_bytes: int
    hard_link_bytes: int
    file_count: int

    @property
    def size(self) -> int:
        """Bytes of its files, hard links counted once."""
        return max(0, self.total_bytes - self.hard_link_bytes)


def parse_header(raw: bytes, *, file_size: int, name: str) -> WimHeader:
    """The header in the first 208 bytes. Raises ImageError, saying what was found, where libwim must not go on."""
    if raw[:8] == PIPABLE_MAGIC:
        raise ImageError(f"{name} is a pipable WIM, which Windows cannot boot", hint=f"Convert it first: {_CONVERT}")
    if raw[:8] != MAGIC:
        raise ImageError(f"{name} is not a WIM: 'MSWIM' is expected at its beginning, found {raw[:8]!r}")
    if len(raw) < HEADER_SIZE:
        raise ImageError(f"{name} is cut off: a WIM's header has {HEADER_SIZE} bytes, the file has {len(raw)}")
    size, version, flags, chunk_size = struct.unpack_from("<IIII", raw, 8)
    part, parts, image_count = struct.unpack_from("<HHI", raw, 40)
    resources = [Resource.unpack(raw[at : at + 24]) for at in (48, 72, 96, 124)]
    header = WimHeader(
        version=version,
        compression=_compression(flags, name),
        chunk_size=chunk_size,
        guid=raw[24:40],
        part=part,
        parts=parts,
        image_count=image_count,
        boot_index=int.from_bytes(raw[120:124], "little"),
        lookup_table=resources[0],
        xml=resources[1],
        boot_metadata=resources[2],
        integrity=resources[3],
    )
    if size != HEADER_SIZE or version not in (_VERSION_DEFAULT, _VERSION_SOLID):
        raise ImageError(f"{name} has a WIM header of {size} bytes and version {version:#x}, which is not known")
    if flags & _HEADER_WRITE_IN_PROGRESS:
        raise ImageError(f"{name} was not written to its end: its header says that a write is in progress")
    _check_header(header, flags, file_size, name)
    return header


def _compression(flags: int, name: str) -> Compression:
    if not flags & _HEADER_COMPRESSED:
        return Compression.NONE
    found = [kind for flag, kind in _HEADER_COMPRESSIONS.items() if flags & flag]
    if len(found) != 1:
        raise ImageError(f"{name} has a compression that is not known (header flags {flags:#x})")
    return found[0]


def _check_header(header: WimHeader, flags: int, file_size: int, name: str) -> None:
    if flags & _HEADER_SPANNED or header.parts != 1 or header.part != 1:
        raise ImageError(
            f"{name} is part {header.part} of a WIM split into {header.parts}",
            hint="Join the parts first: wimlib-imagex join boot.wim *.swm",
        )
    if not 1 <= header.image_count <= _MOST_IMAGES:
        raise ImageError(f"{name} says that it holds {header.image_count} images")
    if header.boot_index > header.image_count:
        raise ImageError(f"{name} boots image {header.boot_index}, but has only {header.image_count}")
    chunk = header.chunk_size
    if header.compression is not Compression.NONE and (chunk & (chunk - 1) or not 1 << 12 <= chunk <= 1 << 26):
        raise ImageError(f"{name} has compressed chunks of {chunk} bytes, which is not possible")
    for what, resource, largest in (
        ("lookup table", header.lookup_table, _LARGEST_TABLE),
        ("XML data", header.xml, _LARGEST_XML),
        ("integrity table", header.integrity, _LARGEST_TABLE),
    ):
        if resource.offset + resource.stored > file_size:
            raise ImageError(
                f"{name} is cut off: it has {file_size} bytes, its {what} lies at bytes {resource.offset} to"
                f" {resource.offset + resource.stored}",
                hint="The download or the copy is incomplete.",
            )
        if max(resource.stored, resource.size) > largest:
            raise ImageError(f"the {what} of {name} claims {resource.size} bytes")


def refuse_solid(header: WimHeader, name: str) -> None:
    """ImageError for what boot loaders cannot read: LZMS and solid resources (an .esd file)."""
    if header.solid or header.compression is Compression.LZMS:
        kind = "solid " if header.solid else ""
        raise ImageError(
            f"{name} is compressed as {kind}LZMS (an ESD), which boot loaders cannot read",
            hint=f"Convert it first: {_CONVERT}",
        )


def parse_lookup_table(
    raw: bytes, *, file_size: int, name: str
) -> tuple[tuple[tuple[Resource, bytes], ...], dict[bytes, Resource]]:
    """The metadata resources with their sha1, one an image in order, and every file's resource by its sha1."""
    metadata: list[tuple[Resource, bytes]] = []
    by_hash: dict[bytes, Resource] = {}
    for at in range(0, len(raw) - LOOKUP_ENTRY_SIZE + 1, LOOKUP_ENTRY_SIZE):
        resource = Resource.unpack(raw[at : at + 24])
        flags = resource.flags.value
        if flags & ResourceFlag.SOLID.value:
            raise ImageError(f"{name} holds solid resources, which boot loaders cannot read", hint=_CONVERT)
        if flags & ResourceFlag.FREE.value:
            continue
        if resource.offset + resource.stored > file_size:
            raise ImageError(
                f"{name} is cut off: it has {file_size} bytes, a resource lies at bytes {resource.offset} to"
                f" {resource.offset + resource.stored}",
                hint="The download or the copy is incomplete.",
            )
        if not resource.compressed and resource.stored != resource.size:
            raise ImageError(f"{name} is damaged: an uncompressed resource has two sizes")
        sha1 = raw[at + 30 : at + 50]
        if flags & ResourceFlag.METADATA.value:
            metadata.append((resource, sha1))
        else:
            by_hash[sha1] = resource
    return tuple(metadata), by_hash


def chunk_offsets(table: bytes, *, count: int, entry: int, stored: int) -> list[tuple[int, int]]:
    """(offset, length) of every chunk, from the end of the chunk table (`count` - 1 offsets of `entry` bytes)."""
    starts = [0, *(value for (value,) in struct.iter_unpack("<I" if entry == 4 else "<Q", table))]
    ends = [*starts[1:], stored - len(table)]
    chunks = [(start, end - start) for start, end in zip(starts, ends, strict=True)]
    if len(chunks) != count or any(length <= 0 for _, length in chunks):
        raise ImageError("a resource of the WIM is damaged: its chunk table does not ascend")
    return chunks


def parse_xml(raw: bytes, *, image_count: int, name: str) -> tuple[WimImageInfo, ...]:
    """The images as the XML data (UTF-16LE) describes them. Raises ImageError when it is damaged."""
    text = raw.decode("utf-16-le", "replace").removeprefix("\ufeff").rstrip("\0")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ImageError(f"the XML data of {name} defines entities, which a WIM's never does")
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise ImageError(f"the XML data of {name} is damaged: {error}") from error
    images = {_number(node.get("INDEX", "")): node for node in root.iter("IMAGE")}
    return tuple(_image_info(number, images.get(number)) for number in range(1, image_count + 1))


def _image_info(index: int, node: ElementTree.Element | None) -> WimImageInfo:
    def text(path: str) -> str:
        found = (node.findtext(path) if node is not None else None) or ""
        return "".join(c for c in found.strip() if c.isprintable())[:200]

    version = [text(f"WINDOWS/VERSION/{part}") for part in ("MAJOR", "MINOR", "BUILD", "SPBUILD")]
    architecture = text("WINDOWS/ARCH")
    languages = (
        [] if node is None else [(item.text or "").strip() for item in node.findall("WINDOWS/LANGUAGES/LANGUAGE")]
    )
    return WimImageInfo(
        index=index,
        name=text("NAME"),
        description=text("DESCRIPTION"),
        architecture=_ARCHITECTURES.get(_number(architecture), architecture) if architecture else "",
        version=".".join(part for part in version if part),
        build=_number(version[2]),
        service_pack_build=_number(version[3]),
        language=text("WINDOWS/LANGUAGES/DEFAULT"),
        languages=tuple(language for language in languages if language.isprintable())[:100],
        edition=text("WINDOWS/EDITIONID"),
        installation_type=text("WINDOWS/INSTALLATIONTYPE"),
        total_bytes=_number(text("TOTALBYTES")),
        hard_link_bytes=_number(text("HARDLINKBYTES")),
        file_count=_number(text("FILECOUNT")),
    )


def _number(text: str) -> int:
    # The largest that means anything is a 64-bit size.
    return int(text) if re.fullmatch(r"[0-9]{1,20}", text) else 0
