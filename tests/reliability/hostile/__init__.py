"""Hostile repository files: what is forged, and what must come of it.

A module for each kind of attack. Each case begins with the same sound repository, changes rows, schema, header or
journal, and computes anew what vouches for them. How they are run is test_hostile's.
"""

from __future__ import annotations

from typing import Tuple

from .base import HOST, make_base
from .case import Case
from .catalog import catalog_cases
from .contents import content_cases
from .files import file_cases
from .packs import pack_cases
from .paths import path_cases
from .schema import schema_cases
from .structure import structure_cases
from .values import value_cases

__all__ = ["CASES", "HOST", "Case", "make_base"]

#: All of them.
CASES: Tuple[Case, ...] = (
    *path_cases(),
    *structure_cases(),
    *value_cases(),
    *content_cases(),
    *pack_cases(),
    *catalog_cases(),
    *schema_cases(),
    *file_cases(),
)
