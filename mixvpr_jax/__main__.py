"""`python -m mixvpr_jax`: the command `mixvpr`, where no folder of scripts is on the path."""

from mixvpr_jax.cli import main

main()
