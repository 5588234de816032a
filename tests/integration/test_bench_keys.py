"""The benchmark of vaults, with few keys: that it measures, not how fast."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builder import bench_keys
from builder.errors import UsageError


def test_it_imports_finds_and_leaves_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_keys.main([str(tmp_path / "out"), "700"]) == 0
    report = json.loads((tmp_path / "out" / "keys.json").read_text())
    assert report["keys"] == 700
    assert report["size"] == 128 + 700 * 64
    assert report["slowest_lookup"] > 0
    assert "A vault of 700 keys" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["keys.json"]


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["a", "1", "2"]])
def test_what_it_is_not_for(arguments: list[str]) -> None:
    with pytest.raises(UsageError):
        bench_keys.main(arguments)
