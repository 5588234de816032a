"""The forms for hypervisors of built images: written, described for the manifest, and found again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from builder.cache import Entry
from builder.console import Step, size_text
from builder.disk_forms import DiskForm, write_form
from builder.errors import ImageError
from builder.outputs import sha256_of
from builder.profile import Profile
from builder.report import DiskFile, json_bytes
from payload.formats.records import RecordError, from_json, to_json

#: The file of the cache's entry: the forms themselves are the image once more, and quickly made.
FACTS = "disk-forms.json"


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


def write_facts(into: Path, forms: Iterable[DiskFile]) -> None:
    """Put what is known of the forms into an entry of the cache."""
    (into / FACTS).write_bytes(json_bytes(to_json(tuple(forms))))


def read_facts(entry: Entry) -> tuple[DiskFile, ...]:
    """What `write_facts` wrote. Raises ImageError."""
    try:
        return tuple(from_json(DiskFile, item) for item in json.loads(entry.path(FACTS).read_bytes()))
    except (ValueError, RecordError, TypeError) as error:
        raise ImageError(f"the cache's {FACTS} cannot be read: {error}", hint="bluelift clean") from error
