"""`python -m cakdbench`, for `accelerate launch -m cakdbench run ...`."""

from cakdbench.cli.main import main

main()
