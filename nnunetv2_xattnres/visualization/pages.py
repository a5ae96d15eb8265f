"""Pages from the package's templates, self-contained: one file, which needs no network."""

from typing import Any


def render_page(template: str, **content: Any) -> str:
    """The text of a page.

    Args:
        template: Path below the package, such as ``ablation/report/page.html.j2``. It can include
            ``visualization/page_style.css.j2``, the style that all pages share, after it has set ``tile_columns``, the
            pictures in a row.
        **content: What the template uses; a name that is missing is an error.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    pages = Environment(
        loader=PackageLoader("nnunetv2_xattnres", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return pages.get_template(template).render(**content)
