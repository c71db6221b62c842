"""`python -m cakdbench`, for `accelerate launch -m cakdbench run ...`."""

from cakdbench.cli import main

main()
