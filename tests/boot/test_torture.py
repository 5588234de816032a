"""Power cuts at random moments. `make torture` sets BLUELIFT_KILLS=500; the seed is printed and can be given back."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from builder.console import SilentStep
from builder.errors import ImageError
from builder.verify.torture import TortureRequest, cut_power, direct_kernel


class PrintedStep(SilentStep):
    """Shows where a long torture is."""

    def progress(self, done: float, total: float | None = None, unit: str = "") -> None:
        """One line for every ten cuts."""
        if done % 10 == 0:
            sys.stdout.write(f"{done:g} of {total} {unit}\n")
            sys.stdout.flush()

    def note(self, text: str) -> None:
        """As it is."""
        sys.stdout.write(text + "\n")

    def warn(self, text: str) -> None:
        """As it is."""
        sys.stdout.write(text + "\n")


@pytest.mark.torture
def test_no_power_cut_loses_or_doubles_a_file(default_image: Path, ntfsck: tuple[str, ...], tmp_path: Path) -> None:
    request = TortureRequest(
        image=default_image,
        output=tmp_path / "torture",
        ntfsck=ntfsck,
        kills=int(os.environ.get("BLUELIFT_KILLS", "20")),
        seed=int(os.environ.get("BLUELIFT_SEED", "291")),
    )
    report = cut_power(request, step=PrintedStep())
    assert report.passed, (request.output / "torture.txt").read_text()
    # Cuts that all fell before the first change, or after the last, would prove nothing.
    assert {"plan", "acted"} & {cut.phase for cut in report.cuts}


def test_an_image_without_a_kernel_cannot_be_tortured(tmp_path: Path) -> None:
    path = tmp_path / "no.iso"
    path.write_bytes(bytes(100_000))
    with pytest.raises(ImageError):
        direct_kernel(path, tmp_path)
