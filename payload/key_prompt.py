"""What a technician is asked for when no medium has the key, and what can be answered.

`payload.unlock` asks; the key screen answers, and the tests'. Nothing here is ever logged: answers are secrets.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

from payload.contract import HostIdentity
from payload.environment import Volume
from payload.formats.fve import FveVolume

#: So many wrong answers, and the screen offers other ways out first.
ATTEMPTS = 3


class Instead(enum.StrEnum):
    """What was answered instead of a key."""

    #: Not this volume; of a passphrase: go on by hand.
    SKIP = "skip"
    #: Windows shall come up in safe mode and be repaired there.
    SAFE_MODE = "safe-mode"
    #: No key was pressed until the countdown ended. Nobody is asked again in this run.
    NOBODY = "nobody"


@dataclass(frozen=True, kw_only=True)
class PassphraseQuestion:
    """The passphrase of the vaults that were found. `vaults` name them for the screen.

    `failed` counts the passphrases that were wrong; `problem` is a plain sentence about the last one, `remark` one
    about what came before the question (a vault that is damaged).
    """

    vaults: tuple[str, ...]
    failed: int = 0
    problem: str = ""
    remark: str = ""


@dataclass(frozen=True, kw_only=True)
class RecoveryQuestion:
    """The recovery password of a volume. `metadata` has key ids and description, `host` the serial number.

    `failed` counts the passwords of this volume that were refused (from ATTEMPTS on, the screen first offers to skip,
    a shell, safe mode where `safe_mode` is true, and another try); `problem` is a plain sentence about the last one,
    `remark` one about what came before the question: why no medium had the key.
    A volume for which no recovery password exists leaves only those other ways out.
    """

    volume: Volume
    metadata: FveVolume
    host: HostIdentity
    failed: int = 0
    problem: str = ""
    remark: str = ""
    safe_mode: bool = False

    @property
    def has_password(self) -> bool:
        """Whether there is a recovery password that could be typed."""
        return bool(self.metadata.recovery_passwords)


class KeyPrompt(Protocol):
    """Somebody who can be asked for keys. It shows its questions, counts down, and never logs an answer.

    Where nobody can be asked (a terminal that is not ours, a profile that says so), there is no prompt.
    """

    def passphrase(self, question: PassphraseQuestion) -> str | Instead:
        """The passphrase as typed; SKIP or NOBODY."""
        ...

    def recovery_key(self, question: RecoveryQuestion) -> bytes | Instead:
        """The 16-byte key of a recovery password whose groups are all well-formed, or what was answered instead.

        No key where `question.has_password` is false.
        """
        ...
