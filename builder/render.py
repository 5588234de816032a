"""Templates to bytes: jinja2 that refuses undefined names, with the newlines and the encoding that the target wants."""

from __future__ import annotations

from collections.abc import Mapping

from builder import resources
from builder.errors import TemplateError


def render(template: str, values: Mapping[str, object], *, newline: str = "\n", encoding: str = "utf-8") -> bytes:
    """`template` (a path below templates/, such as "linux/grub.cfg.j2") filled with `values`.

    Every line ends with `newline`, the last one too. Raises TemplateError for a name that `values` lacks, for what is
    no template, and for a character that `encoding` lacks.
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
    try:
        text = environment.get_template(template).render(dict(values))
        lines = text.removesuffix("\n").split("\n")
        return "".join(line + newline for line in lines).encode(encoding)
    except jinja2.TemplateSyntaxError as error:
        raise _unusable(template, f"line {error.lineno}: {error.message}") from error
    except jinja2.TemplateError as error:
        raise _unusable(template, str(error)) from error
    except UnicodeEncodeError as error:
        raise _unusable(template, f"{error.object[error.start]!r} cannot be written in {encoding}") from error


def _unusable(template: str, why: str) -> TemplateError:
    return TemplateError(
        f"the template {template} cannot be used: {why}",
        hint="If you changed it, compare it with the one that Bluelift came with; if not, please report it.",
    )
