"""nova-compute, as its console script starts it, with the lab's drivers among Nova's own.

Nova loads a compute driver only from below ``nova.virt``. Registering our modules under such names
is enough; nothing has to be copied into Nova's package.
"""

import sys

# First of all: like nova-compute itself this chooses how Nova runs its threads.
from nova.cmd import compute

from tests.lab import downloading, driver

sys.modules["nova.virt.bus_cache_lab"] = driver
sys.modules["nova.virt.bus_cache_lab_downloading"] = downloading

if __name__ == "__main__":
    compute.main()
