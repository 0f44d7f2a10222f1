"""`python -m optiinfra_agent` is `optiinfra-agent`. It decides nothing of its own."""

import sys

from optiinfra_agent.main import main

sys.exit(main())
