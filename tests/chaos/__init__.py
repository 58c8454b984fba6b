"""Random runs of a whole system under faults, held against an account that shares no code with the product.

`python -m tests.chaos --seconds 60 --seed 7` makes one run; without `--seed` the seed is drawn and printed.
"""
