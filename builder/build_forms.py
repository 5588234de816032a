"""The forms for hypervisors of built images: written, described for the manifest, and found again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.build_steps import read_record, write_record
from builder.cache import Entry, sha256_of
from builder.console import Step, size_text
from builder.disk_forms import DiskForm, write_form
from builder.profile import Profile
from builder.report import DiskFile

#: The file of the cache's entry: the forms themselves are the image once more, and quickly made.
_FACTS = "disk-forms.json"


@dataclass(frozen=True, kw_only=True)
class _Forms:
    forms: tuple[DiskFile, ...]


def make_forms(
    profile: Profile, images: Mapping[str, Path], folder: Path, *, epoch: int, step: Step
) -> tuple[DiskFile, ...]:
    """Write `images` (by file name) in all forms that the profile asks for into `folder`; says what each is."""
    made = []
    for name, image in images.items():
        for form in profile.disk_forms:
            target = folder / f"{Path(name).stem}.{form}"
            write_form(DiskForm(form), image, target, epoch=epoch)
            size = target.stat().st_size
            made.append(DiskFile(file=target.name, form=form, image=name, size=size, sha256=sha256_of(target)))
            step.note(f"{target.name}: {size_text(size)}")
    return tuple(made)


def write_facts(into: Path, forms: tuple[DiskFile, ...]) -> None:
    """Put what is known of the forms into an entry of the cache."""
    write_record(into, _FACTS, _Forms(forms=forms))


def read_facts(entry: Entry) -> tuple[DiskFile, ...]:
    """What `write_facts` wrote. Raises ImageError."""
    return read_record(entry, _FACTS, _Forms).forms
