"""`bluelift usb write` on loop devices: what other programs see afterwards, and every way in which it can go wrong."""

from __future__ import annotations

import hashlib
import io
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from builder import __main__ as entry
from builder import cli
from builder.commands import usb as usb_command
from builder.console import PlainConsole, SilentStep, Step
from builder.disk_forms import DiskForm, write_form
from builder.errors import OutputError
from builder.usb.data_volume import FEWEST_SECTORS, data_volume
from builder.usb.device import opened
from builder.usb.disks import LinuxRoot, list_disks
from tests.integration.test_media_fat import check, copied_out
from tests.unit.stick_maker import FILES, FIRST_LBA, MIB, SIZE, make_image, volume

STICK = 200 * MIB
PROGRAMS = ("losetup", "sgdisk", "fsck.vfat", "mcopy", "mkfs.ext4", "mount", "truncate")


def lacking() -> str:
    path = "/usr/sbin:/sbin:" + os.environ.get("PATH", "")
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if missing:
        return f"not on this machine: {', '.join(missing)}"
    if os.geteuid() != 0 or not Path("/dev/loop-control").exists():
        return "only root can make loop devices, where /dev/loop-control is"
    return ""


pytestmark = pytest.mark.skipif(bool(lacking()), reason=lacking())


def run(*argv: object) -> str:
    done = subprocess.run(
        [str(word) for word in argv],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "MTOOLS_SKIP_CHECK": "1", "LC_ALL": "C.UTF-8"},
    )
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


@dataclass(frozen=True)
class Stick:
    """A loop device: its name, and the file behind it."""

    name: str
    file: Path

    @property
    def node(self) -> Path:
        return Path("/dev") / self.name

    def partition(self, number: int, into: Path) -> Path:
        """A partition as sgdisk sees it, as a file of its own."""
        said = run("sgdisk", "-i", number, self.file)
        first, last = (
            int(next(line for line in said.splitlines() if line.startswith(f"{what} sector")).split()[2])
            for what in ("First", "Last")
        )
        run(
            "dd", f"if={self.file}", f"of={into}", "bs=512", f"skip={first}", f"count={last - first + 1}", "conv=sparse"
        )
        return into

    @property
    def looks_empty(self) -> bool:
        """Whether nothing starts from it and no table is found on it."""
        content = self.file.read_bytes()
        return content[:MIB].count(0) == MIB and b"EFI PART" not in content


@contextmanager
def loop(file: Path, size: int) -> Iterator[Stick]:
    if not file.exists():
        file.touch()
        os.truncate(file, size)
    name = Path(run("losetup", "--find", "--show", file)).name
    try:
        yield Stick(name, file)
    finally:
        run("losetup", "--detach", f"/dev/{name}")


@pytest.fixture
def stick(tmp_path: Path) -> Iterator[Stick]:
    """A stick of 200 MiB that was used for something else before."""
    file = tmp_path / "stick.img"
    file.write_bytes(b"old data " * 1_000_000)
    os.truncate(file, STICK)
    with loop(file, STICK) as made:
        yield made


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_image(tmp_path_factory.mktemp("dist") / "image.iso")
    digest = hashlib.sha256(made.read_bytes()).hexdigest()
    (made.parent / "SHA256SUMS").write_text(f"{digest}  image.iso\n{'0' * 64}  manifest.json\n")
    return made


def write(image: Path, stick: Stick, *options: str) -> int:
    return entry.main(["usb", "write", str(image), stick.name, "--yes", "--force-device", stick.name, *options])


class Saboteur(PlainConsole):
    """A console that does something the moment a step called `title` shows progress for the `count`-th time."""

    def __init__(self, title: str, action: Callable[[], None], count: int = 1) -> None:
        super().__init__(out=sys.stdout, err=sys.stderr)
        self.title, self.action, self.count = title, action, count

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        saboteur = self

        class Sabotaged(SilentStep):
            def progress(self, done: float, total: float | None = None, unit: str = "") -> None:
                saboteur.count -= title.startswith(saboteur.title)
                if saboteur.count == 0:
                    saboteur.action()

        yield Sabotaged()


