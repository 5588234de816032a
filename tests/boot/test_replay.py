"""Power cuts between the writes of a recorded repair: of each kind one; `make torture` has all (BLUELIFT_REPLAYS=0)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from builder.verify.replay import replay_cuts
from builder.verify.torture import TortureRequest
from tests.boot.test_torture import PrintedStep


@pytest.mark.torture
def test_no_write_of_a_repair_may_not_be_the_last(default_image: Path, ntfsck: tuple[str, ...], tmp_path: Path) -> None:
    request = TortureRequest(
        image=default_image,
        output=tmp_path,
        ntfsck=ntfsck,
        kills=int(os.environ.get("BLUELIFT_REPLAYS", "30")),
        seed=int(os.environ.get("BLUELIFT_SEED", "291")),
    )
    replayed = replay_cuts(request, step=PrintedStep())
    assert [cut for cut in replayed if not cut.passed] == []
    # Without a state that had to be repaired no write was ever cut off from what belongs to it.
    assert any(cut.needed_repair for cut in replayed)
