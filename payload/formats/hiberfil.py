"""hiberfil.sys: whether a saved Windows session is in it, from its first bytes.

Sources: Volatility wiki "Microsoft Hibernation Files" (PO_MEMORY_IMAGE, `hibr` and `wake`); Sylve, Marziale, Richard,
"Modern Windows hibernation file analysis", 2016 (`HIBR`, `RSTR`, `WAKE`, and the header zeroed after a resume since
Windows 8); ntfs-3g's ntfs_volume_check_hiberfile (only `hibr` and `HIBR` are hibernated, a zeroed header is not).
"""

from __future__ import annotations

import enum

#: The file in the root of a Windows volume, and how many of its first bytes `hibernation_state` wants.
HIBERFIL_NAME = "hiberfil.sys"
HEADER_LENGTH = 4096


class HibernationState(enum.StrEnum):
    """What the header says. The values are for receipts and notes."""

    SAVED = "a saved session"
    RESUMING = "a session that Windows was about to resume"
    ELSEWHERE = "a session that is saved in another file"
    RESUMED = "a session that was resumed"
    EMPTY = "no session"
    UNKNOWN = "an unknown header"

    @property
    def owned(self) -> bool:
        """Whether a Windows may still resume and then believe that its volumes have not changed.

        An unknown header is none that Windows resumes from; ntfs-3g sees it so as well.
        """
        return self in (HibernationState.SAVED, HibernationState.RESUMING, HibernationState.ELSEWHERE)


#: `link`: the boot loader of Windows XP is pointed at another file.
_SIGNATURES = {
    b"hibr": HibernationState.SAVED,
    b"rstr": HibernationState.RESUMING,
    b"link": HibernationState.ELSEWHERE,
    b"wake": HibernationState.RESUMED,
}


def hibernation_state(head: bytes) -> HibernationState:
    """The state by the file's first HEADER_LENGTH bytes (fewer where the file is shorter). Never raises."""
    known = _SIGNATURES.get(head[:4].lower()) if len(head) >= 4 else None
    if known is not None:
        return known
    return HibernationState.UNKNOWN if any(head) else HibernationState.EMPTY
