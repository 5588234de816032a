"""The questions for keys as a technician has them: typing, refused keys, the other ways out, and nobody there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest

from payload.contract import HostIdentity, PayloadConfig
from payload.environment import Keyboard, SpecialKey, Volume, VolumeState
from payload.formats.fve import EncryptionMethod, FveState, FveVolume
from payload.formats.fve_entries import Protector, ProtectorKind
from payload.formats.recovery_password import parse
from payload.key_dialogue import KeyDialogue
from payload.key_prompt import Instead, KeyPrompt, PassphraseQuestion, RecoveryQuestion
from payload.safe_mode import describe_safe_mode
from payload.screen import CLEAR
from tests.payload.console_picture import cells_of, codes_in, picture_of
from tests.payload.fake_environment import FakeEnvironment

PASSWORD = "111683-110561-484748-281314-666028-066605-065384-470547"
KEY_ID = "C3E4B5A6-1F2D-4E7C-9A8B-0D1E2F3A4B5C"
ENTER, ESCAPE = SpecialKey.ENTER, SpecialKey.ESCAPE
TPM = Protector(guid="00000000-0000-0000-0000-000000000001", kind=ProtectorKind.TPM, code=0x100)
RECOVERY = Protector(guid=KEY_ID, kind=ProtectorKind.RECOVERY_PASSWORD, code=0x800)
METADATA = FveVolume(
    version=2, guid="", description="DESKTOP-7Q2L C: 19/07/2024", created=None, method=EncryptionMethod.UNKNOWN,
    state=FveState.LOCKED, to_go=False, sector_size=512, encrypted_size=0, protectors=(TPM, RECOVERY),
    metadata_offsets=(), block=0, checksum_ok=True,
)  # fmt: skip
VOLUME = Volume(id="sda3", disk="sda", label="", file_system="", size=237 * 10**9, state=VolumeState.LOCKED)
QUESTION = RecoveryQuestion(volume=VOLUME, metadata=METADATA, host=HostIdentity(smbios_serial="PF3K9Z2A"))
VAULTS = PassphraseQuestion(vaults=("\\Bluelift\\vault\\site.vault on the boot medium",))


@dataclass
class ScriptedScreen:
    """A screen of which one can ask what it shows; its keyboard has keys only at the seconds given with them."""

    script: list[tuple[float, str]]
    colour: bool = True
    columns: int = 80
    lines: int = 25
    half_blocks: bool = True
    now: float = 0.0
    shown: list[str] = field(default_factory=list)
    listening: bool = False

    def write(self, text: str) -> None:
        """Keeps the text."""
        self.shown.append(text)

    def key(self, seconds: float) -> str | None:
        """Nobody may ask for keys in the other way."""
        raise AssertionError(seconds)

    @contextmanager
    def typing(self) -> Iterator[Keyboard]:
        """The scripted keys."""
        assert not self.listening
        self.listening = True
        try:
            yield self._next
        finally:
            self.listening = False

    def _next(self, seconds: float) -> str | None:
        assert self.listening
        assert self.now < 10_000, "the dialogue waits for keys that never come"
        if self.script and self.script[0][0] <= self.now + seconds:
            at, key = self.script.pop(0)
            self.now = max(self.now, at)
            return key
        self.now += seconds
        return None

    def texts(self) -> list[str]:
        """Every drawing as plain text."""
        pictures = (text.replace("\033[2J", "").replace("\033[H", "") for text in self.shown)
        return ["\n".join("".join(cell.character for cell in row) for row in cells_of(text)) for text in pictures]


class Somebody(FakeEnvironment):
    """An environment with a scripted screen whose shell must find the keyboard free."""

    def __init__(self, screen: ScriptedScreen) -> None:
        super().__init__()
        self.scripted = screen

    @property
    def screen(self) -> ScriptedScreen:
        """The screen."""
        return self.scripted

    def shell(self) -> None:
        """Counts."""
        assert not self.scripted.listening
        super().shell()


def dialogue(*keys: str, at: float = 5.0, **changes: object) -> tuple[KeyDialogue, ScriptedScreen, Somebody]:
    """Everything is typed in one go `at` so many seconds, but a pause follows every special key."""
    script = []
    for key in keys:
        for part in [key] if key in tuple(SpecialKey) else list(key):
            script.append((at, part))
        at += 2.0
    screen = ScriptedScreen(script)
    environment = Somebody(screen)
    config = PayloadConfig(image_id="test", rules=(), key_wait=60, shell=True, contact="+41 44 000 00 00")
    prompt = KeyDialogue(environment=environment, config=replace(config, **changes), clock=lambda: screen.now)  # type: ignore[arg-type]
    return prompt, screen, environment


def test_it_is_a_key_prompt() -> None:
    prompt: KeyPrompt = dialogue()[0]
    assert isinstance(prompt, KeyDialogue)


def test_a_password_typed_in_one_burst() -> None:
    prompt, screen, _ = dialogue(PASSWORD, ENTER)
    assert prompt.recovery_key(QUESTION) == parse(PASSWORD)
    assert "Going on without a key in 60 s - any key stops" in screen.texts()[0]
    for wanted in ("Locked by BitLocker", KEY_ID, "DESKTOP-7Q2L C: 19/07/2024", "PF3K9Z2A", "sda3   237 GB", "LENOVO"):
        assert (wanted in screen.texts()[0]) == (wanted != "LENOVO")
    assert "111683-110561-484748-281314" in screen.texts()[-1]
    assert "Going on" not in screen.texts()[-1]
    assert "All eight groups are right: press Enter." in screen.texts()[-1]
    assert "press Enter" not in screen.texts()[0]
    # A screen for each second of the countdown, and one or two once all has been typed: not one for each character.
    assert 6 <= len(screen.shown) <= 10


def test_a_wrong_group_is_shown_while_typing() -> None:
    prompt, screen, _ = dialogue("111683-110562", SpecialKey.BACKSPACE, "1" + PASSWORD[13:], ENTER)
    assert prompt.recovery_key(QUESTION) == parse(PASSWORD)
    wrong = [text for text in screen.texts() if "Group 2 was mistyped" in text]
    assert wrong and all("111683-110562" in text for text in wrong)
    assert not any("Group 2" in text for text in screen.texts()[-2:])


@pytest.mark.parametrize("colour", [True, False])
def test_nobody_there(colour: bool) -> None:
    prompt, screen, _ = dialogue()
    screen.colour = colour
    assert prompt.recovery_key(QUESTION) is Instead.NOBODY
    assert prompt.passphrase(VAULTS) is Instead.NOBODY
    assert 119 < screen.now < 121
    assert len(screen.shown) == (120 if colour else 4)
    assert all(len(text.splitlines()) <= 25 - (not colour) for text in screen.texts())


def test_a_key_stops_the_countdown_for_good() -> None:
    prompt, screen, _ = dialogue("1", at=59)
    screen.script.append((300, ESCAPE))
    screen.script.append((310, "k"))
    assert prompt.recovery_key(QUESTION) is Instead.SKIP


def test_a_refused_key_and_the_attempts_left() -> None:
    prompt, screen, _ = dialogue(PASSWORD, ENTER)
    screen.colour = False
    prompt.recovery_key(replace(QUESTION, failed=1, problem="That is not this volume's recovery password."))
    text = " ".join(screen.texts()[0].split())
    assert "That is not this volume's recovery" in text
    assert "2 of 3 attempts left." in text


@pytest.mark.parametrize(("columns", "lines"), [(80, 25), (80, 50), (40, 25)])
def test_why_no_medium_had_the_key_stands_on_the_screen(columns: int, lines: int) -> None:
    """Until there is something newer to say."""
    remark = "The key vault was opened, but it has no key for this volume."
    prompt, screen, _ = dialogue(PASSWORD, ENTER)
    screen.columns, screen.lines, screen.colour = columns, lines, False
    prompt.recovery_key(replace(QUESTION, remark=remark))
    assert remark in " ".join(screen.texts()[0].split())
    prompt, screen, _ = dialogue(PASSWORD, ENTER)
    screen.colour = False
    prompt.recovery_key(replace(QUESTION, remark=remark, failed=1, problem="That is not this volume's."))
    assert not any(remark in " ".join(text.split()) for text in screen.texts())
    prompt, screen, _ = dialogue("x", ENTER)
    screen.colour = False
    prompt.passphrase(replace(VAULTS, remark="The vault a.vault cannot be used: it was cut off."))
    assert "a.vault cannot be used: it was cut off" in " ".join(screen.texts()[0].split())


def test_after_three_failed_attempts_the_other_ways_out_come_first() -> None:
    prompt, screen, _ = dialogue("t", PASSWORD, ENTER)
    question = replace(QUESTION, failed=3, problem="That is not this volume's recovery password.", safe_mode=True)
    assert prompt.recovery_key(question) == parse(PASSWORD)
    for choice in ("[T] Type", "[K] Skip this volume", "[S] Shell", "[H] Windows in safe mode"):
        assert choice in screen.texts()[0]
    assert "[T] Type" not in screen.texts()[-1]


@pytest.mark.parametrize(("key", "wanted"), [("k", Instead.SKIP), ("K", Instead.SKIP)])
def test_ways_out(key: str, wanted: Instead) -> None:
    assert dialogue("1234", ESCAPE, key)[0].recovery_key(QUESTION) is wanted


def test_what_was_typed_is_still_there_after_escape() -> None:
    prompt, _, _ = dialogue(PASSWORD[:30], ESCAPE, ESCAPE, PASSWORD[30:], ENTER)
    assert prompt.recovery_key(QUESTION) == parse(PASSWORD)


def test_a_scanned_key_id_chooses_nothing() -> None:
    prompt, _, environment = dialogue(KEY_ID, ENTER, PASSWORD, ENTER, ESCAPE, PASSWORD, ENTER)
    assert prompt.recovery_key(replace(QUESTION, failed=3, safe_mode=True)) == parse(PASSWORD)
    assert environment.shells == 0


def test_safe_mode_is_explained_and_confirmed() -> None:
    prompt, screen, _ = dialogue(ESCAPE, "h", ESCAPE, "h", "x", ENTER)
    assert prompt.recovery_key(replace(QUESTION, safe_mode=True)) is Instead.SAFE_MODE
    told = " ".join(screen.texts()[-1].split())
    for sentence in describe_safe_mode(METADATA):
        assert sentence in told


@pytest.mark.parametrize(
    ("offered", "protectors"), [(False, (TPM, RECOVERY)), (True, (RECOVERY,))], ids=["no boot store", "no TPM"]
)
def test_no_safe_mode(offered: bool, protectors: tuple[Protector, ...]) -> None:
    prompt, screen, _ = dialogue(ESCAPE, "h", ENTER, "k")
    question = replace(QUESTION, safe_mode=offered, metadata=replace(METADATA, protectors=protectors))
    assert prompt.recovery_key(question) is Instead.SKIP
    assert not any("[H]" in text for text in screen.texts())
    assert any("No TPM unlocks this" in text for text in screen.texts()) == offered


STARTUP = Protector(guid="4381F759-C4F8-4DE0-BB61-FC33A831BDA5", kind=ProtectorKind.STARTUP_KEY, code=0x200)


def without_password(*protectors: Protector, problem: str = "", safe_mode: bool = True) -> RecoveryQuestion:
    metadata = replace(METADATA, protectors=protectors)
    return replace(QUESTION, metadata=metadata, problem=problem, safe_mode=safe_mode)


@pytest.mark.parametrize(("columns", "lines"), [(80, 25), (128, 48), (240, 67)])
def test_a_volume_without_a_recovery_password_leaves_the_other_ways_out(columns: int, lines: int) -> None:
    prompt, screen, environment = dialogue(PASSWORD, ENTER, "t", ESCAPE, "s", "h", ESCAPE, "h", ENTER)
    screen.columns, screen.lines = columns, lines
    assert prompt.recovery_key(without_password(TPM)) is Instead.SAFE_MODE
    assert environment.shells == 1
    first = " ".join(screen.texts()[0].split())
    for wanted in (
        "Locked by BitLocker", "sda3 237 GB", "DESKTOP-7Q2L C: 19/07/2024", "PF3K9Z2A", "+41 44 000 00 00",
        "No recovery password exists for this volume: there is none to look up.",
        "[K] Skip this volume", "[S] Shell", "[H] Windows in safe mode", "Going on without a key in 60 s",
    ):  # fmt: skip
        assert wanted in first, wanted
    assert codes_in(picture_of(screen.shown[0][len(CLEAR) :], columns=columns, lines=lines)) == []
    for text in screen.texts():
        assert not any(
            unwanted in text for unwanted in ("______", "Recovery password:", "[T]", "[Enter] Unlock", "1116")
        )


def test_nobody_is_at_a_volume_without_a_recovery_password() -> None:
    prompt, screen, _ = dialogue()
    assert prompt.recovery_key(without_password(TPM)) is Instead.NOBODY
    assert 59 < screen.now < 61


def test_a_volume_without_a_recovery_password_that_safe_mode_does_not_help() -> None:
    prompt, screen, _ = dialogue("h", ENTER, "k")
    assert prompt.recovery_key(without_password(STARTUP)) is Instead.SKIP
    first = " ".join(screen.texts()[0].split())
    assert f"Its startup key file would open it: {STARTUP.guid}.BEK" in first
    assert "No TPM unlocks this volume" in first
    assert "[H]" not in first


def test_why_safe_mode_could_not_be_set_is_told_where_there_is_no_password() -> None:
    prompt, screen, _ = dialogue("k")
    problem = "No boot store was found on the volume's disk."
    assert prompt.recovery_key(without_password(TPM, problem=problem)) is Instead.SKIP
    assert problem in " ".join(screen.texts()[0].split())


def test_a_shell_and_back() -> None:
    prompt, screen, environment = dialogue("1116", ESCAPE, "s", ESCAPE, PASSWORD[4:], ENTER)
    assert prompt.recovery_key(QUESTION) == parse(PASSWORD)
    assert environment.shells == 1
    assert sum(text.startswith("\033[2J") for text in screen.shown) == 2


def test_a_shell_that_cannot_be_started_and_one_that_may_not() -> None:
    prompt, screen, environment = dialogue(ESCAPE, "s", "k")
    environment.fail["shell"] = OSError("no shell")
    assert prompt.recovery_key(QUESTION) is Instead.SKIP
    assert any("No shell could be started." in text for text in screen.texts())
    prompt, screen, environment = dialogue(ESCAPE, "s", "k", shell=False)
    assert prompt.recovery_key(QUESTION) is Instead.SKIP
    assert environment.shells == 0
    assert not any("[S]" in text for text in screen.texts())


def test_a_passphrase_is_hidden_until_it_is_to_be_shown() -> None:
    prompt, screen, _ = dialogue("Bob 7", SpecialKey.TAB, "!", ENTER)
    assert prompt.passphrase(VAULTS) == "Bob 7!"
    hidden = [text for text in screen.texts() if "*****_" in text]
    shown = [text for text in screen.texts() if "Bob 7" in text]
    assert hidden and shown
    assert all("[Tab] Show" in text for text in hidden)
    assert all("[Tab] Hide" in text for text in shown)
    assert screen.texts().index(hidden[0]) < screen.texts().index(shown[0])
    assert "site.vault on the boot medium" in screen.texts()[0]


def test_a_wrong_passphrase_and_going_on_without() -> None:
    prompt, screen, _ = dialogue(ESCAPE)
    question = replace(VAULTS, failed=2, problem="That is not the passphrase of the vault.")
    assert prompt.passphrase(question) is Instead.SKIP
    assert "That is not the passphrase of the vault. 1 of 3 attempts left." in screen.texts()[0]


def test_what_is_typed_goes_nowhere_but_to_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    prompt, _, environment = dialogue(PASSWORD, ENTER)
    prompt.recovery_key(QUESTION)
    said: Sequence[str] = (*capsys.readouterr(), *environment.lines, repr(prompt))
    assert not any("111683" in text for text in said)
