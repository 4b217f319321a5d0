"""Negative prompts: the prompt of a picture that does not show the class (arXiv 2410.07854).

The paper's own is "a photo of no {class}"; the rules for other templates are those of a public re-implementation.
"""

from __future__ import annotations

from collections.abc import Sequence

NO_TEMPLATE = "a photo of no {}."
RULES = ((" of a ", " of no "), (" of ", " of no "))


def negative_template(template: str) -> str:
    """The first " of a " becomes " of no "; without one, the first " of " does; without either, "a photo of no "
    is put in front.

    Rules act on the template, before the class name is in it: a class named "jack of a trade" keeps its name.
    """
    for found, put in RULES:
        if found in template:
            return template.replace(found, put, 1)
    return "a photo of no " + template


def negative_templates(templates: Sequence[str]) -> tuple[str, ...]:
    """:func:`negative_template` of each of ``templates``."""
    return tuple(negative_template(template) for template in templates)
