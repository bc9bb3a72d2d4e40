"""Ask PyTorch to put large CPU tensors on huge pages, before it makes its first one.

Every step makes tensors of tens of megabytes anew. On Linux the kernel can then spend longer on
handing out pages of 4 KiB than the processor on filling them (docs/performance.md, "Memory").
PyTorch reads the variable once, so it has no effect where torch has been used before mxd is
imported; `THP_MEM_ALLOC_ENABLE=0` keeps it off.
"""

import os

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
