"""One file that is a CD and a disk at once: an ISO whose files also lie on a FAT32 partition, no byte stored twice.

    block of 512        what lies there
    0                   boot code for BIOS; the protective MBR
    1 to 33             GPT header and partition entries
    64 ...              the ISO: descriptors, folders, boot catalog, boot images
    the partition:      the ISO's hidden file RESERVE: FAT32's boot sectors, tables and folders
                        the ISO's files, which are FAT32's files too: its chains of clusters lead to them
                        the tail: free clusters
    the last 33 or 36   partition entries and GPT header again, UDF's second anchor between them

Everything is known before a byte is written: pycdlib says where each file will lie, and RESERVE is made to fit.
Sources: ECMA-119, Microsoft FAT32 File System Specification 1.03, UEFI Specification 2.10 (chapter 5), GNU xorriso's
documentation of "grub2-mbr" and "grub2-boot-info".
"""

from __future__ import annotations

import hashlib
import struct
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import BinaryIO

from builder.console import size_text
from builder.errors import OutputError
from builder.media.boot_code import LARGEST_BOOTMGR, bootmgr_code, grub_code, uefi_only_code
from builder.media.fat import (
    FatTable,
    Folder,
    Placement,
    folder_bytes,
    folder_size,
    folder_tree,
    reserved_and_tables,
)
from builder.media.fat_names import label_entry
from builder.media.fat_structures import SECTOR, Bpb, FatKind
from builder.media.gpt import BASIC_DATA, MBR_AT, GptPartition, GptTables, gpt_tables, usable_lbas
from builder.media.iso_layout import PADDING, DiskBoot, HybridDisk
from builder.media.udf import anchor_at

#: The name in the ISO's primary tree of the file that holds FAT32's own structures; it must be the first of all.
RESERVE = "0FAT32.BIN"
#: Blocks of 512 bytes in a block of the ISO. A cluster is never larger, since files begin at any block of the ISO.
_PER_BLOCK = 4
#: What FAT32 needs: 65525, and 16 more, because drivers disagree at the limit ("FAT Type Determination").
_FEWEST_CLUSTERS = 65541
_RESERVED_SECTORS = 32
#: Hypervisors and Windows want whole MiB.
_ALIGNMENT = 2048
#: The tail may grow by a half where larger clusters then make the tables smaller.
_GROWTH = 2
_NAMESPACE = uuid.UUID("7e5b4e52-6c0f-5a39-9d0c-1f5c0f3a2910")
_PARTITION_NAME = "Bluelift"
#: Where GRUB's El Torito image keeps the 512-byte block of its core's second sector.
_REST_BLOCK_AT = 2548
_BOOTMGR = "bootmgr"
_PLAIN = "`hybrid: false` in the profile gives a plain ISO."


@dataclass(frozen=True, kw_only=True)
class PlacedIso:
    """Where an ISO's contents will lie: `files` by path as (first block of 2048, size in bytes), RESERVE, and its end.

    `reserve` is RESERVE's first block, `reserve_blocks` its length; `blocks` are the whole ISO's.
    """

    files: Mapping[str, tuple[int, int]]
    reserve: int
    reserve_blocks: int
    blocks: int

    def with_reserve(self, blocks: int) -> PlacedIso:
        """The same ISO with a RESERVE of another length: all behind it moves."""
        by = blocks - self.reserve_blocks
        files = {p: (at + by if at > self.reserve else at, size) for p, (at, size) in self.files.items()}
        return PlacedIso(files=files, reserve=self.reserve, reserve_blocks=blocks, blocks=self.blocks + by)