def test_what_other_programs_see(image: Path, stick: Stick, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert write(image, stick) == 0
    shown = capsys.readouterr()
    assert "sha256" in shown.err and "as SHA256SUMS says" in shown.err
    assert f"/dev/{stick.name} is image.iso" in shown.out
    assert "No problems found" in run("sgdisk", "-v", stick.file)
    content, original = stick.file.read_bytes(), image.read_bytes()
    assert content[:440] == original[:440]
    assert content[FIRST_LBA * 512 :][: len(volume())] == volume()
    partition = stick.partition(1, tmp_path / "one.fat")
    check(partition)
    assert copied_out(partition, tmp_path / "out") == {file.path: file.data for file in FILES}


def test_a_second_partition_in_the_rest(image: Path, stick: Stick, tmp_path: Path) -> None:
    assert write(image, stick, "--data") == 0
    assert "No problems found" in run("sgdisk", "-v", stick.file)
    assert "'BLUELIFT-DATA'" in run("sgdisk", "-i", 2, stick.file)
    partition = stick.partition(2, tmp_path / "two.fat")
    assert partition.stat().st_size > STICK - SIZE - 4 * MIB
    check(partition)
    listed = run("mdir", "-b", "-i", partition, "::/Bluelift/")
    assert [line.rpartition("/")[2] or line.split("/")[-2] for line in listed.splitlines()] == [
        "config", "drivers", "receipts", "vault",
    ]  # fmt: skip
    key = tmp_path / "key.json"
    key.write_bytes(os.urandom(100_000))
    run("mcopy", "-i", partition, key, "::/Bluelift/vault/key.json")
    check(partition)
    assert copied_out(partition, tmp_path / "out") == {"Bluelift/vault/key.json": key.read_bytes()}
    check(stick.partition(1, tmp_path / "one.fat"))


@pytest.mark.parametrize("sectors", [FEWEST_SECTORS, 532_480, 532_481, 9 << 21, 20 << 21, 40 << 21])
def test_data_volumes_of_every_cluster_size(tmp_path: Path, sectors: int) -> None:
    made = data_volume(sectors=sectors, first_lba=2048, serial=0x291, epoch=1_721_365_740)
    with (tmp_path / "data.fat").open("wb") as stream:
        stream.truncate(sectors * 512)
        for patch in made.patches:
            assert patch.offset + len(patch.data) <= made.length
            stream.seek(patch.offset)
            stream.write(patch.data)
    check(tmp_path / "data.fat")
    assert "BLUE-DATA" in run("mdir", "-i", tmp_path / "data.fat", "::/")


def test_no_room_for_a_second_partition(image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with loop(tmp_path / "small.img", SIZE + 20 * MIB) as stick:
        assert write(image, stick, "--data") == 7
        assert "there is no room for a second partition" in capsys.readouterr().err
        assert stick.looks_empty
        assert write(image, stick) == 0


def test_a_second_run_overwrites_the_first(image: Path, stick: Stick) -> None:
    assert write(image, stick, "--data") == 0
    first = run("sgdisk", "-p", stick.file)
    assert write(image, stick) == 0
    second = run("sgdisk", "-p", stick.file)
    assert "BLUELIFT-DATA" in first and "BLUELIFT-DATA" not in second
    assert "No problems found" in run("sgdisk", "-v", stick.file)
    # Two sticks must not say that they are one disk.
    assert len({line for line in (first + "\n" + second).splitlines() if "identifier" in line}) == 2


@pytest.mark.parametrize("size", [SIZE, SIZE + 512, SIZE + 4 * MIB])
def test_sticks_that_are_just_large_enough(image: Path, tmp_path: Path, size: int) -> None:
    with loop(tmp_path / "exact.img", size) as stick:
        assert write(image, stick) == 0
        assert "No problems found" in run("sgdisk", "-v", stick.file)
        check(stick.partition(1, tmp_path / "one.fat"))


def test_a_stick_that_is_too_small(image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with loop(tmp_path / "small.img", SIZE - 512) as stick:
        assert write(image, stick) == 7
        assert "it is too small: it has 39,845,376 bytes, the image needs 39,845,888" in capsys.readouterr().err
        assert stick.looks_empty


def test_a_disk_that_is_not_removable(image: Path, stick: Stick, capsys: pytest.CaptureFixture[str]) -> None:
    before = stick.file.read_bytes()
    assert entry.main(["usb", "write", str(image), stick.name, "--yes"]) == 7
    shown = capsys.readouterr().err
    assert "does not say that it is removable" in shown
    assert f"--force-device {stick.name}" in shown
    assert entry.main(["usb", "write", str(image), stick.name, "--yes", "--force-device", "sda"]) == 2
    assert entry.main(["usb", "write", str(image), "sdzz", "--yes", "--force-device", "sdzz"]) == 2
    assert stick.file.read_bytes() == before


def test_a_mounted_stick_is_left_alone(
    image: Path, stick: Stick, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("mkfs.ext4", "-q", "-F", stick.node)
    (tmp_path / "mnt").mkdir()
    run("mount", stick.node, tmp_path / "mnt")
    try:
        (tmp_path / "mnt" / "mine").write_text("precious")
        assert write(image, stick) == 7
        assert f"{stick.name} is mounted at {tmp_path / 'mnt'}" in capsys.readouterr().err
        assert (tmp_path / "mnt" / "mine").read_text() == "precious"
    finally:
        run("umount", tmp_path / "mnt")
    run("fsck.ext4", "-n", "-f", stick.node)


def test_a_stick_that_another_program_has_claimed(
    image: Path, stick: Stick, capsys: pytest.CaptureFixture[str]
) -> None:
    before = stick.file.read_bytes()
    claim = os.open(stick.node, os.O_RDONLY | os.O_EXCL)
    try:
        assert write(image, stick) == 7
    finally:
        os.close(claim)
    assert "is in use" in capsys.readouterr().err
    assert stick.file.read_bytes() == before


def test_a_stick_that_was_exchanged_meanwhile(stick: Stick) -> None:
    seen = next(disk for disk in list_disks(LinuxRoot()) if disk.name == stick.name)
    for other in (replace(seen, size=seen.size + 512), replace(seen, number=(7, 255))):
        with pytest.raises(OutputError, match="is not the disk any more"), opened(other):
            pass
    with opened(seen) as raw:
        assert raw.read(0, 512) == stick.file.read_bytes()[:512]


def test_a_stick_that_was_exchanged_while_the_question_stood(
    image: Path, stick: Stick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another one of the same size under the same name: it was not shown, and nothing is written to it."""
    other = tmp_path / "other.img"
    other.write_bytes(b"precious " * 1_000_000)
    os.truncate(other, STICK)

    def exchange(_question: str) -> str:
        run("losetup", "--detach", stick.node)
        run("losetup", stick.node, other)
        return stick.name

    monkeypatch.setattr(usb_command, "ask", exchange)
    before = other.read_bytes()
    assert entry.main(["usb", "write", str(image), stick.name, "--force-device", stick.name]) == 7
    assert "is not the disk any more that was looked at" in capsys.readouterr().err
    assert other.read_bytes() == before


def test_an_image_that_would_be_written_over_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stick: Stick
) -> None:
    image = make_image(tmp_path / "image.iso")
    before = image.read_bytes()
    with loop(image, SIZE) as itself:
        assert write(image, itself) == 7
        assert "the image itself is behind it" in capsys.readouterr().err
        assert write(itself.node, stick) == 8
        assert "is no file" in capsys.readouterr().err
    assert image.read_bytes() == before


def test_a_stick_that_is_pulled_out_in_mid_write(
    image: Path, stick: Stick, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pull() -> None:
        os.truncate(stick.file, 8 * MIB)
        run("losetup", "--set-capacity", stick.node)

    monkeypatch.setattr(cli, "console_for", lambda _: Saboteur("write", pull, count=4))
    assert write(image, stick) == 7
    shown = capsys.readouterr().err
    assert "could not be written to at byte" in shown
    assert "Was it unplugged" in shown
    assert "is not bootable, and what was on it is lost" in shown
    assert stick.looks_empty


def test_a_stick_that_breaks_in_mid_write(image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file behind it lies where there is room for 16 MB only: the device answers with errors."""
    (tmp_path / "room").mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", tmp_path / "room")
    try:
        with loop(tmp_path / "room" / "stick.img", STICK) as stick:
            assert write(image, stick) == 7
            shown = capsys.readouterr().err
            assert "could not be written to at byte" in shown
            assert "is not bootable" in shown
            with stick.file.open("rb") as stream:
                assert stream.read(MIB).count(0) == MIB
    finally:
        run("umount", tmp_path / "room")


def test_a_stick_that_gives_back_something_else(
    image: Path, stick: Stick, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def flip() -> None:
        with stick.file.open("rb+") as stream:
            stream.seek(30 * MIB + 5)
            stream.write(b"\x01")

    monkeypatch.setattr(cli, "console_for", lambda _: Saboteur("read back", flip))
    assert write(image, stick) == 7
    shown = capsys.readouterr().err
    assert f"between byte {29 * MIB} and {33 * MIB}" in shown
    assert "is not bootable" in shown
    assert stick.file.read_bytes()[:MIB].count(0) == MIB


def test_ctrl_c_in_mid_write(
    image: Path, stick: Stick, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(cli, "console_for", lambda _: Saboteur("write", interrupt, count=3))
        assert write(image, stick) == 130
    assert f"/dev/{stick.name} is not bootable, and what was on it is lost. Write it again." in capsys.readouterr().err
    assert stick.looks_empty
    assert write(image, stick) == 0
    assert "No problems found" in run("sgdisk", "-v", stick.file)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.write_bytes(bytes(32769) + b"CD001" + bytes(100_000)), "is a plain ISO"),
        (lambda path: path.write_bytes(b"notes"), "is no image"),
        (lambda path: path.write_bytes(make_image(path).read_bytes()[: 20 * MIB]), "is cut off"),
        (lambda path: write_form(DiskForm.VHDX, make_image(path.with_suffix(".x")), path, epoch=0), "is a VHDX disk"),
    ],
)
def test_what_is_no_image_for_a_stick(
    stick: Stick, tmp_path: Path, make: Callable[[Path], object], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "image.iso"
    make(path)
    before = stick.file.read_bytes()
    assert write(path, stick) == 8
    assert said in capsys.readouterr().err
    assert stick.file.read_bytes() == before


@pytest.mark.parametrize("listed", ["  image.iso", " *Bluelift Berlin.iso"])
def test_a_damaged_image_is_not_written(
    image: Path, stick: Stick, tmp_path: Path, listed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = listed[2:]
    content = bytearray(image.read_bytes())
    content[20 * MIB] ^= 1
    (tmp_path / name).write_bytes(content)
    sums = (image.parent / "SHA256SUMS").read_text().replace("  image.iso", listed)
    (tmp_path / "SHA256SUMS").write_text(sums)
    before = stick.file.read_bytes()
    assert write(tmp_path / name, stick) == 8
    assert "is damaged: its sha256 is" in capsys.readouterr().err
    assert stick.file.read_bytes() == before


def test_nobody_can_be_asked(
    image: Path, stick: Stick, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    before = stick.file.read_bytes()
    assert entry.main(["usb", "write", str(image), stick.name, "--force-device", stick.name]) == 2
    shown = capsys.readouterr().err
    assert f"All of {stick.name} will be lost: {stick.file}, 210 MB, serial number -, loop" in shown
    assert "nobody can be asked here" in shown
    assert stick.file.read_bytes() == before


@pytest.mark.parametrize(("answer", "code"), [("yes", 2), ("", 2), ("{name}", 0)])
def test_the_name_must_be_typed(image: Path, stick: Stick, answer: str, code: int) -> None:
    ours, theirs = pty.openpty()
    os.write(ours, answer.format(name=stick.name).encode() + b"\n")
    command = [sys.executable, "-m", "builder", "usb", "write", image, stick.name, "--force-device", stick.name]
    before = stick.file.read_bytes()
    try:
        done = subprocess.run(
            list(map(str, command)),
            stdin=theirs,
            stderr=theirs,
            stdout=subprocess.PIPE,
            timeout=120,
            cwd=Path(cli.__file__).parent.parent,
        )
        assert done.returncode == code, os.read(ours, 10_000)
        assert f"Type {stick.name} to overwrite it" in os.read(ours, 10_000).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert (stick.file.read_bytes() == before) == (code != 0)


def test_the_list(stick: Stick, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["usb", "list", "--plain"]) == 0
    shown = capsys.readouterr()
    (line,) = (line for line in shown.out.splitlines() if line.startswith(f"{stick.name} "))
    assert "210 MB" in line and "does not say that it is removable" in line
    # Loop devices are none; this machine may have a stick of its own.
    assert ("plug one in" in shown.err) == ("can be written to" not in shown.out)
