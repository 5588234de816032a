"""Templates to bytes: jinja2 that refuses undefined names, with the newlines and the encoding that the target wants."""

from __future__ import annotations

from collections.abc import Mapping

from builder import resources


def render(template: str, values: Mapping[str, object], *, newline: str = "\n", encoding: str = "utf-8") -> bytes:
    """`template` (a path below templates/, such as "linux/grub.cfg.j2") filled with `values`.

    Every line ends with `newline`, the last one too. Raises jinja2.UndefinedError for a name that `values` lacks and
    UnicodeEncodeError for a character that `encoding` lacks: both are defects of a template, not of a profile.
    """
    import jinja2  # noqa: PLC0415 - a build that finds everything cached starts faster without it

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(resources.templates()),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # configuration files, not HTML
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    text = environment.get_template(template).render(dict(values))
    lines = text.removesuffix("\n").split("\n")
    return "".join(line + newline for line in lines).encode(encoding)