@dataclass(frozen=True, kw_only=True)
class HybridPlan:
    """An ISO and the disk that it is at the same time. `sectors`: of the whole disk, `spare` as in `gpt_tables`.

    `iso.files` are those that both have; `bios_image` is the ISO's block at which the BIOS image begins.
    """

    disk: HybridDisk
    iso: PlacedIso
    bios_image: int | None
    root: Folder
    bpb: Bpb
    sectors: int
    spare: int
    epoch: int

    @property
    def size(self) -> int:
        """Bytes of the whole image."""
        return self.sectors * SECTOR

    @property
    def partition_lba(self) -> int:
        """Where the FAT32 partition starts."""
        return self.iso.reserve * _PER_BLOCK

    def reserve(self) -> bytes:
        """RESERVE's content: boot sectors, tables and folders of the FAT32 volume."""
        table = FatTable(FatKind.FAT32, self.bpb.clusters, self.bpb.media)
        placements, following = self._place_folders(table)
        placements |= self._place_files(table)
        self._withhold_the_rest(table)
        next_free = min(self._cluster(self.iso.blocks), self.bpb.clusters + 1)
        content = bytearray(reserved_and_tables(self.bpb, table, next_free=max(next_free, following)))
        content = content.ljust(self.iso.reserve_blocks * _PER_BLOCK * SECTOR, b"\0")
        for folder in self.root.walk():
            data = folder_bytes(folder, placements, epoch=self.epoch, label=self.bpb.volume_label)
            at = self.bpb.offset(placements[folder.path].first_cluster)
            content[at : at + len(data)] = data
        return bytes(content)

    def tables(self) -> GptTables:
        """The partition tables: one partition, Microsoft basic data, so that Windows shows the volume."""
        partition = GptPartition(
            type_guid=BASIC_DATA,
            unique_guid=uuid.uuid5(_NAMESPACE, f"{self.disk.image_id}/partition"),
            name=_PARTITION_NAME,
            first_lba=self.partition_lba,
            last_lba=self.partition_lba + self.bpb.total_sectors - 1,
        )
        return gpt_tables(
            disk_guid=disk_guid(self.disk.image_id), sectors=self.sectors, partitions=(partition,), spare=self.spare
        )

    def write_front(self, stream: BinaryIO) -> None:
        """Boot code, protective MBR and primary GPT, in the ISO's system area (ECMA-119 6.2.1)."""
        stream.seek(0)
        stream.write(self._boot_code().ljust(MBR_AT, b"\0") + self.tables().primary)

    def write_end(self, stream: BinaryIO, anchor: bytes | None) -> None:
        """The backup GPT, and UDF's `anchor` in the disk's last block; between it and the ISO stays a hole."""
        end = bytearray(self.tables().backup)
        if anchor is not None:
            block = anchor_at(anchor, self.sectors // _PER_BLOCK - 1)
            end[-_PER_BLOCK * SECTOR : -SECTOR] = block.ljust(_PER_BLOCK * SECTOR, b"\0")[:-SECTOR]
        stream.seek(self.size - len(end))
        stream.write(end)

    def _boot_code(self) -> bytes:
        """What BIOS starts."""
        if self.disk.bios is DiskBoot.GRUB and self.bios_image is not None:
            # The El Torito image is cdboot.img in one block of the ISO, then the core image.
            return grub_code(self.disk.boot_hybrid, (self.bios_image + 1) * _PER_BLOCK)
        block, size = self.iso.files.get(_BOOTMGR, (0, 0))
        if self.disk.bios is DiskBoot.BOOTMGR and 0 < size <= LARGEST_BOOTMGR:
            return bootmgr_code(first=block * _PER_BLOCK, size=size, partition=self.partition_lba)
        return uefi_only_code()

    def _place_folders(self, table: FatTable) -> tuple[dict[str, Placement], int]:
        """Folders lie in a row from cluster 2; also the cluster after them."""
        placements, following = {}, 2
        for folder in self.root.walk():
            count = -(-folder_size(folder) // self.bpb.cluster_bytes)
            table.chain(following, count)
            placements[folder.path] = Placement(first_cluster=following, size=0)
            following += count
        return placements, following

    def _place_files(self, table: FatTable) -> dict[str, Placement]:
        placements = {}
        for path, (block, size) in self.iso.files.items():
            first = self._cluster(block) if size else 0
            if size:
                table.chain(first, -(-size // self.bpb.cluster_bytes))
            placements[path] = Placement(first_cluster=first, size=size)
        return placements

    def _withhold_the_rest(self, table: FatTable) -> None:
        """Blocks of the ISO behind RESERVE that are no file of the FAT32 volume (UDF's last anchor) are not free."""
        following = self.iso.reserve + self.iso.reserve_blocks
        per_block = _PER_BLOCK // self.bpb.sectors_per_cluster
        for block, size in sorted(extent for extent in self.iso.files.values() if extent[1]):
            table.withhold(self._cluster(following), max(block - following, 0) * per_block)
            following = max(following, block + -(-size // (_PER_BLOCK * SECTOR)))
        table.withhold(self._cluster(following), max(self.iso.blocks - following, 0) * per_block)

    def _cluster(self, block: int) -> int:
        """The cluster that begins with a block of the ISO."""
        sector = block * _PER_BLOCK - self.partition_lba - self.bpb.first_data_sector
        return 2 + sector // self.bpb.sectors_per_cluster


def plan_hybrid(
    disk: HybridDisk, iso: PlacedIso, *, bios_image: str | None, uefi_image: str | None, udf: bool, epoch: int
) -> HybridPlan:
    """The disk that `iso` shall be too. `bios_image`, `uefi_image`: paths of what only a CD's firmware reads.

    Raises OutputError for what FAT32 cannot hold: file names, files of 4 GiB, too few clusters.
    """
    shared = {path: extent for path, extent in iso.files.items() if path not in (bios_image, uefi_image)}
    early = [path for path, (block, size) in shared.items() if size and block < iso.reserve]
    if early:
        raise OutputError(f"'{early[0]}' would lie before the FAT32 volume in a hybrid image", hint=_PLAIN)
    try:
        root = folder_tree({path: size for path, (_, size) in shared.items()}, disk.folders)
        label = label_entry(disk.label)
    except OutputError as error:
        raise OutputError(f"{error.message}, which the image is when it is a disk", hint=_PLAIN) from error
    template = HybridPlan(
        disk=disk,
        iso=replace(iso, files=shared),
        bios_image=iso.files[bios_image][0] if bios_image is not None else None,
        root=root,
        bpb=Bpb(
            sectors_per_cluster=1,
            reserved_sectors=_RESERVED_SECTORS,
            root_entries=0,
            total_sectors=0,
            fat_sectors=0,
            hidden_sectors=iso.reserve * _PER_BLOCK,
            volume_serial=volume_serial(disk.image_id),
            volume_label=label,
        ),
        sectors=0,
        # UDF's second anchor is in the last block of 2048 bytes, of which the backup header needs 512.
        spare=_PER_BLOCK - 1 if udf else 0,
        epoch=epoch,
    )
    return _smallest_tables(template)


def disk_guid(image_id: str) -> uuid.UUID:
    """The GUID of the disk that the image with this id is."""
    return uuid.uuid5(_NAMESPACE, f"{image_id}/disk")


def volume_serial(image_id: str) -> int:
    """The serial number of that disk's FAT32 volume; efi.img has another one."""
    return int.from_bytes(hashlib.sha256(f"{image_id}/volume".encode()).digest()[:4], "little")


def with_core_block(bios_image: bytes, block: int) -> bytes:
    """GRUB's El Torito image at `block` (of 2048 bytes), told where the second sector of its core is on a disk."""
    patched = bytearray(bios_image)
    struct.pack_into("<Q", patched, _REST_BLOCK_AT, (block + 1) * _PER_BLOCK + 1)
    return bytes(patched)


def _smallest_tables(template: HybridPlan) -> HybridPlan:
    """The largest clusters that FAT32 allows with the tail that is asked for, or one that is up to a half larger."""
    asked = template.disk.tail
    most = asked + asked // _GROWTH
    for per_cluster in (4, 2, 1):
        end = max(asked, PADDING)
        plan = _with_clusters(template, per_cluster, end)
        while (lack := (_FEWEST_CLUSTERS - plan.bpb.clusters) * plan.bpb.cluster_bytes) > 0 and end + lack <= most:
            end += lack
            plan = _with_clusters(template, per_cluster, end)
        if lack <= 0:
            return plan
    enough = -(-(end + lack + _ALIGNMENT * SECTOR) // 1_000_000)
    raise OutputError(
        f"a tail of {size_text(asked)} makes too few clusters for a FAT32 volume, which has {_FEWEST_CLUSTERS} or more",
        hint=f"This image needs `tail: {enough} MB` or more. {_PLAIN}",
    )


def _with_clusters(template: HybridPlan, per_cluster: int, end: int) -> HybridPlan:
    """The plan with clusters of that many sectors and `end` bytes behind the ISO."""
    cluster_bytes = per_cluster * SECTOR
    folders = sum(-(-folder_size(folder) // cluster_bytes) for folder in template.root.walk())
    start = template.iso.reserve * _PER_BLOCK
    backup = _ALIGNMENT - 1 - usable_lbas(_ALIGNMENT, SECTOR, template.spare)[1]
    fat_sectors = 1
    while True:
        # Files begin at blocks of the ISO, so clusters have to.
        reserved = _RESERVED_SECTORS + -(_RESERVED_SECTORS + 2 * fat_sectors) % _PER_BLOCK
        structures = reserved + 2 * fat_sectors + folders * per_cluster
        iso = template.iso.with_reserve(-(-structures // _PER_BLOCK))
        sectors = -(-(iso.blocks * _PER_BLOCK + -(-end // SECTOR) + backup) // _ALIGNMENT) * _ALIGNMENT
        bpb = replace(
            template.bpb,
            sectors_per_cluster=per_cluster,
            reserved_sectors=reserved,
            total_sectors=sectors - backup - start,
            fat_sectors=fat_sectors,
        )
        needed = -(-(bpb.clusters + 2) * 4 // SECTOR)
        if needed <= fat_sectors:
            return replace(template, iso=iso, bpb=bpb, sectors=sectors)
        fat_sectors = needed
