"""Route B: nvcc's PTX translated to C++ that runs on the same fibers as route A.

    module.translate(ptx_text) -> C++ text

Every PTX register is an unsigned integer of its width; instructions convert on the way in and out. What is not
translated raises :class:`Unsupported`, which names the line.
"""

from .lexer import Unsupported
from .module import translate

__all__ = ["Unsupported", "translate"]
