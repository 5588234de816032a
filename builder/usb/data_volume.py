"""An empty FAT32 volume for the rest of a stick, as the few pieces of it that are not zero.

Source: Microsoft FAT32 File System Specification 1.03 ("FAT Volume Initialization").
"""

from __future__ import annotations

from dataclasses import dataclass

from builder.media.fat import FatTable, Placement, folder_bytes, folder_tree
from builder.media.fat_names import label_entry
from builder.media.fat_structures import SECTOR, Bpb, FatKind, FsInfo
from builder.media.gpt_move import Patch
from payload.contract import MEDIUM_FOLDER, MEDIUM_FOLDERS

#: Volumes with fewer sectors have too few clusters for FAT32 ("DskTableFAT32").
FEWEST_SECTORS = 66_700
LABEL = "BLUE-DATA"
_FOLDERS = tuple(f"{MEDIUM_FOLDER}/{name}" for name in MEDIUM_FOLDERS)
#: (largest volume in sectors, sectors in a cluster), as DskTableFAT32 has them.
_CLUSTERS = ((532_480, 1), (16_777_216, 8), (33_554_432, 16), (67_108_864, 32), (0xFFFFFFFF, 64))
_RESERVED = 32


@dataclass(frozen=True, kw_only=True)
class DataVolume:
    """What an empty volume is: the first `length` bytes, zeros but for the `patches`; behind them anything may be."""

    patches: tuple[Patch, ...]
    length: int


def data_volume(*, sectors: int, first_lba: int, serial: int, epoch: int) -> DataVolume:
    """An empty volume of `sectors` (at least FEWEST_SECTORS) at block `first_lba`, with the folders the payload knows.

    Offsets of the patches count from the volume's start. `serial`: 32 bits; `epoch`: the folders' time, seconds UTC.
    """
    bpb = _geometry(sectors, first_lba, serial)
    root = folder_tree({}, _FOLDERS)
    folders = list(root.walk())
    placements = {folder.path: Placement(first_cluster=2 + i, size=0) for i, folder in enumerate(folders)}
    table = FatTable(FatKind.FAT32, len(folders), bpb.media)
    for placement in placements.values():
        table.chain(placement.first_cluster, 1)
    free = bpb.clusters - len(folders)
    info = FsInfo(free_count=free, next_free=2 + len(folders)).pack()
    boot = bpb.pack() + info + bytes(510) + b"\x55\xaa"
    patches = [
        Patch(offset=0, data=boot),
        Patch(offset=bpb.backup_boot_sector * SECTOR, data=boot),
        *(
            Patch(offset=(bpb.reserved_sectors + copy * bpb.fat_sectors) * SECTOR, data=table.pack(1))
            for copy in range(bpb.fats)
        ),
        *(
            Patch(
                offset=bpb.offset(placements[folder.path].first_cluster),
                data=folder_bytes(folder, placements, epoch=epoch, label=bpb.volume_label),
            )
            for folder in folders
        ),
    ]
    return DataVolume(patches=tuple(patches), length=bpb.offset(2 + len(folders)))


def _geometry(sectors: int, first_lba: int, serial: int) -> Bpb:
    if not FEWEST_SECTORS <= sectors <= 0xFFFFFFFF:
        raise ValueError(f"a FAT32 volume of {sectors} sectors")
    per_cluster = next(per_cluster for largest, per_cluster in _CLUSTERS if sectors <= largest)
    # "FAT Volume Initialization", the computation of BPB_FATSz32: never too small, at most some sectors too large.
    divisor = (256 * per_cluster + 2) // 2
    fat_sectors = -(-(sectors - _RESERVED) // divisor)
    reserved = _RESERVED + -(_RESERVED + 2 * fat_sectors) % per_cluster
    return Bpb(
        sectors_per_cluster=per_cluster,
        reserved_sectors=reserved,
        root_entries=0,
        total_sectors=sectors,
        fat_sectors=fat_sectors,
        hidden_sectors=min(first_lba, 0xFFFFFFFF),
        volume_serial=serial,
        volume_label=label_entry(LABEL),
    )
