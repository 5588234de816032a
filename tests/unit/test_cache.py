"""The cache: commits are whole, what is read is checked, and a miss says why."""

from __future__ import annotations

import errno
import fcntl
import json
import threading
import time
from pathlib import Path

import pytest

from builder.cache import Cache, Entry, Missed, default_folder, storage_errors
from builder.errors import OutputError, UsageError

ID = "ab" * 32
RECIPE = {"epoch": "1", "packages": "x"}


def silent(_: str) -> None:
    pass


def store(cache: Cache, content: bytes = b"content", *, content_id: str = ID, step: str = "iso") -> None:
    with (
        cache.locked(silent),
        cache.storing(step=step, content_id=content_id, recipe=RECIPE) as into,
    ):
        (into / "file").write_bytes(content)


def find(cache: Cache, recipe: dict[str, str] | None = None, content_id: str = ID) -> Entry | Missed:
    return cache.find(step="iso", content_id=content_id, recipe=recipe or RECIPE)


def test_what_was_stored_is_found(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    store(cache)
    entry = find(cache)
    assert isinstance(entry, Entry)
    assert entry.path("file").read_bytes() == b"content"
    assert (entry.file("file").size, len(entry.file("file").sha256)) == (7, 64)
    with pytest.raises(KeyError):
        entry.file("other")


def test_finding_writes_nothing(tmp_path: Path) -> None:
    assert isinstance(find(Cache(tmp_path / "cache")), Missed)
    assert not (tmp_path / "cache").exists()


def test_a_miss_says_why(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    assert find(cache) == Missed(reason="never made with this cache")
    store(cache)
    other = {"epoch": "2", "packages": "x", "profile": "y"}
    assert find(cache, other, "cd" * 32) == Missed(reason="changed: epoch, profile")
    cache.clean(everything=False)
    assert find(cache) == Missed(reason="never made with this cache")


@pytest.mark.parametrize("damage", [b"", b"contenT", b"content and more"])
def test_damage_is_noticed_and_repaired(tmp_path: Path, damage: bytes) -> None:
    cache = Cache(tmp_path / "cache")
    store(cache)
    file = next((tmp_path / "cache" / "objects" / ID).glob("file"))
    file.write_bytes(damage)
    assert find(cache) == Missed(reason="file in the cache is damaged or gone")
    store(cache)
    assert isinstance(find(cache), Entry)


@pytest.mark.parametrize("record", [b"", b"{", b"[]", b'{"step": 3}', b"\xff"])
def test_a_damaged_record_is_a_miss(tmp_path: Path, record: bytes) -> None:
    cache = Cache(tmp_path / "cache")
    store(cache)
    (tmp_path / "cache" / "objects" / ID / "record.json").write_bytes(record)
    assert find(cache) == Missed(reason="its record in the cache cannot be read")


def test_a_step_that_fails_leaves_nothing(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")

    def fail() -> None:
        with cache.locked(silent), cache.storing(step="iso", content_id=ID, recipe=RECIPE) as into:
            (into / "file").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list((tmp_path / "cache" / "objects").iterdir()) == []
    assert isinstance(find(cache), Missed)


def test_what_a_killed_build_left_is_swept(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    store(cache)
    for name in ("objects/staged-killed", "work/root-killed"):
        (tmp_path / "cache" / name).mkdir(parents=True)
        (tmp_path / "cache" / name / "half").write_bytes(b"half")
    with cache.locked(silent):
        assert not list((tmp_path / "cache").rglob("half"))
        assert isinstance(find(cache), Entry)


def test_only_the_newest_entries_of_a_step_are_kept(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    store(cache, step="base-initramfs", content_id="ff" * 32)
    for number in range(7):
        store(cache, content_id=f"{number:064d}")
    entries = {path.name for path in (tmp_path / "cache" / "objects").iterdir()}
    assert "ff" * 32 in entries
    assert f"{6:064d}" in entries
    assert len(entries) == 5


def test_waiting_for_another_build_is_said(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    store(cache)
    said: list[str] = []
    with (tmp_path / "cache" / "lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        threading.Timer(0.2, lambda: fcntl.flock(other, fcntl.LOCK_UN)).start()
        started = time.monotonic()
        with cache.locked(said.append):
            assert time.monotonic() - started > 0.1
    assert len(said) == 1
    assert "waiting" in said[0]


def test_the_folder_is_tagged_for_backup_programs(tmp_path: Path) -> None:
    with Cache(tmp_path / "cache").locked(silent):
        assert (
            (tmp_path / "cache" / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55")
        )


def test_a_folder_for_tools_alone_is_tagged_too(tmp_path: Path) -> None:
    """What is not tagged first would be taken for somebody else's folder by the next build."""
    Cache(tmp_path / "cache").area("tools")
    store(Cache(tmp_path / "cache"))


def test_somebody_elses_folder_is_not_used_and_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="not a cache of Bluelift's"), Cache(tmp_path).locked(silent):
        pass
    with pytest.raises(UsageError, match="does not carry Bluelift's tag"):
        Cache(tmp_path).clean(everything=True)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_clean(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    assert cache.clean(everything=True) == 0
    store(cache)
    (cache.area("pool") / "a.deb").write_bytes(b"x" * 1000)
    cache.clean(everything=False)
    assert (tmp_path / "cache" / "pool" / "a.deb").exists()
    assert isinstance(find(cache), Missed)
    assert cache.clean(everything=True) >= 1000
    assert not (tmp_path / "cache").exists()


def test_notes(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    assert cache.read_note("x.json") is None
    cache.write_note("x.json", b"1")
    cache.write_note("x.json", b"2")
    assert cache.read_note("x.json") == b"2"
    assert [path.name for path in (tmp_path / "resolutions").iterdir()] == ["x.json"]


def test_a_cache_that_is_a_file_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match="cannot be used"), Cache(folder).locked(silent):
            pass


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLUELIFT_CACHE", "/a")
    assert default_folder() == Path("/a")
    monkeypatch.delenv("BLUELIFT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert default_folder() == Path("/b/bluelift")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/c")
    assert default_folder() == Path("/c/.cache/bluelift")


def test_a_full_disk_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No space left") as caught, storage_errors(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "x"))
    assert caught.value.exit_code == 7
    with pytest.raises(UsageError), storage_errors(tmp_path):
        raise UsageError("passes through")


def test_records_hold_no_times_and_no_paths(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    store(cache)
    record = json.loads((tmp_path / "cache" / "objects" / ID / "record.json").read_text())
    assert record == {
        "step": "iso",
        "id": ID,
        "files": [{"name": "file", "size": 7, "sha256": record["files"][0]["sha256"]}],
    }
