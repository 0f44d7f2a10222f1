"""``python -m optiinfra_sim``: the same as the console script."""

from optiinfra_sim.main import main

main()
